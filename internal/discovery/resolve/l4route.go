package resolve

import (
	"fmt"

	api "istio.io/api/networking/v1alpha3"

	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
)

// convertTLS makes one L4Route a match, so that each can be matched by itself.
func convertTLS(names naming, from *api.TLSRoute, field string, r *report) []*mesh.L4Route {
	destinations := convertL4Destinations(names, from.Route, field, r)
	if len(from.Match) == 0 {
		r.refuse(field+".match", "is required: a tls rule matches by sniHosts")
	}
	var out []*mesh.L4Route
	for i, m := range from.Match {
		if len(m.SniHosts) == 0 {
			r.refuse(fmt.Sprintf("%s.match[%d].sniHosts", field, i), "is required")
			continue
		}
		out = append(out, &mesh.L4Route{SNIHosts: m.SniHosts, Ports: portList(m.Port), Subnets: m.DestinationSubnets,
			Gateways: gatewayList(m.Gateways, names.namespace), SourceLabels: m.SourceLabels, SourceNS: m.SourceNamespace, Destinations: destinations})
	}
	return out
}

func convertTCP(names naming, from *api.TCPRoute, field string, r *report) []*mesh.L4Route {
	destinations := convertL4Destinations(names, from.Route, field, r)
	if len(from.Match) == 0 {
		return []*mesh.L4Route{{Destinations: destinations}}
	}
	var out []*mesh.L4Route
	for _, m := range from.Match {
		out = append(out, &mesh.L4Route{Ports: portList(m.Port), Subnets: m.DestinationSubnets,
			Gateways: gatewayList(m.Gateways, names.namespace), SourceLabels: m.SourceLabels, SourceNS: m.SourceNamespace, Destinations: destinations})
	}
	return out
}

func convertL4Destinations(names naming, routes []*api.RouteDestination, field string, r *report) []mesh.Destination {
	if len(routes) == 0 {
		r.refuse(field+".route", "is required")
	}
	var out []mesh.Destination
	for i, route := range routes {
		out = append(out, convertDestination(names, route.Destination, uint32(route.Weight), nil, fmt.Sprintf("%s.route[%d].destination", field, i), r))
	}
	return out
}

func portList(port uint32) []uint32 {
	if port == 0 {
		return nil
	}
	return []uint32{port}
}

// gatewayList leaves an empty list empty: the VirtualService's own gateways count then.
func gatewayList(gateways []string, namespace string) []string {
	if len(gateways) == 0 {
		return nil
	}
	return gatewayNames(gateways, namespace)
}
