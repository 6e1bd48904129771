package inject

import (
	"cmp"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// templateData gathers what the templates see of a pod.
func templateData(config *Config, request Request, pod *corev1.Pod) data {
	owner, kind := request.Owner, request.OwnerType
	if owner.Name == "" {
		owner, kind = workloadOf(pod, request.Namespace)
	}
	proxyConfig := proxyConfigOf(config, request.Namespace, pod)
	d := data{
		TypeMeta: kind, DeploymentMeta: owner, ObjectMeta: pod.ObjectMeta, Spec: pod.Spec, ProxyConfig: proxyConfig,
		MeshConfig: config.Mesh, Values: config.Values, Revision: request.Revision, NativeSidecars: request.Native, CompliancePolicy: request.Compliance,
		ProxyUID: proxyUserID, ProxyGID: proxyUserID, Resources: resources(config, pod.ObjectMeta), PodPorts: []corev1.ContainerPort{},
	}
	if own, ok := pod.Annotations[keyNative]; ok {
		d.NativeSidecars = isTrue(own)
	}
	d.Hold = at(config.Values, "global", "proxy", "holdApplicationUntilProxyStarts") == true || proxyConfig["holdApplicationUntilProxyStarts"] == true
	d.Owner = "kubernetes://apis/" + kind.APIVersion + "/namespaces/" + request.Namespace + "/" + strings.ToLower(kind.Kind) + "s/" + owner.Name
	variant := cmp.Or(pod.Annotations[keyImageType], textAt(proxyConfig, "image", "imageType"), textAt(config.Values, "global", "variant"))
	d.ProxyImage = image(config, pod.Annotations[keyImage], "proxy", variant)
	d.ProxyInitImage = image(config, pod.Annotations[keyImage], "proxy_init", variant)
	d.StatusPort = statusPort(config, proxyConfig)
	var containers []string
	for _, c := range pod.Spec.Containers {
		if c.Name != proxyName {
			containers = append(containers, c.Name)
		}
	}
	applications(pod, func(c *corev1.Container) { d.PodPorts = append(d.PodPorts, c.Ports...) })
	d.AppContainers = strings.Join(containers, ",")
	if len(containers) > 0 {
		d.AppContainer = containers[0]
	}
	mode, _ := proxyConfig["interceptionMode"].(string)
	d.Capture = annotation(pod.ObjectMeta, "sidecar.istio.io/interceptionMode", cmp.Or(mode, "REDIRECT"))
	d.CanonicalName = canonical(pod.Labels, owner.Name, canonicalName, "app.kubernetes.io/name", "app")
	d.CanonicalRevision = canonical(pod.Labels, "latest", canonicalRev, "app.kubernetes.io/version", "version")
	return d
}

func canonical(labels map[string]string, otherwise string, names ...string) string {
	for _, name := range names {
		if value := labels[name]; value != "" {
			return value
		}
	}
	return otherwise[:min(len(otherwise), 63)]
}

// image is HUB/NAME:TAG of the values; a name with a slash is a whole reference. A type, such as distroless, ends the tag in the place of
// the one that does.
func image(config *Config, own, root, variant string) string {
	name := cmp.Or(own, textAt(config.Values, "global", root, "image"), "proxyv2")
	if strings.Contains(name, "/") {
		return name
	}
	tag := textAt(config.Values, "global", "tag")
	if variant != "" {
		tag = strings.TrimSuffix(strings.TrimSuffix(tag, "-debug"), "-distroless")
	}
	if variant != "" && variant != "default" {
		tag += "-" + variant
	}
	return textAt(config.Values, "global", "hub") + "/" + name + ":" + tag
}

var cronJobName = regexp.MustCompile(`^(.+)-\d{8,10}$`)

// workloadOf guesses what makes a pod: a ReplicaSet's pods are its Deployment's, a scheduled Job's its CronJob's.
func workloadOf(pod *corev1.Pod, namespace string) (metav1.ObjectMeta, metav1.TypeMeta) {
	meta := metav1.ObjectMeta{Name: pod.Name, Namespace: namespace}
	if meta.Name == "" {
		meta.Name = strings.TrimSuffix(pod.GenerateName, "-")
	}
	owner := metav1.GetControllerOf(pod)
	if owner == nil {
		return meta, metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}
	}
	kind := metav1.TypeMeta{APIVersion: owner.APIVersion, Kind: owner.Kind}
	meta.Name = owner.Name
	switch owner.Kind {
	case "ReplicaSet":
		if hash := pod.Labels["pod-template-hash"]; hash != "" && strings.HasSuffix(owner.Name, "-"+hash) {
			meta.Name = strings.TrimSuffix(owner.Name, "-"+hash)
			kind.Kind = "Deployment"
		}
	case "Job":
		if m := cronJobName.FindStringSubmatch(owner.Name); m != nil {
			meta.Name, kind.Kind = m[1], "CronJob"
		}
	}
	return meta, kind
}
