package adopt

import (
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/slipway-mesh/slipway/internal/install/apply"
	"github.com/slipway-mesh/slipway/internal/install/manifest"
)

const (
	ingress = "IngressGateways"
	egress  = "EgressGateways"
)

// order is that of the components.
var order = []string{"Base", "Pilot", ingress, egress}

// Components are the mesh's objects as they are to be kept: as they were found, without what the API server, autoscalers
// and the control plane itself write in them.
func (m *Mesh) Components() []manifest.Component {
	scaled := map[string]bool{}
	for _, object := range m.Objects {
		if target, ok, _ := unstructured.NestedString(object.Object, "spec", "scaleTargetRef", "name"); ok {
			scaled[object.GetNamespace()+"/"+target] = true
		}
	}
	groups := map[[2]string]*manifest.Component{}
	var keys [][2]string
	for _, object := range m.Objects {
		name := object.GetLabels()[manifest.LabelComponent]
		if object.GetKind() == "DaemonSet" {
			continue // Slipway has no such part: it stays its installer's
		}
		if !slices.Contains(order, name) {
			name = "Pilot"
		}
		key := [2]string{name, m.instance(name, object)}
		if groups[key] == nil {
			groups[key] = &manifest.Component{Name: name, Instance: key[1], Namespace: object.GetNamespace()}
			keys = append(keys, key)
		}
		groups[key].Objects = append(groups[key].Objects, clean(object, scaled[object.GetNamespace()+"/"+object.GetName()]))
	}
	slices.SortFunc(keys, func(a, b [2]string) int {
		if a[0] != b[0] {
			return slices.Index(order, a[0]) - slices.Index(order, b[0])
		}
		return strings.Compare(a[1], b[1])
	})
	var components []manifest.Component
	for _, key := range keys {
		components = append(components, *groups[key])
	}
	return components
}

// instance is the workload that an object belongs to.
func (m *Mesh) instance(component string, object apply.Object) string {
	switch component {
	case "Base":
		return "base"
	case ingress, egress:
		labels := object.GetLabels()
		for _, label := range []string{"app", "istio"} {
			if labels[label] != "" {
				return labels[label]
			}
		}
		return object.GetName()
	}
	if m.Revision != "" {
		return "istiod-" + m.Revision
	}
	return "istiod"
}

// clean takes away what nobody but the API server and controllers write.
func clean(live apply.Object, scaled bool) apply.Object {
	object := live.DeepCopy()
	delete(object.Object, "status")
	for _, field := range []string{"managedFields", "uid", "resourceVersion", "generation", "creationTimestamp", "selfLink", "ownerReferences"} {
		unstructured.RemoveNestedField(object.Object, "metadata", field)
	}
	annotations := object.GetAnnotations()
	for name := range annotations {
		if name == "kubectl.kubernetes.io/last-applied-configuration" || strings.HasPrefix(name, "deployment.kubernetes.io/") ||
			strings.HasPrefix(name, "autoscaling.alpha.kubernetes.io/") {
			delete(annotations, name)
		}
	}
	if len(annotations) == 0 {
		annotations = nil
	}
	object.SetAnnotations(annotations)
	switch object.GetKind() {
	case "Deployment":
		if scaled {
			unstructured.RemoveNestedField(object.Object, "spec", "replicas")
		}
	case "Service":
		unstructured.RemoveNestedField(object.Object, "spec", "healthCheckNodePort")
		if ip, _, _ := unstructured.NestedString(object.Object, "spec", "clusterIP"); ip != "None" {
			unstructured.RemoveNestedField(object.Object, "spec", "clusterIP")
			unstructured.RemoveNestedField(object.Object, "spec", "clusterIPs")
		}
		eachMap(object.Object, func(port map[string]any) { delete(port, "nodePort") }, "spec", "ports")
	case "ServiceAccount":
		delete(object.Object, "secrets")
	case "MutatingWebhookConfiguration", "ValidatingWebhookConfiguration":
		eachMap(object.Object, func(webhook map[string]any) {
			unstructured.RemoveNestedField(webhook, "clientConfig", "caBundle")
		}, "webhooks")
	}
	return object
}

// eachMap visits the maps of a list.
func eachMap(object map[string]any, visit func(map[string]any), path ...string) {
	value, _, _ := unstructured.NestedFieldNoCopy(object, path...)
	list, _ := value.([]any)
	for _, element := range list {
		if m, ok := element.(map[string]any); ok {
			visit(m)
		}
	}
}
