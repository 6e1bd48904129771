package explain

import (
	"fmt"
	"strings"

	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcp "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	matcher "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
)

// Match is a filter chain's match in words; ALL for none.
func Match(m *listener.FilterChainMatch) string {
	var parts []string
	if port := m.GetDestinationPort(); port != nil {
		parts = append(parts, fmt.Sprintf("Port: %d", port.Value))
	}
	for _, r := range m.GetPrefixRanges() {
		parts = append(parts, fmt.Sprintf("Addr: %s/%d", r.AddressPrefix, r.GetPrefixLen().GetValue()))
	}
	if names := m.GetServerNames(); len(names) > 0 {
		parts = append(parts, "SNI: "+strings.Join(names, ","))
	}
	if transport := m.GetTransportProtocol(); transport != "" {
		parts = append(parts, "Trans: "+transport)
	}
	if protocols := m.GetApplicationProtocols(); len(protocols) > 0 {
		parts = append(parts, "App: "+strings.Join(protocols, ","))
	}
	if len(parts) == 0 {
		return "ALL"
	}
	return strings.Join(parts, "; ")
}

// Destination is whether a filter chain speaks HTTP or TCP, and where what it takes goes: a route table, a cluster, or
// several.
func Destination(chain *listener.FilterChain) (kind, where string) {
	for _, filter := range chain.GetFilters() {
		if h := (&hcm.HttpConnectionManager{}); filter.GetTypedConfig().MessageIs(h) && filter.GetTypedConfig().UnmarshalTo(h) == nil {
			if name := h.GetRds().GetRouteConfigName(); name != "" {
				return "HTTP", "Route: " + name
			}
			return "HTTP", inline(h.GetRouteConfig())
		}
		if t := (&tcp.TcpProxy{}); filter.GetTypedConfig().MessageIs(t) && filter.GetTypedConfig().UnmarshalTo(t) == nil {
			return "TCP", "Cluster: " + strings.Join(clustersOf(t), ", ")
		}
	}
	return "TCP", "Non-HTTP/Non-TCP"
}

func inline(table *route.RouteConfiguration) string {
	for _, host := range table.GetVirtualHosts() {
		for _, r := range host.Routes {
			if name := r.GetRoute().GetCluster(); name != "" {
				return "Cluster: " + name
			}
		}
	}
	return "Inline Route"
}

func clustersOf(t *tcp.TcpProxy) []string {
	if name := t.GetCluster(); name != "" {
		return []string{name}
	}
	var names []string
	for _, c := range t.GetWeightedClusters().GetClusters() {
		names = append(names, fmt.Sprintf("%s (%d)", c.Name, c.Weight))
	}
	return names
}

// RouteMatch is a route's match in words.
func RouteMatch(m *route.RouteMatch) string {
	var parts []string
	switch p := m.GetPathSpecifier().(type) {
	case *route.RouteMatch_Prefix:
		parts = append(parts, p.Prefix+"*")
	case *route.RouteMatch_PathSeparatedPrefix:
		parts = append(parts, "prefix "+p.PathSeparatedPrefix)
	case *route.RouteMatch_Path:
		parts = append(parts, p.Path)
	case *route.RouteMatch_SafeRegex:
		parts = append(parts, "regex "+p.SafeRegex.GetRegex())
	}
	for _, h := range m.GetHeaders() {
		parts = append(parts, "header "+not(h.InvertMatch)+h.Name+stringText(h.GetStringMatch()))
	}
	for _, q := range m.GetQueryParameters() {
		parts = append(parts, "query "+q.Name+stringText(q.GetStringMatch()))
	}
	if len(m.GetDynamicMetadata()) > 0 {
		parts = append(parts, "token's claims")
	}
	return strings.Join(parts, ", ")
}

func not(inverted bool) string {
	if inverted {
		return "not "
	}
	return ""
}

func stringText(m *matcher.StringMatcher) string {
	switch p := m.GetMatchPattern().(type) {
	case *matcher.StringMatcher_Exact:
		return "=" + p.Exact
	case *matcher.StringMatcher_Prefix:
		return "=" + p.Prefix + "*"
	case *matcher.StringMatcher_Suffix:
		return "=*" + p.Suffix
	case *matcher.StringMatcher_Contains:
		return "=*" + p.Contains + "*"
	case *matcher.StringMatcher_SafeRegex:
		return "~" + p.SafeRegex.GetRegex()
	}
	return ""
}

// Address is where an endpoint is: ADDRESS:PORT, or a pipe.
func Address(e *endpoint.LbEndpoint) string {
	at := e.GetEndpoint().GetAddress()
	if pipe := at.GetPipe(); pipe != nil {
		return "unix://" + pipe.Path
	}
	if inner := at.GetEnvoyInternalAddress(); inner != nil {
		return "envoy://" + inner.GetServerListenerName()
	}
	return fmt.Sprintf("%s:%d", at.GetSocketAddress().GetAddress(), at.GetSocketAddress().GetPortValue())
}

// Locality is REGION/ZONE/SUBZONE without empty ends.
func Locality(group *endpoint.LocalityLbEndpoints) string {
	l := group.GetLocality()
	return strings.TrimRight(l.GetRegion()+"/"+l.GetZone()+"/"+l.GetSubZone(), "/")
}
