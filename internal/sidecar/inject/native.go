package inject

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/version"
)

// nativeSince is the Kubernetes version from which on all nodes must be for proxies to be restartable init containers.
var nativeSince = version.MustParseGeneric("v1.33.0")

// Native says whether proxies are restartable init containers: mode is true or false; anything else asks the nodes.
func Native(mode string, nodes []*corev1.Node) bool {
	if mode == "true" || mode == "false" {
		return mode == "true"
	}
	for _, node := range nodes {
		v, err := version.ParseGeneric(node.Status.NodeInfo.KubeletVersion)
		if err != nil || !v.AtLeast(nativeSince) {
			return false
		}
	}
	return len(nodes) > 0
}
