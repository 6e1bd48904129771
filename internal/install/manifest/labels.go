package manifest

import "github.com/slipway-mesh/slipway/api/v1alpha1"

// The labels that the operator puts on what it installs; they are Istio's.
const (
	LabelOwner          = "install.operator.istio.io/owning-resource"
	LabelOwnerNamespace = "install.operator.istio.io/owning-resource-namespace"
	LabelComponent      = "operator.istio.io/component"
	LabelManaged        = "operator.istio.io/managed"
	LabelVersion        = "operator.istio.io/version"
	LabelRevision       = "istio.io/rev"
)

// stamp labels the objects with their owner and gives namespaced objects without a namespace the component's.
func stamp(objects []Object, options Options, spec *v1alpha1.IstioOperatorSpec, c component) {
	revision := spec.RevisionName()
	if revision == "" {
		revision = "default"
	}
	for _, object := range objects {
		labels := object.GetLabels()
		if labels == nil {
			labels = map[string]string{}
		}
		labels[LabelComponent] = c.name
		labels[LabelManaged] = "Reconcile"
		labels[LabelVersion] = options.Version
		if _, ok := labels[LabelRevision]; !ok && object.GetKind() != "CustomResourceDefinition" {
			labels[LabelRevision] = revision
		}
		delete(labels, LabelOwner) // a chart's own idea of it is for Helm's users
		if options.Owner != "" {
			labels[LabelOwner] = options.Owner
			labels[LabelOwnerNamespace] = options.OwnerNamespace
		}
		object.SetLabels(labels)
	}
}
