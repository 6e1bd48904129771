package manifest

import "sort"

// weights puts what others need first. Webhook configurations come before workloads so that the objects exist that
// the control plane fills in; Services come last, as a cloud's load balancer is slow to make.
var weights = map[string]int{
	"Namespace": 0, "CustomResourceDefinition": 1, "ServiceAccount": 2, "ClusterRole": 3, "Role": 3,
	"ClusterRoleBinding": 4, "RoleBinding": 4, "ConfigMap": 5, "Secret": 5,
	"ValidatingWebhookConfiguration": 6, "MutatingWebhookConfiguration": 6,
	"Deployment": 8, "DaemonSet": 8, "StatefulSet": 8, "PodDisruptionBudget": 9, "HorizontalPodAutoscaler": 9, "Service": 10,
}

const otherWeight = 7

// sortObjects orders objects for applying: by weight, then kind, namespace and name, so that the order never depends
// on the charts' files.
func sortObjects(objects []Object) {
	weight := func(o Object) int {
		if w, ok := weights[o.GetKind()]; ok {
			return w
		}
		return otherWeight
	}
	sort.SliceStable(objects, func(i, j int) bool {
		a, b := objects[i], objects[j]
		if wa, wb := weight(a), weight(b); wa != wb {
			return wa < wb
		}
		if a.GetKind() != b.GetKind() {
			return a.GetKind() < b.GetKind()
		}
		if a.GetNamespace() != b.GetNamespace() {
			return a.GetNamespace() < b.GetNamespace()
		}
		return a.GetName() < b.GetName()
	})
}
