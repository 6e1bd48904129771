package envoy

import (
	"net/netip"
	"slices"
	"strings"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	httpinspector "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/http_inspector/v3"
	originaldst "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/original_dst/v3"
	tlsinspector "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	"google.golang.org/protobuf/proto"

	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
)

const (
	outboundPort = 15001
	inboundPort  = 15006
	wildcard     = "0.0.0.0"
)

// shape is what kind of traffic a listener is opened for. Of several that want one address, the lower wins.
type shape int

const (
	shapeHTTP shape = iota
	shapeSniff
	shapeMatched // chains that server names or address ranges tell apart
	shapeTCP
)

// part is what one host wants of a listener.
type part struct {
	listener string // its name, ADDRESS_PORT
	bound    bool   // callers connect to it themselves
	shape    shape
	port     uint32
	host     string
	table    string // of routes
	chains   []*listener.FilterChain
}

// parts lists what a host wants of which listeners.
func parts(config *mesh.Config, o *mesh.Outbound, lookup Lookup) []*part {
	var out []*part
	for _, proxy := range o.Proxies {
		out = append(out, &part{listener: proxy.Bind + "_" + itoa(proxy.Port), bound: true, shape: shapeHTTP, port: proxy.Port, host: o.Host, table: proxyTable})
	}
	if o.Service == nil {
		if o.Routes == nil || len(o.Routes.HTTP) == 0 {
			return nil
		}
		return append(out, &part{listener: wildcard + "_80", shape: shapeHTTP, port: 80, host: o.Host, table: webTable})
	}
	for _, port := range o.Service.Ports {
		switch {
		case port.Hidden:
		case port.Protocol.IsHTTP():
			out = append(out, &part{listener: bindOf(port) + "_" + itoa(port.Number), bound: port.Bound, shape: shapeHTTP, port: port.Number, host: o.Host, table: itoa(port.Number)})
		case port.Bind != "": // the Sidecar's listener is one host's alone: the first by name
			out = append(out, &part{listener: port.Bind + "_" + itoa(port.Number), bound: port.Bound, shape: shapeTCP, port: port.Number, host: o.Host,
				chains: l4Chains(config, o, port, port.Protocol == mesh.HTTPS || port.Protocol == mesh.TLS, lookup)})
		case o.Service.Headless:
			// Connections go to pods' own addresses: the passthrough cluster takes them there.
		default:
			out = append(out, addressed(config, o, port, lookup)...)
		}
	}
	return out
}

// bindOf is the address on which a port of several hosts is opened.
func bindOf(port mesh.Port) string {
	if port.Bind != "" {
		return port.Bind
	}
	return wildcard
}

// addressed are the listeners of a port whose protocol is not HTTP: one a virtual IP, or on all addresses where there is
// none and the server name tells the hosts apart.
func addressed(config *mesh.Config, o *mesh.Outbound, port mesh.Port, lookup Lookup) []*part {
	isTLS := port.Protocol == mesh.HTTPS || port.Protocol == mesh.TLS
	var out []*part
	for _, ip := range o.Service.Addresses {
		if ranges, err := netip.ParsePrefix(ip); err == nil {
			out = append(out, &part{listener: wildcard + "_" + itoa(port.Number), shape: shapeMatched, port: port.Number, host: o.Host,
				chains: within(ranges, l4Chains(config, o, port, isTLS, lookup))})
			continue
		}
		if _, err := netip.ParseAddr(ip); err != nil {
			continue // resolve has told
		}
		p := &part{listener: ip + "_" + itoa(port.Number), shape: shapeTCP, port: port.Number, host: o.Host}
		if port.Protocol == mesh.Auto {
			p.shape, p.table = shapeSniff, sniffedTable(o.Host, port.Number)
		}
		p.chains = l4Chains(config, o, port, isTLS, lookup)
		out = append(out, p)
	}
	if len(o.Service.Addresses) > 0 {
		return out
	}
	p := &part{listener: wildcard + "_" + itoa(port.Number), shape: shapeTCP, port: port.Number, host: o.Host, chains: l4Chains(config, o, port, isTLS, lookup)}
	if isTLS {
		p.shape = shapeMatched
		if o.Routes == nil || len(o.Routes.TLS) == 0 {
			p.chains = []*listener.FilterChain{{FilterChainMatch: serverNames([]string{o.Host}), Filters: p.chains[0].Filters}}
		}
	}
	return []*part{p}
}

// l4Chains are the filter chains of a port by the TLS or TCP rules of its VirtualService, or one chain to its cluster. Of TCP rules
// the first that asks for no addresses takes all; without such a one the port's own cluster does.
func l4Chains(config *mesh.Config, o *mesh.Outbound, port mesh.Port, isTLS bool, lookup Lookup) []*listener.FilterChain {
	plain := &listener.FilterChain{Filters: tcpToAny(config, []mesh.Destination{{Host: o.Host, Port: port.Number}}, lookup)}
	if o.Routes == nil {
		return []*listener.FilterChain{plain}
	}
	rules := o.Routes.TCP
	if isTLS {
		rules = o.Routes.TLS
	}
	var out []*listener.FilterChain
	seen := map[string]bool{}
	for _, rule := range rules {
		if len(rule.Destinations) == 0 || len(rule.Ports) > 0 && rule.Ports[0] != port.Number || len(rule.Gateways) > 0 && !slices.Contains(rule.Gateways, "mesh") {
			continue
		}
		chain := &listener.FilterChain{Filters: tcpToAny(config, withPorts(rule.Destinations, port.Number, lookup), lookup)}
		if isTLS {
			chain.FilterChainMatch = serverNames(rule.SNIHosts)
		}
		if len(rule.Subnets) > 0 {
			narrow(chain, rule.Subnets)
		} else if !isTLS {
			return appendDistinct(out, []*listener.FilterChain{chain}, seen)
		}
		out = appendDistinct(out, []*listener.FilterChain{chain}, seen)
	}
	if len(out) == 0 || !isTLS {
		return append(out, plain)
	}
	return out
}

// narrow keeps a chain to connections that were meant for some addresses.
func narrow(chain *listener.FilterChain, subnets []string) {
	if chain.FilterChainMatch == nil {
		chain.FilterChainMatch = &listener.FilterChainMatch{}
	}
	for _, subnet := range subnets {
		if !strings.Contains(subnet, "/") {
			if address, err := netip.ParseAddr(subnet); err == nil {
				subnet = netip.PrefixFrom(address, address.BitLen()).String()
			}
		}
		if ranges, err := netip.ParsePrefix(subnet); err == nil { // resolve has told of others
			chain.FilterChainMatch.PrefixRanges = append(chain.FilterChainMatch.PrefixRanges, prefixRange(ranges))
		}
	}
}

func prefixRange(ranges netip.Prefix) *core.CidrRange {
	return &core.CidrRange{AddressPrefix: ranges.Masked().Addr().String(), PrefixLen: u32(uint32(ranges.Bits()))}
}

// withPorts fills in the destinations' ports.
func withPorts(destinations []mesh.Destination, port uint32, lookup Lookup) []mesh.Destination {
	out := make([]mesh.Destination, len(destinations))
	for i, d := range destinations {
		d.Port = routeContext{port: port, lookup: lookup}.destinationPort(d)
		out[i] = d
	}
	return out
}

func serverNames(hosts []string) *listener.FilterChainMatch {
	var names []string
	for _, host := range hosts {
		if host == "*" {
			return &listener.FilterChainMatch{}
		}
		names = append(names, host)
	}
	return &listener.FilterChainMatch{ServerNames: names}
}

// assemble makes a listener of what hosts want of it. They come in the order of shape and then of host, so the first
// decides what it is.
func assemble(config *mesh.Config, flavour mesh.Flavour, wanted []*part) *Resource {
	first := wanted[0]
	ip, _, _ := strings.Cut(first.listener, "_")
	out := &listener.Listener{
		Name: first.listener, Address: address(ip, first.port), BindToPort: boolean(first.bound), TrafficDirection: core.TrafficDirection_OUTBOUND,
	}
	switch first.shape {
	case shapeHTTP:
		m := withHeaders(rds(manager(outboundSide(config, flavour), "outbound_"+first.listener), first.table), config.Settings)
		out.FilterChains = []*listener.FilterChain{{Filters: []*listener.Filter{managerFilter(m)}}}
	case shapeSniff:
		sniff(config, flavour, out, first)
	case shapeMatched:
		seen := map[string]bool{}
		for _, p := range wanted {
			out.FilterChains = appendDistinct(out.FilterChains, p.chains, seen)
		}
		matched(config, flavour, out)
	case shapeTCP:
		out.FilterChains = first.chains
		if last := len(first.chains) - 1; last > 0 && first.chains[last].FilterChainMatch == nil { // the others are for some addresses
			out.FilterChains, out.DefaultFilterChain = first.chains[:last], first.chains[last]
		}
		if bySNI(out.FilterChains) {
			matched(config, flavour, out)
		}
	}
	return NewResource(out.Name, out)
}

// matched lets what no chain takes go where it meant to go, and reads server names where they tell chains apart.
func matched(config *mesh.Config, flavour mesh.Flavour, out *listener.Listener) {
	if bySNI(out.FilterChains) {
		out.ListenerFilters = []*listener.ListenerFilter{tlsInspector()}
	}
	out.DefaultFilterChain = passthroughChain(config, flavour)
}

func bySNI(chains []*listener.FilterChain) bool {
	return slices.ContainsFunc(chains, func(c *listener.FilterChain) bool { return len(c.GetFilterChainMatch().GetServerNames()) > 0 })
}

// within narrows chains to connections that were meant for a range of addresses.
func within(ranges netip.Prefix, chains []*listener.FilterChain) []*listener.FilterChain {
	for _, chain := range chains {
		if chain.FilterChainMatch == nil {
			chain.FilterChainMatch = &listener.FilterChainMatch{}
		}
		chain.FilterChainMatch.PrefixRanges = []*core.CidrRange{prefixRange(ranges)}
	}
	return chains
}

// appendDistinct leaves out a chain whose match another has already: Envoy would refuse the listener.
func appendDistinct(chains, more []*listener.FilterChain, seen map[string]bool) []*listener.FilterChain {
	for _, chain := range more {
		key := string(pack(chain.GetFilterChainMatch()).GetValue())
		if !seen[key] {
			seen[key] = true
			chains = append(chains, chain)
		}
	}
	return chains
}

// sniff opens a listener of one service whose protocol the first bytes tell.
func sniff(config *mesh.Config, flavour mesh.Flavour, out *listener.Listener, p *part) {
	m := withHeaders(rds(manager(outboundSide(config, flavour), "outbound_"+p.listener), p.table), config.Settings)
	beforeRouter(m, tellMesh(flavour))
	out.ListenerFilters = []*listener.ListenerFilter{tlsInspector(), httpInspector()}
	out.ListenerFiltersTimeout = detection(config)
	out.ContinueOnListenerFiltersTimeout = true
	out.FilterChains = []*listener.FilterChain{{
		FilterChainMatch: &listener.FilterChainMatch{TransportProtocol: "raw_buffer", ApplicationProtocols: []string{"http/1.1", "h2c"}},
		Filters:          []*listener.Filter{managerFilter(m)},
	}}
	if len(p.chains) > 0 {
		out.DefaultFilterChain = &listener.FilterChain{Filters: p.chains[0].Filters}
	}
}

func passthroughChain(config *mesh.Config, flavour mesh.Flavour) *listener.FilterChain {
	target := outside(config)
	return &listener.FilterChain{Name: target, Filters: []*listener.Filter{tcpTo(outboundSide(config, flavour), target)}}
}

// outside is the cluster of what is for no host that is known.
func outside(config *mesh.Config) string {
	switch {
	case config.EgressProxy.Host != "":
		return clusterOf(config.EgressProxy)
	case config.AllowAny:
		return PassthroughCluster
	}
	return BlackHoleCluster
}

// virtualOutbound takes what was captured on its way out, and hands it to the listener of its original destination.
func virtualOutbound(config *mesh.Config, flavour mesh.Flavour) *Resource {
	return NewResource("virtualOutbound", &listener.Listener{
		Name: "virtualOutbound", Address: address(wildcard, outboundPort), UseOriginalDst: boolean(true), TrafficDirection: core.TrafficDirection_OUTBOUND,
		FilterChains: []*listener.FilterChain{{
			Name: "virtualOutbound-blackhole", FilterChainMatch: &listener.FilterChainMatch{DestinationPort: u32(outboundPort)},
			Filters: []*listener.Filter{tcpTo(outboundSide(config, flavour), BlackHoleCluster)},
		}},
		DefaultFilterChain: passthroughChain(config, flavour),
	})
}

func listenerFilter(name string, message proto.Message) *listener.ListenerFilter {
	return &listener.ListenerFilter{Name: name, ConfigType: &listener.ListenerFilter_TypedConfig{TypedConfig: pack(message)}}
}

func tlsInspector() *listener.ListenerFilter {
	return listenerFilter("envoy.filters.listener.tls_inspector", &tlsinspector.TlsInspector{})
}

func httpInspector() *listener.ListenerFilter {
	return listenerFilter("envoy.filters.listener.http_inspector", &httpinspector.HttpInspector{})
}

func originalDst() *listener.ListenerFilter {
	return listenerFilter("envoy.filters.listener.original_dst", &originaldst.OriginalDst{})
}
