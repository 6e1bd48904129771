package inject

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

const (
	keyInject = "sidecar.istio.io/inject"
	keyStatus = "sidecar.istio.io/status"
)

// systemNamespaces never have sidecars.
var systemNamespaces = []string{"kube-system", "kube-public", "kube-node-lease", "local-path-storage"}

// Wanted says whether a pod gets a proxy, and if not, why.
func Wanted(config *Config, pod *corev1.Pod, namespace string) (bool, string) {
	if pod.Spec.HostNetwork {
		return false, "it uses the host's network, which capture would break"
	}
	if slices.Contains(systemNamespaces, namespace) {
		return false, "namespace " + namespace + " is a system namespace"
	}
	asked, ok := pod.Labels[keyInject]
	if !ok {
		asked = pod.Annotations[keyInject]
	}
	switch asked {
	case "true":
		return true, ""
	case "false":
		return false, keyInject + " is false"
	}
	switch {
	case anyMatches(config.NeverInject, pod.Labels):
		return false, "a neverInjectSelector matches its labels"
	case anyMatches(config.AlwaysInject, pod.Labels):
		return true, ""
	case config.Policy == "enabled":
		return true, ""
	}
	return false, "the injection policy is " + config.Policy
}

func anyMatches(selectors []metav1.LabelSelector, set map[string]string) bool {
	for i := range selectors {
		selector, err := metav1.LabelSelectorAsSelector(&selectors[i])
		if err == nil && !selector.Empty() && selector.Matches(labels.Set(set)) {
			return true
		}
	}
	return false
}
