package lifecycle

import (
	"context"
	"fmt"
	"maps"
	"slices"

	admission "k8s.io/api/admissionregistration/v1"
	authorization "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/slipway-mesh/slipway/internal/install/manifest"
)

// Problem is what in a cluster hinders an installation, or is worth knowing before one.
type Problem struct {
	Message string `json:"message"`
	// Stops says that an installation cannot succeed with it.
	Stops bool `json:"stops"`
}

// needed lists what an installation writes, as far as a cluster's roles may forbid it.
var needed = []authorization.ResourceAttributes{
	{Group: "apiextensions.k8s.io", Resource: "customresourcedefinitions"},
	{Group: "rbac.authorization.k8s.io", Resource: "clusterroles"},
	{Group: "rbac.authorization.k8s.io", Resource: "clusterrolebindings"},
	{Group: "admissionregistration.k8s.io", Resource: "mutatingwebhookconfigurations"},
	{Group: "admissionregistration.k8s.io", Resource: "validatingwebhookconfigurations"},
	{Group: "apps", Resource: "deployments"},
	{Group: "autoscaling", Resource: "horizontalpodautoscalers"},
	{Group: "policy", Resource: "poddisruptionbudgets"},
	{Resource: "namespaces"}, {Resource: "services"}, {Resource: "configmaps"}, {Resource: "serviceaccounts"},
}

// Precheck looks for what would hinder an installation into the namespace, or an upgrade to the version, and changes
// nothing.
func (i Installer) Precheck(ctx context.Context, namespace, version string) ([]Problem, error) {
	var problems []Problem
	for _, check := range []func(context.Context) ([]Problem, error){
		i.checkKubernetes, i.checkRights,
		func(ctx context.Context) ([]Problem, error) { return i.checkQuotas(ctx, namespace) },
		i.checkNetwork, i.checkWebhooks,
		func(ctx context.Context) ([]Problem, error) { return i.checkControlPlanes(ctx, version) },
	} {
		found, err := check(ctx)
		if err != nil {
			return nil, err
		}
		problems = append(problems, found...)
	}
	return problems, nil
}

// OldestKubernetes is the oldest version that is supported.
const OldestKubernetes = "1.29.0"

// KubernetesVersion asks a cluster's version.
func KubernetesVersion(config *rest.Config) (string, error) {
	asked, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return "", err
	}
	version, err := asked.ServerVersion()
	if err != nil {
		return "", fmt.Errorf("ask the cluster's version: %w", err)
	}
	return version.GitVersion, nil
}

func (i Installer) checkKubernetes(context.Context) ([]Problem, error) {
	if i.Kubernetes == "" || !older(i.Kubernetes, OldestKubernetes) {
		return nil, nil
	}
	return []Problem{{fmt.Sprintf("Kubernetes is of version %s; the oldest that is supported is %s", i.Kubernetes, OldestKubernetes), true}}, nil
}

// checkQuotas finds quotas of the namespace that are used up: new pods would not be made, and a rollout would not end.
func (i Installer) checkQuotas(ctx context.Context, namespace string) ([]Problem, error) {
	quotas := &corev1.ResourceQuotaList{}
	if err := i.Cluster.Client.List(ctx, quotas, client.InNamespace(namespace)); err != nil {
		return nil, fmt.Errorf("list quotas: %w", err)
	}
	var problems []Problem
	for _, quota := range quotas.Items {
		for _, name := range slices.Sorted(maps.Keys(quota.Status.Hard)) {
			hard, used := quota.Status.Hard[name], quota.Status.Used[name]
			if used.Cmp(hard) >= 0 {
				problems = append(problems, Problem{fmt.Sprintf("the ResourceQuota %s/%s has no %s left: %s of %s are used", namespace, quota.Name, name, used.String(), hard.String()), false})
			}
		}
	}
	return problems, nil
}

// checkNetwork finds settings of network plugins that keep connections away from sidecars: a plugin that picks the pod
// when an application connects leaves the sidecar only the pod's address, and so no Service to route by.
func (i Installer) checkNetwork(ctx context.Context) ([]Problem, error) {
	var problems []Problem
	cilium := &corev1.ConfigMap{}
	err := i.Cluster.Client.Get(ctx, client.ObjectKey{Namespace: "kube-system", Name: "cilium-config"}, cilium)
	if client.IgnoreNotFound(err) != nil {
		return nil, fmt.Errorf("read Cilium's settings: %w", err)
	}
	if replaces := cilium.Data["kube-proxy-replacement"]; (replaces == "true" || replaces == "strict") && cilium.Data["bpf-lb-sock-hostns-only"] != "true" {
		problems = append(problems, Problem{"Cilium balances connections in pods' sockets, before sidecars see them: set bpf-lb-sock-hostns-only to true in ConfigMap kube-system/cilium-config", false})
	}
	felix := &unstructured.Unstructured{}
	felix.SetGroupVersionKind(schema.GroupVersionKind{Group: "crd.projectcalico.org", Version: "v1", Kind: "FelixConfiguration"})
	if err := i.Cluster.Client.Get(ctx, client.ObjectKey{Name: "default"}, felix); client.IgnoreNotFound(err) != nil && !meta.IsNoMatchError(err) {
		return nil, fmt.Errorf("read Calico's settings: %w", err)
	}
	if mode, _, _ := unstructured.NestedString(felix.Object, "spec", "bpfConnectTimeLoadBalancing"); mode != "" && mode != "Disabled" {
		problems = append(problems, Problem{"Calico balances connections when they are made, before sidecars see them: set bpfConnectTimeLoadBalancing to Disabled in FelixConfiguration default", false})
	}
	return problems, nil
}

func (i Installer) checkRights(ctx context.Context) ([]Problem, error) {
	var problems []Problem
	for _, attributes := range needed {
		attributes.Verb = "create"
		review := &authorization.SelfSubjectAccessReview{Spec: authorization.SelfSubjectAccessReviewSpec{ResourceAttributes: &attributes}}
		if err := i.Cluster.Client.Create(ctx, review); err != nil {
			return nil, fmt.Errorf("ask what is allowed: %w", err)
		}
		if !review.Status.Allowed {
			problems = append(problems, Problem{fmt.Sprintf("you may not create %s: %s", attributes.Resource, review.Status.Reason), true})
		}
	}
	return problems, nil
}

// checkWebhooks finds injectors of others: two for one pod would give it two sidecars.
func (i Installer) checkWebhooks(ctx context.Context) ([]Problem, error) {
	list := &admission.MutatingWebhookConfigurationList{}
	if err := i.Cluster.Client.List(ctx, list, client.MatchingLabels{"app": "sidecar-injector"}); err != nil {
		return nil, fmt.Errorf("list webhooks: %w", err)
	}
	var problems []Problem
	for k := range list.Items {
		config := &list.Items[k]
		if config.Labels[manifest.LabelOwner] == "" && config.Labels["istio.io/tag"] == "" {
			problems = append(problems, Problem{fmt.Sprintf("the injector %s is another installer's (revision %s)", config.Name, config.Labels[manifest.LabelRevision]), false})
		}
	}
	return problems, nil
}

// checkControlPlanes finds control planes that are newer, and sidecars whose control plane is gone.
func (i Installer) checkControlPlanes(ctx context.Context, version string) ([]Problem, error) {
	deployments := &metav1.PartialObjectMetadataList{}
	deployments.SetGroupVersionKind(schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "DeploymentList"})
	if err := i.Cluster.Client.List(ctx, deployments, client.MatchingLabels{"app": "istiod"}); err != nil {
		return nil, fmt.Errorf("list control planes: %w", err)
	}
	var problems []Problem
	revisions := map[string]bool{}
	for k := range deployments.Items {
		labels := deployments.Items[k].Labels
		revisions[labels[manifest.LabelRevision]] = true
		if running := labels[manifest.LabelVersion]; older(version, running) {
			problems = append(problems, Problem{fmt.Sprintf("the control plane %s is of version %s, which is newer than %s", deployments.Items[k].Name, running, version), true})
		}
	}
	lost := map[string]int{}
	err := i.eachSidecar(ctx, func(pod *metav1.PartialObjectMetadata) {
		if revision := pod.Annotations["istio.io/rev"]; revision != "" && !revisions[revision] {
			lost[revision]++
		}
	})
	for revision, pods := range lost {
		problems = append(problems, Problem{fmt.Sprintf("%d pods have sidecars of revision %s, which has no control plane", pods, revision), false})
	}
	return problems, err
}
