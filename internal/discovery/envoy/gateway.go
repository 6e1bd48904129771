package envoy

import (
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"

	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
)

// GatewaySections are what a gateway proxy serves. Gateways of one workload share them.
type GatewaySections struct{ Listeners, Tables, VirtualHosts *Section }

// Edge is what a gateway's resources depend on beside its ports.
type Edge struct {
	Config *mesh.Config
	Guard  *mesh.Guard
	Lookup Lookup
}

// EmptyGateway serves nothing.
func EmptyGateway() GatewaySections {
	return GatewaySections{EmptySection(), EmptySection(), EmptySection()}
}

// Next makes the sections for the ports; what is equal stays the same resource, and an equal whole the same section.
func (g GatewaySections) Next(e Edge, ports []*mesh.GatewayPort) GatewaySections {
	listeners, tables, hosts := map[string]*Resource{}, map[string]*Resource{}, map[string]*Resource{}
	for _, port := range ports {
		switch first := port.Servers[0]; {
		case first.Protocol.IsHTTP():
			table := tableName("http."+itoa(port.Port), port)
			listeners[listenerName(port)] = gatewayHTTP(e, port, table)
			fill(tables, hosts, table, gatewayHosts(e, port.Port, port.Servers))
		default:
			opened, servers := gatewayChains(e, port)
			if opened != nil {
				listeners[opened.Name] = opened
			}
			for table, server := range servers {
				fill(tables, hosts, table, gatewayHosts(e, port.Port, []mesh.GatewayServer{server}))
			}
		}
	}
	return GatewaySections{become(g.Listeners, listeners), become(g.Tables, tables), become(g.VirtualHosts, hosts)}
}

// fill adds a table and its virtual hosts.
func fill(tables, hosts map[string]*Resource, table string, list []*route.VirtualHost) {
	tables[table] = vhdsTable(table)
	for _, host := range list {
		resource := tableResource(table, host)
		hosts[resource.Name] = resource
	}
}

// become makes a section hold exactly these resources.
func become(s *Section, resources map[string]*Resource) *Section {
	s.Each(func(r *Resource) {
		if _, there := resources[r.Name]; !there {
			resources[r.Name] = nil
		}
	})
	return s.Next(resources)
}

// HostsOf returns the virtual hosts of a table.
func (g GatewaySections) HostsOf(table string) []*Resource {
	return HostsIn(g.VirtualHosts, table)
}

func listenerName(port *mesh.GatewayPort) string { return bindAddress(port) + "_" + itoa(port.Port) }

func bindAddress(port *mesh.GatewayPort) string {
	if port.Bind != "" {
		return port.Bind
	}
	return wildcard
}

// tableName is Istio's name of a gateway's route table: it ends in the address where the port is not open on all.
func tableName(name string, port *mesh.GatewayPort) string {
	if port.Bind != "" {
		return name + "." + port.Bind
	}
	return name
}

func gatewayHTTP(e Edge, port *mesh.GatewayPort, table string) *Resource {
	return NewResource(listenerName(port), throughBalancer(&listener.Listener{
		Name: listenerName(port), Address: address(bindAddress(port), port.Port), TrafficDirection: core.TrafficDirection_OUTBOUND,
		FilterChains: []*listener.FilterChain{{Filters: []*listener.Filter{managerFilter(gatewayManager(e, port, port.Servers[0], table))}}},
	}, e.Config.Settings))
}

// gatewayManager is at the edge: it trusts no address or certificate that a client tells of. A server's name is that of its counters.
func gatewayManager(e Edge, port *mesh.GatewayPort, server mesh.GatewayServer, table string) *hcm.HttpConnectionManager {
	counters := "outbound_" + listenerName(port)
	if server.Name != "" {
		counters = server.Name
	}
	m := guarded(rds(manager(outboundSide(e.Config, e.Lookup.Flavour), counters), table), httpGuards(e.Config, e.Guard))
	m.UseRemoteAddress = boolean(true)
	m.ForwardClientCertDetails = hcm.HttpConnectionManager_SANITIZE_SET
	m.SetCurrentClientCertDetails = &hcm.HttpConnectionManager_SetCurrentClientCertDetails{Subject: boolean(true), Cert: true, Dns: true, Uri: true}
	return withHeaders(behind(m, e.Config.Settings), e.Config.Settings)
}

// gatewayHosts merges the VirtualServices of servers by host: routes in the order of age, those that take everything last.
func gatewayHosts(e Edge, port uint32, servers []mesh.GatewayServer) []*route.VirtualHost {
	c := routeContext{config: e.Config, lookup: e.Lookup}
	byHost := map[string]*route.VirtualHost{}
	var order []string
	for _, server := range servers {
		c.port = server.Port
		for _, v := range server.Routes {
			routes := routesOf(v, c)
			if len(routes) == 0 {
				continue
			}
			for _, host := range v.Hosts {
				there := byHost[host]
				if there == nil {
					there = &route.VirtualHost{Name: host + ":" + itoa(port), Domains: []string{host}, IncludeRequestAttemptCount: !e.Config.Settings.OfRoutes().Uncounted}
					byHost[host] = there
					order = append(order, host)
				}
				there.Routes = append(there.Routes, routes...)
				if server.TLS.GetHttpsRedirect() {
					there.RequireTls = route.VirtualHost_ALL
				}
			}
		}
	}
	out := make([]*route.VirtualHost, 0, len(order)+1)
	for _, host := range order {
		byHost[host].Routes = catchAllLast(byHost[host].Routes)
		out = append(out, byHost[host])
	}
	if byHost["*"] == nil { // nothing is routed here: 404, as an empty gateway says; and the table has a virtual host
		out = append(out, &route.VirtualHost{Name: "blackhole:" + itoa(port), Domains: []string{"*"}})
	}
	return out
}

func catchAllLast(routes []*route.Route) []*route.Route {
	var first, last []*route.Route
	for _, r := range routes {
		if m := r.Match; m.GetPrefix() == "/" && len(m.Headers)+len(m.QueryParameters) == 0 {
			last = append(last, r)
		} else {
			first = append(first, r)
		}
	}
	return append(first, last...)
}
