package resolve

import (
	"fmt"
	"slices"
	"strings"

	api "istio.io/api/networking/v1alpha3"
	networking "istio.io/client-go/pkg/apis/networking/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
	"github.com/slipway-mesh/slipway/internal/discovery/source"
	"github.com/slipway-mesh/slipway/internal/discovery/world"
)

// Analyze says what is wrong with how objects refer to one another. It is computed when somebody asks: what another object's change makes
// wrong need not cost that change.
func (s *State) Analyze() []Problem {
	r := &report{}
	s.routes.Root().Walk(func(_ []byte, object *networking.VirtualService) bool {
		s.analyzeRoutes(object, r)
		return false
	})
	s.World.Rules.Root().Walk(func(_ []byte, rule *mesh.DestinationRule) bool {
		s.analyzeRule(rule, r)
		return false
	})
	s.World.Gateways.Root().Walk(func(_ []byte, gateway *mesh.Gateway) bool {
		s.analyzeGateway(gateway, r)
		return false
	})
	s.services.Root().Walk(func(_ []byte, service *corev1.Service) bool {
		s.analyzeService(service, r)
		return false
	})
	for _, analyze := range []func(*report){s.analyzeSidecars, s.analyzeSelectors, s.analyzeHosts, s.analyzeServers, s.analyzeSecurity, s.analyzeEntries, s.analyzeShared, s.analyzePatches, s.analyzeTelemetry} {
		analyze(r)
	}
	return r.list
}

// CheckIn says what would be wrong with an object if it were stored among the others that there are.
func CheckIn(state *State, kind, namespace, name string, object any) []Problem {
	next, _ := Next(state, []source.Change{{Kind: kind, Namespace: namespace, Name: name, Object: object}})
	r := &report{}
	switch o := object.(type) {
	case *networking.VirtualService:
		next.analyzeRoutes(o, r)
	case *networking.DestinationRule:
		if rule, ok := next.World.Rules.Get(world.Key(naming{next.options.Domain, namespace}.full(o.Spec.Host), namespace, name)); ok {
			next.analyzeRule(rule, r)
		}
	}
	return append(Check(next.options, kind, namespace, name, object), r.list...)
}

func (s *State) analyzeRoutes(object *networking.VirtualService, r *report) {
	r.kind, r.namespace, r.name = "VirtualService", object.Namespace, object.Name
	names := naming{s.options.Domain, object.Namespace}
	for i, gateway := range object.Spec.Gateways {
		full := gatewayNames([]string{gateway}, object.Namespace)[0]
		found, there := s.World.Gateways.Get([]byte(full))
		field := fmt.Sprintf("spec.gateways[%d]", i)
		switch {
		case full == "mesh":
		case !there:
			r.warn(field, ReasonReference, "there is no Gateway %s", full)
		case !takes(found, object, names):
			r.warn(field, ReasonHost, "no server of Gateway %s takes any of the hosts; add one of them to its servers' hosts", full)
		}
	}
	s.analyzeClaims(object, r)
	destinations(&object.Spec, func(to *api.Destination, field string) { s.analyzeDestination(names, to, field, r) })
}

// destinations visits what a VirtualService sends to, each with its field; a destination may be nil.
func destinations(spec *api.VirtualService, visit func(to *api.Destination, field string)) {
	for i, rule := range spec.Http {
		for k, route := range rule.Route {
			visit(route.Destination, fmt.Sprintf("spec.http[%d].route[%d].destination", i, k))
		}
		visit(rule.Mirror, fmt.Sprintf("spec.http[%d].mirror", i))
		for k, mirror := range rule.Mirrors {
			visit(mirror.Destination, fmt.Sprintf("spec.http[%d].mirrors[%d].destination", i, k))
		}
	}
	for i, rule := range spec.Tls {
		for k, route := range rule.Route {
			visit(route.Destination, fmt.Sprintf("spec.tls[%d].route[%d].destination", i, k))
		}
	}
	for i, rule := range spec.Tcp {
		for k, route := range rule.Route {
			visit(route.Destination, fmt.Sprintf("spec.tcp[%d].route[%d].destination", i, k))
		}
	}
}

// takes says whether any server of a Gateway takes any host of a VirtualService.
func takes(gateway *mesh.Gateway, object *networking.VirtualService, names naming) bool {
	return slices.ContainsFunc(gateway.Servers, func(server mesh.Server) bool {
		return slices.ContainsFunc(server.Hosts, func(h mesh.ServerHost) bool {
			return (h.Namespace == "*" || h.Namespace == object.Namespace) && slices.ContainsFunc(object.Spec.Hosts, func(host string) bool {
				full := names.full(host)
				return mesh.HostCovers(h.Host, full) || mesh.HostCovers(full, h.Host)
			})
		})
	})
}

func (s *State) analyzeDestination(names naming, to *api.Destination, field string, r *report) {
	if to == nil || to.Host == "" { // its own check tells
		return
	}
	host := names.full(to.Host)
	service := s.known(host, names.namespace)
	if service == nil {
		r.warn(field+".host", ReasonReference, "there is no Service or ServiceEntry %s that namespace %s sees; requests are answered 503", host, names.namespace)
		return
	}
	switch number := to.GetPort().GetNumber(); {
	case number == 0 && len(service.Ports) > 1:
		r.warn(field+".port", ReasonPort, "%s has %d ports; without one here the caller's is taken", host, len(service.Ports))
	case number != 0 && len(service.Ports) > 0 && !slices.ContainsFunc(service.Ports, func(p mesh.Port) bool { return p.Number == number }):
		r.warn(field+".port.number", ReasonReference, "%s has no port %d; requests are answered 503", host, number)
	}
	if to.Subset != "" && !s.hasSubset(service, host, names.namespace, to.Subset) {
		r.warn(field+".subset", ReasonReference, "no DestinationRule for %s has the subset %s; requests are answered 503", host, to.Subset)
	}
}

// hasSubset says whether the rule of a host has a subset, for callers in a namespace.
func (s *State) hasSubset(service *mesh.Service, host, namespace, subset string) bool {
	rule := s.World.Rule(host, namespace, service.Namespace, func(*mesh.DestinationRule) bool { return true })
	return rule != nil && slices.ContainsFunc(rule.Subsets, func(s mesh.Subset) bool { return s.Name == subset })
}

// known is what callers of a namespace mean by a host, which may be a part of a wildcard.
func (s *State) known(host, namespace string) *mesh.Service {
	for _, pattern := range mesh.Wildcards(host) {
		if service := s.World.Service(pattern, namespace, nil); service != nil {
			return service
		}
	}
	return nil
}

func (s *State) analyzeRule(rule *mesh.DestinationRule, r *report) {
	r.kind, r.namespace, r.name = "DestinationRule", rule.Namespace, rule.Name
	found := s.known(rule.Host, rule.Namespace) != nil
	if !found && rule.Host != "*" && rule.Host[0] == '*' {
		s.World.Services.Root().Walk(func(_ []byte, service *mesh.Service) bool {
			found = mesh.HostCovers(rule.Host, service.Host)
			return found
		})
	}
	if !found && rule.Host != "*" {
		r.warn("spec.host", ReasonReference, "there is no Service or ServiceEntry %s that namespace %s sees; the rule has no effect", rule.Host, rule.Namespace)
	}
}

func (s *State) analyzeGateway(gateway *mesh.Gateway, r *report) {
	if gateway.Kind != "Gateway" || len(gateway.Selector) == 0 {
		return
	}
	r.kind, r.namespace, r.name = "Gateway", gateway.Namespace, gateway.Name
	found := false
	s.pods.Root().Walk(func(_ []byte, pod *corev1.Pod) bool {
		found = mesh.MatchesLabels(gateway.Selector, pod.Labels)
		return found
	})
	if !found {
		r.warn("spec.selector", ReasonReference, "selects no Pod, so that no port is opened")
	}
}

func (s *State) analyzeService(service *corev1.Service, r *report) {
	r.kind, r.namespace, r.name = "Service", service.Namespace, service.Name
	if service.Namespace == s.options.RootNamespace || strings.HasPrefix(service.Namespace, "kube-") {
		return // nobody who looks at the mesh wrote these
	}
	for i, port := range service.Spec.Ports {
		if protocolOf(port) == mesh.Auto && port.AppProtocol == nil {
			r.warn(fmt.Sprintf("spec.ports[%d].name", i), ReasonPortName, "%q tells no protocol, so that it is found out from the first bytes; begin it with http-, grpc-, tcp- or such, or set appProtocol", port.Name)
		}
	}
}

// analyzeSidecars tells of namespaces with several Sidecars for all workloads.
func (s *State) analyzeSidecars(r *report) {
	first := map[string]string{}
	s.World.Sidecars.Root().Walk(func(_ []byte, sidecar *mesh.Sidecar) bool {
		if len(sidecar.Selector) > 0 {
			return false
		}
		if other, there := first[sidecar.Namespace]; there {
			r.kind, r.namespace, r.name = "Sidecar", sidecar.Namespace, sidecar.Name
			r.warn("spec.workloadSelector", ReasonDuplicate, "is empty as that of Sidecar %s is; only the older of both counts", other)
		}
		first[sidecar.Namespace] = sidecar.Name
		return false
	})
}
