package scope

import (
	"net"
	"slices"
	"sort"
	"strings"

	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
	"github.com/slipway-mesh/slipway/internal/discovery/world"
)

// Inbound computes what a workload serves and accepts. Where two services have one port of it, the older counts.
func Inbound(w *world.World, proxy *mesh.Proxy) *mesh.Inbound {
	services := selecting(w, proxy)
	out := &mesh.Inbound{Mode: w.MTLSMode(proxy.Namespace, proxy.Labels, 0), Guard: w.Guard(proxy.Namespace, proxy.Labels), Transparent: proxy.Capture == "TPROXY"}
	seen := map[uint32]bool{}
	sidecar := w.Sidecar(proxy.Namespace, proxy.Labels)
	if sidecar != nil && len(sidecar.Ingress) > 0 {
		services = nil
		for _, ingress := range sidecar.Ingress {
			seen[ingress.Port] = true
			out.Ports = append(out.Ports, ingressPort(w, proxy, ingress))
		}
	}
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
				Service: service.Host, Number: port.Number, Name: port.Name,
			})
		}
	}
	for _, port := range overridden(w, proxy) {
		if !seen[port] {
			seen[port] = true
			out.Ports = append(out.Ports, mesh.InboundPort{Port: port, Mode: w.MTLSMode(proxy.Namespace, proxy.Labels, port)})
		}
	}
	if sidecar != nil && sidecar.Pool != nil {
		for i := range out.Ports {
			if out.Ports[i].Pool == nil {
				out.Ports[i].Pool = sidecar.Pool
			}
		}
	}
	sort.Slice(out.Ports, func(i, j int) bool { return out.Ports[i].Port < out.Ports[j].Port })
	return out
}

// ingressPort is a port that a Sidecar says is served. 0.0.0.0 means the pod's own address.
func ingressPort(w *world.World, proxy *mesh.Proxy, from *mesh.Ingress) mesh.InboundPort {
	out := mesh.InboundPort{Port: from.Port, Protocol: from.Protocol, Mode: w.MTLSMode(proxy.Namespace, proxy.Labels, from.Port), Bound: from.Bound, Endpoint: from.Endpoint, Pool: from.Pool, TLS: from.TLS}
	for _, unspecified := range []string{"0.0.0.0:", "[::]:"} {
		if port, ok := strings.CutPrefix(from.Endpoint, unspecified); ok {
			out.Endpoint = net.JoinHostPort(proxy.Addresses[0], port)
		}
	}
	if from.Bound {
		out.Bind = proxy.Addresses[0]
		if from.Bind != "" {
			out.Bind = from.Bind
		}
	}
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
	sort.SliceStable(list, func(i, j int) bool {
		if list[i].Created != list[j].Created {
			return list[i].Created < list[j].Created
		}
		return !list[i].Headless && list[j].Headless // of two that were made together, the one that callers see
	})
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
