package scope

import (
	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
	"github.com/slipway-mesh/slipway/internal/discovery/world"
)

// Peers are the instances of a proxy's workload, by the oldest service that it is part of, NAMESPACE/HOST. A workload that is part of none
// has none.
func Peers(w *world.World, proxy *mesh.Proxy) (of string, instances []mesh.Endpoint) {
	for _, service := range selecting(w, proxy) {
		endpoints := w.EndpointsOf(service)
		if endpoints == nil {
			continue
		}
		for _, port := range service.Ports {
			if list := endpoints.ByPort[port.Number]; len(list) > 0 {
				return service.Namespace + "/" + service.Host, list
			}
		}
	}
	return "", nil
}
