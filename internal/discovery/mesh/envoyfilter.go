package mesh

import networking "istio.io/api/networking/v1alpha3"

// EnvoyFilter changes what proxies are sent, after everything else.
type EnvoyFilter struct {
	Owner
	// Selector is of the proxies; empty is all of the namespace, or of the mesh in the root namespace.
	Selector map[string]string
	Priority int32
	Created  int64  // seconds since 1970
	Form     string // equal for equal specs
	Patches  []*networking.EnvoyFilter_EnvoyConfigObjectPatch
}
