package scope

import (
	"slices"
	"sort"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
	"github.com/slipway-mesh/slipway/internal/discovery/world"
)

// Gateway computes the ports that a gateway proxy opens: those of all Gateways that select it, older ones first.
func Gateway(w *world.World, proxy *mesh.Proxy) []*mesh.GatewayPort {
	services := selecting(w, proxy)
	byPort := map[gatewayAddress]*mesh.GatewayPort{}
	for _, gateway := range gatewaysOf(w, proxy) {
		for _, server := range gateway.Servers {
			port := listenPort(services, server.Port)
			if proxy.Unprivileged && port < 1024 {
				continue // Envoy could not open it
			}
			at := gatewayAddress{port, server.Bind}
			there := byPort[at]
			if there == nil {
				there = &mesh.GatewayPort{Port: port, Bind: server.Bind}
				byPort[at] = there
			}
			there.Servers = append(there.Servers, mesh.GatewayServer{Server: server, Gateway: gateway.Owner, Routes: boundTo(w, gateway, server)})
		}
	}
	out := make([]*mesh.GatewayPort, 0, len(byPort))
	for _, port := range byPort {
		out = append(out, port)
	}
	sort.Slice(out, func(i, j int) bool {
		return out[i].Port < out[j].Port || out[i].Port == out[j].Port && out[i].Bind < out[j].Bind
	})
	return out
}

// gatewayAddress is where a gateway listens: Gateways of one port share it where they bind to one address.
type gatewayAddress struct {
	port uint32
	bind string
}

func leadsThrough(w *world.World, proxy *mesh.Proxy) bool {
	return proxy.Kind == mesh.Router && slices.ContainsFunc(gatewaysOf(w, proxy), (*mesh.Gateway).LeadsThrough)
}

func gatewaysOf(w *world.World, proxy *mesh.Proxy) []*mesh.Gateway {
	var list []*mesh.Gateway
	w.Gateways.Root().Walk(func(_ []byte, gateway *mesh.Gateway) bool {
		if mesh.MatchesLabels(gateway.Selector, proxy.Labels) {
			list = append(list, gateway)
		}
		return false
	})
	sort.SliceStable(list, func(i, j int) bool { return list[i].Created < list[j].Created })
	return list
}

// listenPort is where the pod listens for a server's port: the target port of the proxy's Service.
func listenPort(services []*mesh.Service, port uint32) uint32 {
	for _, service := range services {
		if p, ok := service.PortByNumber(port); ok && p.TargetPort != 0 {
			return p.TargetPort
		}
	}
	return port
}

// boundTo returns the VirtualServices that follow the gateway and have a host that the server takes, oldest first.
func boundTo(w *world.World, gateway *mesh.Gateway, server mesh.Server) []*mesh.VirtualService {
	name := gateway.Namespace + "/" + gateway.Name
	seen := map[mesh.Owner]bool{}
	var list []*mesh.VirtualService
	w.VirtualServices.Root().Walk(func(_ []byte, v *mesh.VirtualService) bool {
		if seen[v.Owner] || !v.OnGateway(name) || !v.VisibleFrom(gateway.Namespace, w.Config) {
			return false
		}
		seen[v.Owner] = true
		if hosts := narrow(server.Hosts, v); len(hosts) > 0 {
			bound := *filterMatches(v, func(m *networking.HTTPMatchRequest) bool {
				return len(m.Gateways) == 0 || matchesGateway(m.Gateways, v.Namespace, name)
			})
			bound.Hosts = hosts
			list = append(list, &bound)
		}
		return false
	})
	world.SortByAge(list)
	return list
}

func matchesGateway(gateways []string, namespace, name string) bool {
	for _, gateway := range gateways {
		if gateway == name || !strings.Contains(gateway, "/") && namespace+"/"+gateway == name {
			return true
		}
	}
	return false
}

// narrow intersects a server's hosts with a VirtualService's; of two that cover one another, the narrower stands.
func narrow(servers []mesh.ServerHost, v *mesh.VirtualService) []string {
	var hosts []string
	add := func(host string) {
		if !slices.Contains(hosts, host) {
			hosts = append(hosts, host)
		}
	}
	for _, host := range v.Hosts {
		for _, server := range servers {
			if server.Namespace != "*" && server.Namespace != v.Namespace {
				continue
			}
			if mesh.HostCovers(server.Host, host) {
				add(host)
			} else if mesh.HostCovers(host, server.Host) {
				add(server.Host)
			}
		}
	}
	return hosts
}
