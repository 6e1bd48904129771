package cli

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"

	"istio.io/api/annotation"
	networking "istio.io/client-go/pkg/apis/networking/v1"
	admission "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/slipway-mesh/slipway/internal/discovery/resolve"
	"github.com/slipway-mesh/slipway/internal/discovery/source"
)

// workloads are objects that no proxy is told of, and that decide whether there is a proxy, and what it can do.
type workloads struct {
	namespaces  map[string]*corev1.Namespace
	pods        []*corev1.Pod
	services    []*corev1.Service
	gateways    []*networking.Gateway
	deployments []*appsv1.Deployment
	hooks       []admission.MutatingWebhookConfiguration
	// secrets are those that Gateways name, by NAMESPACE/NAME; nil is one that is not there, and one that is missing is not known.
	secrets  map[string]*corev1.Secret
	problems []resolve.Problem
}

func newWorkloads(changes []source.Change) *workloads {
	w := &workloads{namespaces: map[string]*corev1.Namespace{}, secrets: map[string]*corev1.Secret{}}
	latest := map[string]source.Change{} // a file goes before the cluster
	for _, c := range changes {
		latest[c.Kind+"/"+c.Namespace+"/"+c.Name] = c
	}
	for _, key := range slices.Sorted(maps.Keys(latest)) {
		switch o := latest[key].Object.(type) {
		case *corev1.Namespace:
			w.namespaces[o.Name] = o
		case *corev1.Pod:
			w.pods = append(w.pods, o)
		case *corev1.Service:
			w.services = append(w.services, o)
		case *networking.Gateway:
			w.gateways = append(w.gateways, o)
		}
	}
	return w
}

// fromCluster reads the kinds that discovery does not.
func (w *workloads) fromCluster(ctx context.Context, c client.Client) error {
	deployments, hooks := &appsv1.DeploymentList{}, &admission.MutatingWebhookConfigurationList{}
	for _, list := range []client.ObjectList{deployments, hooks} {
		if err := c.List(ctx, list); err != nil {
			return err
		}
	}
	for i := range deployments.Items {
		w.deployments = append(w.deployments, &deployments.Items[i])
	}
	w.hooks = hooks.Items
	for _, name := range w.credentials() {
		namespace, secretName, _ := strings.Cut(name, "/")
		secret := &corev1.Secret{}
		err := c.Get(ctx, client.ObjectKey{Namespace: namespace, Name: secretName}, secret)
		switch {
		case err == nil:
			w.secrets[name] = secret
		case client.IgnoreNotFound(err) == nil:
			w.secrets[name] = nil
		} // who may not read it does not know
	}
	return nil
}

// fromFile reads the same kinds from YAML documents.
func (w *workloads) fromFile(stream []byte, namespace string) error {
	documents := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(stream)))
	for {
		text, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		var head metav1.TypeMeta
		if err := yaml.Unmarshal(text, &head); err != nil {
			return err
		}
		switch head.Kind {
		case "Deployment":
			d := &appsv1.Deployment{}
			if err := yaml.Unmarshal(text, d); err != nil {
				return fmt.Errorf("%s: %w", head.Kind, err)
			}
			if d.Namespace == "" {
				d.Namespace = namespace
			}
			w.deployments = append(w.deployments, d)
		case "Secret":
			secret := &corev1.Secret{}
			if err := yaml.Unmarshal(text, secret); err != nil {
				return fmt.Errorf("%s: %w", head.Kind, err)
			}
			if secret.Namespace == "" {
				secret.Namespace = namespace
			}
			for key, value := range secret.StringData {
				if secret.Data == nil {
					secret.Data = map[string][]byte{}
				}
				secret.Data[key] = []byte(value)
			}
			w.secrets[secret.Namespace+"/"+secret.Name] = secret
		case "MutatingWebhookConfiguration":
			var hook admission.MutatingWebhookConfiguration
			if err := yaml.Unmarshal(text, &hook); err != nil {
				return fmt.Errorf("%s: %w", head.Kind, err)
			}
			w.hooks = append(w.hooks, hook)
		}
	}
}

// analyze says what is wrong.
func (w *workloads) analyze() []resolve.Problem {
	for _, name := range slices.Sorted(maps.Keys(w.namespaces)) {
		w.namespace(w.namespaces[name])
	}
	for _, pod := range w.pods {
		w.pod(pod)
	}
	for _, deployment := range w.deployments {
		w.deployment(deployment)
	}
	for _, gateway := range w.gateways {
		w.gateway(gateway)
		w.annotated("Gateway", annotation.Gateway, gateway)
	}
	for _, service := range w.services {
		w.annotated("Service", annotation.Service, service)
	}
	for i := range w.hooks {
		w.hook(&w.hooks[i])
	}
	return w.problems
}

func (w *workloads) add(kind string, object metav1.Object, field, reason, format string, args ...any) {
	w.problems = append(w.problems, resolve.Problem{Kind: kind, Namespace: object.GetNamespace(), Name: object.GetName(), Field: field, Reason: reason, Message: fmt.Sprintf(format, args...)})
}

// notInjected are namespaces that are to have no sidecars.
var notInjected = []string{"kube-system", "kube-public", "kube-node-lease", "local-path-storage", "istio-system", "istio-operator"}

const injectionLabel, revisionLabel = "istio-injection", "istio.io/rev"

// injected says whether a namespace's pods get sidecars.
func (w *workloads) injected(name string) bool {
	namespace := w.namespaces[name]
	if namespace == nil {
		return false
	}
	injection, labelled := namespace.Labels[injectionLabel]
	return injection == "enabled" || !labelled && namespace.Labels[revisionLabel] != ""
}

func (w *workloads) namespace(namespace *corev1.Namespace) {
	_, injection := namespace.Labels[injectionLabel]
	_, revision := namespace.Labels[revisionLabel]
	switch {
	case injection && revision:
		w.add("Namespace", namespace, "metadata.labels", resolve.ReasonLabels, "has both %s and %s, of which the first counts; remove one", injectionLabel, revisionLabel)
	case !injection && !revision && !slices.Contains(notInjected, namespace.Name):
		w.add("Namespace", namespace, "metadata.labels", resolve.ReasonNamespace, "its pods get no sidecars; label it %s=enabled, or =disabled if that is meant", injectionLabel)
	}
	w.annotated("Namespace", annotation.Namespace, namespace)
}

const proxyContainer, proxyUser = "istio-proxy", 1337

func (w *workloads) pod(pod *corev1.Pod) {
	proxy := func(c corev1.Container) bool { return c.Name == proxyContainer }
	has := slices.ContainsFunc(pod.Spec.Containers, proxy) || slices.ContainsFunc(pod.Spec.InitContainers, proxy)
	wanted := w.injected(pod.Namespace) && !pod.Spec.HostNetwork && pod.Labels["sidecar.istio.io/inject"] != "false" && pod.Annotations["sidecar.istio.io/inject"] != "false"
	if wanted && !has && pod.Status.Phase == corev1.PodRunning {
		w.add("Pod", pod, "spec.containers", resolve.ReasonProxy, "has no sidecar though its namespace has them; it was made before, or while no control plane answered: restart its workload")
	}
	if len(pod.OwnerReferences) == 0 { // what a workload makes is told of at the workload
		w.template("Pod", pod, "spec", pod.Spec)
	}
	w.annotated("Pod", annotation.Pod, pod)
}

func (w *workloads) deployment(d *appsv1.Deployment) {
	template := d.Spec.Template
	w.template("Deployment", d, "spec.template.spec", template.Spec)
	injection := template.Labels["sidecar.istio.io/inject"]
	for i, c := range template.Spec.Containers {
		if c.Image == "auto" && injection != "true" && (!w.injected(d.Namespace) || injection == "false") && template.Labels[revisionLabel] == "" {
			w.add("Deployment", d, fmt.Sprintf("spec.template.spec.containers[%d].image", i), resolve.ReasonImage, "only injection fills in the image auto, and there is none here; label the pods sidecar.istio.io/inject=true")
		}
	}
	numbers := map[string]corev1.ServicePort{} // by the port of the pod
	for _, service := range w.services {
		if service.Namespace != d.Namespace || len(service.Spec.Selector) == 0 || !labels.SelectorFromSet(service.Spec.Selector).Matches(labels.Set(template.Labels)) {
			continue
		}
		for _, port := range service.Spec.Ports {
			target := port.TargetPort.String()
			if target == "0" || target == "" {
				target = fmt.Sprint(port.Port)
			}
			if other, there := numbers[target]; there && other.Port != port.Port {
				w.add("Deployment", d, "spec.template.metadata.labels", resolve.ReasonDeploymentPorts, "two Services lead to its port %s, by port %d and by port %d; which one is called cannot be told there", target, other.Port, port.Port)
			}
			numbers[target] = port
		}
	}
}

// template looks at what a pod is to be.
func (w *workloads) template(kind string, object metav1.Object, field string, spec corev1.PodSpec) {
	user := func(at *int64, where string) {
		if at != nil && *at == proxyUser {
			w.add(kind, object, where, resolve.ReasonUser, "%d is the sidecar's user, whose connections are not captured; choose another", proxyUser)
		}
	}
	if spec.SecurityContext != nil {
		user(spec.SecurityContext.RunAsUser, field+".securityContext.runAsUser")
	}
	for i, c := range spec.Containers {
		if c.Name != proxyContainer && c.SecurityContext != nil {
			user(c.SecurityContext.RunAsUser, fmt.Sprintf("%s.containers[%d].securityContext.runAsUser", field, i))
		}
	}
}

// credentials are the Secrets that Gateways name, as NAMESPACE/NAME: they are in the namespaces of the gateways' pods.
func (w *workloads) credentials() []string {
	var out []string
	for _, gateway := range w.gateways {
		for _, server := range gateway.Spec.Servers {
			for _, name := range append([]string{server.GetTls().GetCredentialName()}, server.GetTls().GetCredentialNames()...) {
				for _, namespace := range w.homes(gateway) {
					if name != "" && !strings.Contains(name, "/") {
						out = append(out, namespace+"/"+name)
					}
				}
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// homes are the namespaces of the pods that a Gateway selects.
func (w *workloads) homes(gateway *networking.Gateway) []string {
	var out []string
	for _, pod := range w.pods {
		if len(gateway.Spec.Selector) > 0 && labels.SelectorFromSet(gateway.Spec.Selector).Matches(labels.Set(pod.Labels)) && !slices.Contains(out, pod.Namespace) {
			out = append(out, pod.Namespace)
		}
	}
	return out
}

func (w *workloads) gateway(gateway *networking.Gateway) {
	for i, server := range gateway.Spec.Servers {
		name := server.GetTls().GetCredentialName()
		field := fmt.Sprintf("spec.servers[%d].tls.credentialName", i)
		for _, namespace := range w.homes(gateway) {
			secret, known := w.secrets[namespace+"/"+name]
			switch {
			case name == "" || !known:
			case secret == nil:
				w.add("Gateway", gateway, field, resolve.ReasonReference, "there is no Secret %s in namespace %s, where the gateway's pods are", name, namespace)
			default:
				if err := certificateIn(secret); err != nil {
					w.add("Gateway", gateway, field, resolve.ReasonCredential, "Secret %s/%s: %v", namespace, name, err)
				}
			}
		}
	}
}

// certificateIn looks for a certificate and its key, by either pair of names.
func certificateIn(secret *corev1.Secret) error {
	for _, keys := range [][2]string{{"cert", "key"}, {"tls.crt", "tls.key"}} {
		certificate, key := secret.Data[keys[0]], secret.Data[keys[1]]
		if len(certificate) == 0 && len(key) == 0 {
			continue
		}
		if _, err := tls.X509KeyPair(certificate, key); err != nil {
			return fmt.Errorf("%s and %s are no certificate and its key: %w", keys[0], keys[1], err)
		}
		return nil
	}
	return errors.New("it has neither tls.crt and tls.key nor cert and key")
}

// hook looks whether anybody can answer an injector.
func (w *workloads) hook(config *admission.MutatingWebhookConfiguration) {
	for i, hook := range config.Webhooks {
		to := hook.ClientConfig.Service
		if to == nil || !strings.HasSuffix(hook.Name, "sidecar-injector.istio.io") {
			continue
		}
		if !slices.ContainsFunc(w.services, func(s *corev1.Service) bool { return s.Namespace == to.Namespace && s.Name == to.Name }) {
			w.add("MutatingWebhookConfiguration", config, fmt.Sprintf("webhooks[%d].clientConfig.service", i), resolve.ReasonWebhook, "there is no Service %s/%s: pods that it is for are refused", to.Namespace, to.Name)
		}
	}
}

// known are Istio's annotations, by name.
var known = sync.OnceValue(func() map[string]*annotation.Instance {
	out := map[string]*annotation.Instance{}
	for _, one := range annotation.AllResourceAnnotations() {
		out[one.Name] = one
	}
	return out
})

// annotated looks at an object's annotations of Istio's.
func (w *workloads) annotated(kind string, resource annotation.ResourceTypes, object metav1.Object) {
	for _, name := range slices.Sorted(maps.Keys(object.GetAnnotations())) {
		domain, _, _ := strings.Cut(name, "/")
		if domain != "istio.io" && !strings.HasSuffix(domain, ".istio.io") || strings.HasSuffix(domain, "operator.istio.io") {
			continue
		}
		field, one := fmt.Sprintf("metadata.annotations[%s]", name), known()[name]
		switch {
		case one == nil:
			w.add(kind, object, field, resolve.ReasonAnnotation, "Istio has no such annotation; look at how it is written")
		case !slices.Contains(one.Resources, resource) && !slices.Contains(one.Resources, annotation.Any):
			w.add(kind, object, field, resolve.ReasonMisplaced, "has no effect on a %s; it belongs on a %v", kind, one.Resources[0])
		case one.Deprecated:
			w.add(kind, object, field, resolve.ReasonOldAnnotation, "is deprecated")
		}
	}
}
