package scope

import (
	"slices"

	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
	"github.com/slipway-mesh/slipway/internal/discovery/world"
)

// configure is the mesh's configuration with what a Sidecar says of hosts in no registry in place of the mesh's.
func (s *Scope) configure(w *world.World) *mesh.Config {
	if s.Sidecar == nil || s.Sidecar.Policy == nil {
		return w.Config
	}
	out := *w.Config
	out.AllowAny, out.EgressProxy = s.Sidecar.Policy.AllowAny, s.Sidecar.Policy.Proxy
	return &out
}

// imported says which services a Sidecar lets callers see: those that a way out names, and those that a VirtualService which it names
// sends to. Without a Sidecar it is nil, which is all.
func (s *Scope) imported(w *world.World) func(*mesh.Service) bool {
	if !s.Sidecar.Restricts() {
		return nil
	}
	return func(service *mesh.Service) bool {
		return slices.ContainsFunc(s.Sidecar.Egress, func(e *mesh.Egress) bool { return e.Imports(service.Namespace, service.Host) }) || s.led(w, service.Host)
	}
}

// led says whether a VirtualService that the scope follows sends to a host.
func (s *Scope) led(w *world.World, host string) bool {
	return slices.ContainsFunc(world.Below(w.Leading, host), func(v *mesh.VirtualService) bool {
		return v.OnMesh() && v.VisibleFrom(s.Namespace, w.Config) && s.Sidecar.ImportsRoutes(v)
	})
}

// narrow leaves a service the ports that a way out leads to. A service that stays as it was narrowed before is the same one.
func (s *Scope) narrow(w *world.World, service *mesh.Service) *mesh.Service {
	if service == nil || !s.Sidecar.Restricts() {
		return service
	}
	led := s.led(w, service.Host)
	var ports []mesh.Port
	for _, port := range service.Ports {
		way := s.Sidecar.WayTo(port.Number)
		if way == nil || !led && !way.Imports(service.Namespace, service.Host) {
			continue
		}
		port.Bind, port.Bound = way.Bind, way.Bound
		ports = append(ports, port)
	}
	if slices.Equal(ports, service.Ports) {
		return service
	}
	if len(ports) == 0 {
		return nil
	}
	if before, _ := s.Hosts.Get([]byte(service.Host)); before != nil && before.Whole == service && before.Service != nil && slices.Equal(before.Service.Ports, ports) {
		return before.Service
	}
	out := *service
	out.Ports = ports
	return &out
}
