package source

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/tools/cache"
)

// selection is which namespaces are read. It follows the mesh's configuration and the namespaces' labels, as they come by.
// https://istio.io/latest/docs/ops/configuration/mesh/configuration-scoping/#discoveryselectors
type selection struct {
	options   Options
	selectors []labels.Selector
	labels    map[string]labels.Set // of each namespace
}

// chosen says whether what is in a namespace is taken. What is in none is, and what is in the control plane's own: without it the mesh's
// own policies would be lost without a word.
func (s *selection) chosen(namespace string) bool {
	if len(s.selectors) == 0 || namespace == "" || namespace == s.options.Namespace {
		return true
	}
	set, known := s.labels[namespace]
	if !known {
		return false
	}
	for _, selector := range s.selectors {
		if selector.Matches(set) {
			return true
		}
	}
	return false
}

// follow takes changes in, and returns the namespaces that are chosen by them and were not before, or the other way round.
func (s *selection) follow(changes []Change) map[string]bool {
	before := map[string]bool{}
	note := func(namespace string) {
		if _, noted := before[namespace]; !noted {
			before[namespace] = s.chosen(namespace)
		}
	}
	for _, change := range changes {
		switch object := change.Object.(type) {
		case *corev1.ConfigMap:
			if change.Namespace != s.options.Namespace || change.Name != s.options.MeshConfig || s.options.Selectors == nil {
				continue
			}
			for namespace := range s.labels {
				note(namespace)
			}
			s.selectors = s.options.Selectors(object)
		case *corev1.Namespace:
			note(change.Name)
			s.labels[change.Name] = object.Labels
		default:
			if change.Kind == "Namespace" { // it is gone, and what was in it goes by itself
				delete(s.labels, change.Name)
				delete(before, change.Name)
			}
		}
	}
	for namespace, was := range before {
		if s.chosen(namespace) == was {
			delete(before, namespace)
		}
	}
	return before
}

// Take returns all that is pending. What is in a namespace that is not read any more is gone, and what is in one that is read now is new.
func (s *Source) Take() []Change {
	changes := s.queue.Take()
	for namespace := range s.selection.follow(changes) {
		changes = append(changes, s.inside(namespace)...)
	}
	for i, change := range changes {
		if change.Kind != "ConfigMap" && !s.selection.chosen(change.Namespace) {
			changes[i].Object = nil
		}
	}
	return changes
}

// inside are all objects that are in a namespace.
func (s *Source) inside(namespace string) []Change {
	var out []Change
	for _, k := range s.informers {
		list, err := k.informer.GetIndexer().ByIndex(cache.NamespaceIndex, namespace)
		if err != nil {
			continue // a kind without namespaces
		}
		for _, object := range list {
			if one, ok := object.(metav1.Object); ok {
				out = append(out, k.changeOf(one, false))
			}
		}
	}
	return out
}
