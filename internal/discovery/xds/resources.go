package xds

import (
	"github.com/slipway-mesh/slipway/internal/discovery/envoy"
	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
	"github.com/slipway-mesh/slipway/internal/discovery/world"
)

// Resources computes all that a proxy is sent, by type URL and in the order of names. It is what a server says that has
// just begun; one that followed the mesh says the same.
func Resources(w *world.World, proxy *mesh.Proxy) map[string][]*envoy.Resource {
	s := NewServer(nil)
	s.world = w
	st := &stream{proxy: proxy}
	s.joinScope(st)
	t := s.targetOf(st)
	out := map[string][]*envoy.Resource{}
	for i, url := range typeURLs {
		if i == hostIndex && !proxy.VHDS {
			continue // they stand in their tables
		}
		each(t.parts[i], func(r *envoy.Resource) { out[url] = append(out[url], r) })
	}
	if !proxy.VHDS {
		out[envoy.RouteType] = wholeTables(t, out[envoy.RouteType])
	}
	return out
}
