package patch

import (
	"slices"
	"strconv"
	"strings"

	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/proto"
	networking "istio.io/api/networking/v1alpha3"
)

// table applies the patches to a route table with its virtual hosts.
func (e *editor) table(t *route.RouteConfiguration, inbound bool) {
	e.tableAlone(t, inbound)
	if t.Vhds == nil {
		t.VirtualHosts = e.hosts(t.Name, inbound, t.VirtualHosts)
	}
}

func (e *editor) tableAlone(t *route.RouteConfiguration, inbound bool) {
	e.each(networking.EnvoyFilter_ROUTE_CONFIGURATION, inbound, func(p *one) {
		if p.merges() && matchesTable(p, t.Name) {
			e.mergeInto(p, t)
		}
	})
}

// host applies the patches to a virtual host that is sent by itself, and says whether it stays. Its resource's name is its
// own, whatever takes its place.
func (e *editor) host(table string, h *route.VirtualHost) bool {
	name, stays := h.Name, true
	e.each(networking.EnvoyFilter_VIRTUAL_HOST, false, func(p *one) {
		vhost := p.GetMatch().GetRouteConfiguration().GetVhost()
		if !stays || p.adds() || !matchesTable(p, table) || !matchesHost(vhost, h) {
			return
		}
		left := edit(e, p, []*route.VirtualHost{h}, false, func(*route.VirtualHost) bool { return true }, 0)
		if stays = len(left) > 0; stays && left[0] != h {
			proto.Reset(h)
			proto.Merge(h, left[0])
		}
		h.Name = name
	})
	if stays {
		e.routes(table, false, h)
	}
	return stays
}

// hosts applies the patches to the virtual hosts of a table.
func (e *editor) hosts(table string, inbound bool, hosts []*route.VirtualHost) []*route.VirtualHost {
	e.each(networking.EnvoyFilter_VIRTUAL_HOST, inbound, func(p *one) {
		if matchesTable(p, table) {
			vhost := p.GetMatch().GetRouteConfiguration().GetVhost()
			hosts = edit(e, p, hosts, vhost.GetName() == "" && vhost.GetDomainName() == "", func(h *route.VirtualHost) bool { return matchesHost(vhost, h) }, 0)
		}
	})
	for _, h := range hosts {
		e.routes(table, inbound, h)
	}
	return hosts
}

// routes applies the patches to the routes of a virtual host.
func (e *editor) routes(table string, inbound bool, h *route.VirtualHost) {
	e.each(networking.EnvoyFilter_HTTP_ROUTE, inbound, func(p *one) {
		vhost := p.GetMatch().GetRouteConfiguration().GetVhost()
		if !matchesTable(p, table) || !matchesHost(vhost, h) {
			return
		}
		match := vhost.GetRoute()
		h.Routes = edit(e, p, h.Routes, match.GetName() == "", func(r *route.Route) bool { return matchesRoute(match, r) }, 0)
	})
}

// matchesTable compares with a table's name: 80 or host:80 of sidecars, inbound|80||, http.80 and
// https.443.PORTNAME.GATEWAY.NAMESPACE of gateways.
func matchesTable(p *one, name string) bool {
	match := p.GetMatch().GetRouteConfiguration()
	if match == nil {
		return true
	}
	if match.Name != "" && match.Name != name {
		return false
	}
	port, portName, gateway := tableParts(name)
	return (match.PortNumber == 0 || strconv.Itoa(int(match.PortNumber)) == port) && (match.PortName == "" || match.PortName == portName) &&
		(match.Gateway == "" || match.Gateway == gateway)
}

func tableParts(name string) (port, portName, gateway string) {
	switch {
	case strings.HasPrefix(name, "inbound|"):
		return strings.Split(name, "|")[1], "", ""
	case strings.HasPrefix(name, "http."):
		return strings.TrimPrefix(name, "http."), "", ""
	case strings.HasPrefix(name, "https."):
		parts := strings.Split(name, ".")
		if len(parts) == 5 {
			return parts[1], parts[2], parts[4] + "/" + parts[3]
		}
	}
	return name[strings.LastIndexByte(name, ':')+1:], "", ""
}

// matchesHost compares with a virtual host, whose name may have its table's before it.
func matchesHost(match *networking.EnvoyFilter_RouteConfigurationMatch_VirtualHostMatch, h *route.VirtualHost) bool {
	name := h.GetName()
	if i := strings.IndexByte(name, '/'); i >= 0 {
		name = name[i+1:]
	}
	return (match.GetName() == "" || match.GetName() == name) && (match.GetDomainName() == "" || slices.Contains(h.GetDomains(), match.GetDomainName()))
}

func matchesRoute(match *networking.EnvoyFilter_RouteConfigurationMatch_RouteMatch, r *route.Route) bool {
	if match.GetName() != "" && match.GetName() != r.GetName() {
		return false
	}
	switch match.GetAction() {
	case networking.EnvoyFilter_RouteConfigurationMatch_RouteMatch_ROUTE:
		return r.GetRoute() != nil
	case networking.EnvoyFilter_RouteConfigurationMatch_RouteMatch_REDIRECT:
		return r.GetRedirect() != nil
	case networking.EnvoyFilter_RouteConfigurationMatch_RouteMatch_DIRECT_RESPONSE:
		return r.GetDirectResponse() != nil
	}
	return true
}
