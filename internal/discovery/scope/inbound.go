package scope

import (
	"slices"
	"sort"

	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
	"github.com/slipway-mesh/slipway/internal/discovery/world"
)

// Inbound computes what a workload serves and accepts. Where two services have one port of it, the older counts.
func Inbound(w *world.World, proxy *mesh.Proxy) *mesh.Inbound {
	services := selecting(w, proxy)
	out := &mesh.Inbound{Mode: w.MTLSMode(proxy.Namespace, proxy.Labels, 0)}
	seen := map[uint32]bool{}
	for _, service := range services {
		endpoints := w.EndpointsOf(service)
		for _, port := range service.Ports {
			target := targetPort(port, endpoints, proxy.Addresses)
			if target == 0 || seen[target] {
				continue
			}
			seen[target] = true
			out.Ports = append(out.Ports, mesh.InboundPort{
				Port: target, Protocol: port.Protocol, Mode: w.MTLSMode(proxy.Namespace, proxy.Labels, target),
				Service: service.Host, Number: port.Number,
			})
		}
	}
	for _, port := range overridden(w, proxy) {
		if !seen[port] {
			seen[port] = true
			out.Ports = append(out.Ports, mesh.InboundPort{Port: port, Mode: w.MTLSMode(proxy.Namespace, proxy.Labels, port)})
		}
	}
	sort.Slice(out.Ports, func(i, j int) bool { return out.Ports[i].Port < out.Ports[j].Port })
	return out
}

// overridden lists the ports that a PeerAuthentication speaks of and that may be in no service.
func overridden(w *world.World, proxy *mesh.Proxy) []uint32 {
	var ports []uint32
	for _, p := range world.Below(w.PeerAuthentications, proxy.Namespace) {
		if len(p.Selector) > 0 && mesh.MatchesLabels(p.Selector, proxy.Labels) {
			for port := range p.Ports {
				ports = append(ports, port)
			}
		}
	}
	return ports
}

// selecting returns the services that have the proxy's workload among their endpoints, oldest first.
func selecting(w *world.World, proxy *mesh.Proxy) []*mesh.Service {
	var list []*mesh.Service
	for _, service := range world.Below(w.Selecting, proxy.Namespace) {
		if mesh.MatchesLabels(service.Selector, proxy.Labels) {
			list = append(list, service)
		}
	}
	sort.SliceStable(list, func(i, j int) bool { return list[i].Created < list[j].Created })
	return list
}

// targetPort is the workload's port behind a service port: what its endpoint says, since a target port may be a name.
func targetPort(port mesh.Port, endpoints *mesh.Endpoints, addresses []string) uint32 {
	if port.TargetPort != 0 {
		return port.TargetPort
	}
	if endpoints != nil {
		for _, e := range endpoints.ByPort[port.Number] {
			if slices.Contains(addresses, e.Address) {
				return e.Port
			}
		}
	}
	return 0
}
