package scope

import (
	"slices"
	"strings"

	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
	"github.com/slipway-mesh/slipway/internal/discovery/world"
)

// configure is the mesh's configuration with what a Sidecar says of hosts in no registry in place of the mesh's.
func (s *Scope) configure(w *world.World) *mesh.Config {
	config := withSettings(watched(w, s.telemetries(w)), s.Settings)
	if s.Sidecar == nil || s.Sidecar.Policy == nil {
		return config
	}
	out := *config
	out.Of = w.Config
	out.AllowAny, out.EgressProxy, out.ResolveOutside = s.Sidecar.Policy.AllowAny, s.Sidecar.Policy.Proxy, false
	return &out
}

// imported says which services a Sidecar lets callers see: those that a way out names, and those that a VirtualService which it names
// sends to. Without a Sidecar it is nil, which is all.
func (s *Scope) imported(w *world.World) func(*mesh.Service) bool {
	if !s.Sidecar.Restricts() {
		return nil
	}
	return func(service *mesh.Service) bool {
		return slices.ContainsFunc(s.Sidecar.Egress, func(e *mesh.Egress) bool { return e.Imports(service.Namespace, service.Host) }) || s.led(w, service.Host) ||
			s.Config.Watches.Uses(service.Host)
	}
}

// led says whether a VirtualService that the scope follows sends to a host.
func (s *Scope) led(w *world.World, host string) bool {
	return slices.ContainsFunc(world.Below(w.Leading, host), func(v *mesh.VirtualService) bool {
		return v.OnMesh() && v.VisibleFrom(s.Namespace, w.Config) && s.Sidecar.ImportsRoutes(v)
	})
}

// proxiesFor are the HTTP proxies by which a host that a namespace has is called.
func (s *Scope) proxiesFor(namespace, host string) []mesh.HTTPProxy {
	var out []mesh.HTTPProxy
	if s.Sidecar.Restricts() {
		for _, way := range s.Sidecar.Egress {
			if way.Proxy && way.Imports(namespace, host) {
				out = append(out, mesh.HTTPProxy{Bind: way.Bind, Port: way.Port})
			}
		}
	}
	return out
}

// narrow leaves a service the ports that a way out leads to, and gives it the mesh's own addresses where its callers' DNS tells of them. A service that stays as it was narrowed before is the same one.
func (s *Scope) narrow(w *world.World, service *mesh.Service) *mesh.Service {
	if service == nil {
		return nil
	}
	ports, addresses := service.Ports, service.Addresses
	if s.Names != "" && len(addresses) == 0 && !service.Headless {
		addresses = slices.DeleteFunc(slices.Clone(service.Allocated), func(address string) bool { return !strings.Contains(s.Names, family(address)) })
	}
	if s.Sidecar.Restricts() {
		ports = s.portsLedTo(w, service)
	}
	if slices.Equal(ports, service.Ports) && slices.Equal(addresses, service.Addresses) {
		return service
	}
	if len(ports) == 0 {
		return nil
	}
	if before, _ := s.Hosts.Get([]byte(service.Host)); before != nil && before.Whole == service && before.Service != nil && slices.Equal(before.Service.Ports, ports) && slices.Equal(before.Service.Addresses, addresses) {
		return before.Service
	}
	out := *service
	out.Ports, out.Addresses = ports, addresses
	return &out
}

func family(address string) string {
	if strings.Contains(address, ":") {
		return "6"
	}
	return "4"
}

// portsLedTo are the ports of a service that some way out leads to.
func (s *Scope) portsLedTo(w *world.World, service *mesh.Service) []mesh.Port {
	led, proxies := s.led(w, service.Host) || s.Config.Watches.Uses(service.Host), s.proxiesFor(service.Namespace, service.Host)
	var ports []mesh.Port
	for _, port := range service.Ports {
		way := s.Sidecar.WayTo(port.Number)
		switch {
		case way != nil && (led || way.Imports(service.Namespace, service.Host)):
			port.Bind, port.Bound = way.Bind, way.Bound
		case len(proxies) > 0:
			port.Hidden = true
		default:
			continue
		}
		ports = append(ports, port)
	}
	return ports
}
