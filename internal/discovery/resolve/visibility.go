package resolve

import (
	"fmt"

	"google.golang.org/protobuf/proto"
	meshapi "istio.io/api/mesh/v1alpha1"
	networking "istio.io/client-go/pkg/apis/networking/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// namespace follows the labels of a namespace, which MeshConfig.serviceEntryVisibility goes by.
func (s *step) namespace(name string, object *corev1.Namespace) {
	var set labels.Set
	if object != nil {
		set = object.Labels
	}
	before, known := s.namespaces.Get([]byte(name))
	s.namespaces = put(s.namespaces, []byte(name), set, object != nil)
	if s.visibility != nil && (known != (object != nil) || !labels.Equals(before, set)) {
		s.claimAll(name)
	}
}

// setVisibility takes what MeshConfig says now. Of sidecars it says something only where it says so.
func (s *step) setVisibility(api *meshapi.ServiceEntryVisibility, r *report) {
	if !api.GetApplyToSidecars() {
		api = nil
	}
	for i, policy := range api.GetPolicies() {
		for j, rule := range policy.MatchingRules {
			if _, err := selectorOf(rule.GetNamespaceSelector()); err != nil {
				r.refuse(fmt.Sprintf("data.mesh.serviceEntryVisibility.policies[%d].matchingRules[%d].namespaceSelector", i, j), "%v; the policy matches nothing", err)
			}
		}
	}
	if !proto.Equal(api, s.visibility) {
		s.visibility = api
		s.claimAll("")
	}
}

// claimAll gives anew the hosts of a namespace's ServiceEntries, or of all.
func (s *step) claimAll(namespace string) {
	s.entries.Root().Walk(func(_ []byte, entry *networking.ServiceEntry) bool {
		if namespace == "" || entry.Namespace == namespace {
			for _, host := range entry.Spec.Hosts {
				s.staleEntries[staleEntry{host, entry.Namespace}] = true
			}
		}
		return false
	})
}

// exportOf says who sees an entry: as it says itself, and not more than MeshConfig lets entries of its namespace be seen.
func (s *step) exportOf(entry *networking.ServiceEntry) []string {
	switch s.visibilityIn(entry.Namespace) {
	case meshapi.ServiceEntryVisibility_NONE:
		return []string{"~"}
	case meshapi.ServiceEntryVisibility_NAMESPACE:
		return []string{"."}
	}
	return entry.Spec.ExportTo
}

// visibilityIn is that of the first policy whose rules all match a namespace.
func (s *step) visibilityIn(namespace string) meshapi.ServiceEntryVisibility_Visibility {
	set, _ := s.namespaces.Get([]byte(namespace))
	for _, policy := range s.visibility.GetPolicies() {
		matches := true
		for _, rule := range policy.MatchingRules {
			selector, err := selectorOf(rule.GetNamespaceSelector())
			matches = matches && err == nil && selector.Matches(set)
		}
		if matches {
			return policy.Visibility
		}
	}
	return s.visibility.GetDefaultVisibility()
}

// selectorOf reads a selector of MeshConfig's; one that is not there matches all, as in Kubernetes an empty one does.
func selectorOf(api *meshapi.LabelSelector) (labels.Selector, error) {
	selector := &metav1.LabelSelector{MatchLabels: api.GetMatchLabels()}
	for _, e := range api.GetMatchExpressions() {
		selector.MatchExpressions = append(selector.MatchExpressions, metav1.LabelSelectorRequirement{Key: e.Key, Operator: metav1.LabelSelectorOperator(e.Operator), Values: e.Values})
	}
	return metav1.LabelSelectorAsSelector(selector)
}
