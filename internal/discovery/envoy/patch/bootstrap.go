package patch

import (
	bootstrap "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	networking "istio.io/api/networking/v1alpha3"
)

// Bootstrap merges what patches say of the bootstrap into one. A nil Set has none.
func (s *Set) Bootstrap(b *bootstrap.Bootstrap) {
	if s == nil {
		return
	}
	e := &editor{set: s}
	for _, p := range s.patches {
		if p.GetApplyTo() == networking.EnvoyFilter_BOOTSTRAP && p.merges() {
			e.mergeInto(p, b)
		}
	}
}
