package v1alpha1

// IgnoreReconcile is the annotation that makes the operator leave a resource alone when it is "true".
const IgnoreReconcile = "install.istio.io/ignoreReconcile"

// Finalizer keeps a resource until what it installed is removed.
const Finalizer = "istio-finalizer.install.istio.io"

// DefaultNamespace is where a control plane lives unless told otherwise.
const DefaultNamespace = "istio-system"

// RevisionName is the spec's revision with "default" folded into "".
func (in *IstioOperatorSpec) RevisionName() string {
	if in == nil || in.Revision == "default" {
		return ""
	}
	return in.Revision
}
