package resolve

import (
	"maps"

	networking "istio.io/client-go/pkg/apis/networking/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
	"github.com/slipway-mesh/slipway/internal/discovery/world"
)

// A WorkloadEntry is a workload without a Pod. Services and ServiceEntries select it by its labels, as they select Pods.
// https://istio.io/latest/docs/reference/config/networking/workload-entry/

func (s *step) workloadEntry(namespace, name string, object *networking.WorkloadEntry) {
	r := &report{kind: "WorkloadEntry", namespace: namespace, name: name}
	defer s.keepProblems(r)
	key := world.Key(namespace, name)
	var before, after map[string]string
	if had, ok := s.workloads.Get(key); ok {
		before = workloadLabels(had)
	}
	if object != nil && object.Spec.Address == "" {
		r.refuse("spec.address", "is required")
		object = nil
	}
	if object != nil && !isAddress(object.Spec.Address) {
		r.warn("spec.address", ReasonInvalid, "%q is no IP address: no Service and no ServiceEntry that selects it leads there", object.Spec.Address)
	}
	if object != nil {
		after = workloadLabels(object)
	}
	s.workloads = put(s.workloads, key, object, object != nil)
	s.workloadChanged(namespace, before, after)
}

// workloadLabels are never nil: those of the object, and over them those of the workload.
func workloadLabels(object *networking.WorkloadEntry) map[string]string {
	labels := map[string]string{}
	maps.Copy(labels, object.Labels)
	maps.Copy(labels, object.Spec.Labels)
	return labels
}

// workloadChanged makes stale what selects a workload, by its labels before and after; nil where there was or is none.
func (s *step) workloadChanged(namespace string, before, after map[string]string) {
	for _, service := range world.Below(s.World.Selecting, namespace) {
		if before != nil && mesh.MatchesLabels(service.Selector, before) || after != nil && mesh.MatchesLabels(service.Selector, after) {
			s.selectAnew(service)
		}
	}
}

// selectAnew makes a service's endpoints be computed at the end of the step.
func (s *step) selectAnew(service *mesh.Service) {
	if service.Kubernetes {
		s.stale[service.Host] = staleService{service.Namespace, service.Name}
	} else {
		s.staleEntries[staleEntry{service.Host, service.Namespace}] = true
	}
}

// workloadsOf returns the WorkloadEntries of a namespace that a selector selects, in the order of names.
func (s *step) workloadsOf(namespace string, selector map[string]string) []*networking.WorkloadEntry {
	var out []*networking.WorkloadEntry
	if len(selector) == 0 {
		return nil
	}
	for _, object := range world.Below(s.workloads, namespace) {
		if mesh.MatchesLabels(selector, workloadLabels(object)) && workloadHealthy(object) {
			out = append(out, object)
		}
	}
	return out
}

// The annotations of entries that are kept for WorkloadGroups.
const (
	groupAnnotation  = "istio.io/autoRegistrationGroup"
	healthAnnotation = "proxy.istio.io/health-checks-enabled"
)

// workloadHealthy says whether a workload may be called. One that is to tell of its health is not, until it has.
func workloadHealthy(object *networking.WorkloadEntry) bool {
	if object.Annotations[healthAnnotation] != "true" {
		return true
	}
	for _, c := range object.Status.Conditions {
		if c.Type == "Healthy" {
			return c.Status == "True"
		}
	}
	return false
}

// Enrolled are the WorkloadEntries that are kept for members of WorkloadGroups.
func (s *State) Enrolled() []*networking.WorkloadEntry {
	var out []*networking.WorkloadEntry
	s.workloads.Root().Walk(func(_ []byte, object *networking.WorkloadEntry) bool {
		if object.Annotations[groupAnnotation] != "" {
			out = append(out, object)
		}
		return false
	})
	return out
}

// Replica is a pod of a control plane that runs.
type Replica struct{ Name, Address, Revision string }

// Replicas are those of all revisions, in the order of names.
func (s *State) Replicas() []Replica {
	var out []Replica
	for _, pod := range world.Below(s.pods, s.options.RootNamespace) {
		if pod.Labels["app"] == "istiod" && pod.Status.Phase == corev1.PodRunning {
			out = append(out, Replica{pod.Name, pod.Status.PodIP, pod.Labels["istio.io/rev"]})
		}
	}
	return out
}

// podsOf returns the Pods of a namespace that a selector selects and that are ready, in the order of names.
func (s *step) podsOf(namespace string, selector map[string]string) []*corev1.Pod {
	var out []*corev1.Pod
	for _, pod := range world.Below(s.pods, namespace) {
		if podReady(pod) && mesh.MatchesLabels(selector, pod.Labels) {
			out = append(out, pod)
		}
	}
	return out
}

func podReady(pod *corev1.Pod) bool {
	if pod.Status.PodIP == "" || pod.Status.Phase != corev1.PodRunning {
		return false
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return true
}

// podEndpoint is a Pod as an endpoint, without address and port.
func (s *step) podEndpoint(pod *corev1.Pod, port uint32) mesh.Endpoint {
	out := mesh.Endpoint{Port: port, Healthy: true, Weight: 1, Cluster: s.options.ClusterID, Node: pod.Spec.NodeName}
	out.Locality, _ = s.World.Nodes.Get([]byte(out.Node))
	s.describe(&out, pod)
	return out
}

// describe tells of an endpoint what its Pod does.
func (s *step) describe(out *mesh.Endpoint, pod *corev1.Pod) {
	out.Workload, out.Labels, out.Network = pod.Name, pod.Labels, pod.Labels[mesh.LabelNetwork]
	if own := pod.Labels[mesh.LabelLocality]; own != "" {
		out.Locality = mesh.ParseLocality(own, ".")
	}
	out.Account = s.identity(pod.Namespace, pod.Spec.ServiceAccountName)
	out.MTLS = pod.Labels[labelTLSMode] == "istio" && s.World.MTLSMode(pod.Namespace, pod.Labels, out.Port) != mesh.Disable
}
