package explain

import (
	"net/netip"
	"slices"

	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
)

// virtualOutbound is where captured connections arrive; it hands them to the listener of their destination.
const virtualOutbound = 15001

// listenerFor finds the listener that takes a connection: that of the address and port, else that of the port for any
// address, else the one that takes what no other does.
func (c *Config) listenerFor(address string, port uint32) *listener.Listener {
	var anywhere, rest *listener.Listener
	for _, l := range c.Listeners {
		at := l.GetAddress().GetSocketAddress()
		switch {
		case at.GetPortValue() == port && at.GetAddress() == address:
			return l
		case at.GetPortValue() == port && unspecified(at.GetAddress()):
			anywhere = l
		case at.GetPortValue() == virtualOutbound:
			rest = l
		}
	}
	if anywhere != nil {
		return anywhere
	}
	return rest
}

func unspecified(address string) bool {
	ip, err := netip.ParseAddr(address)
	return err == nil && ip.IsUnspecified()
}

// connection is what a filter chain is chosen by.
type connection struct {
	address    string
	port       uint32
	serverName string
	transport  string // raw_buffer or tls
	protocol   string // http/1.1 and the like, as it is detected; empty for none
}

// chainFor finds the filter chain of a connection, by Envoy's order: port, then the longest prefix, then the server's
// name, the transport and the protocol, where each rule passes on only those that fit it best.
func chainFor(l *listener.Listener, c connection) *listener.FilterChain {
	chains := slices.Clone(l.FilterChains)
	for _, rank := range []func(*listener.FilterChainMatch, connection) int{portRank, prefixRank, nameRank, transportRank, protocolRank} {
		best := 0
		for _, chain := range chains {
			best = max(best, rank(chain.FilterChainMatch, c))
		}
		chains = slices.DeleteFunc(chains, func(chain *listener.FilterChain) bool {
			r := rank(chain.FilterChainMatch, c)
			return r < 0 || r < best
		})
	}
	if len(chains) == 0 {
		return l.DefaultFilterChain
	}
	return chains[0]
}

// A rank is 0 for a chain that does not ask, more the better it fits, and -1 if it does not fit.

func portRank(m *listener.FilterChainMatch, c connection) int {
	switch port := m.GetDestinationPort(); {
	case port == nil:
		return 0
	case port.Value == c.port:
		return 1
	}
	return -1
}

func prefixRank(m *listener.FilterChainMatch, c connection) int {
	if len(m.GetPrefixRanges()) == 0 {
		return 0
	}
	address, err := netip.ParseAddr(c.address)
	best := -1
	for _, r := range m.GetPrefixRanges() {
		prefix, bad := netip.ParseAddr(r.AddressPrefix)
		if err == nil && bad == nil && netip.PrefixFrom(prefix, int(r.GetPrefixLen().GetValue())).Contains(address) {
			best = max(best, 1+int(r.GetPrefixLen().GetValue()))
		}
	}
	return best
}

func nameRank(m *listener.FilterChainMatch, c connection) int {
	if len(m.GetServerNames()) == 0 {
		return 0
	}
	best := -1
	for _, name := range m.GetServerNames() {
		if rank := domainRank(name, c.serverName); rank >= 0 {
			best = max(best, rank+1)
		}
	}
	return best
}

func transportRank(m *listener.FilterChainMatch, c connection) int {
	switch m.GetTransportProtocol() {
	case "":
		return 0
	case c.transport:
		return 1
	}
	return -1
}

func protocolRank(m *listener.FilterChainMatch, c connection) int {
	switch {
	case len(m.GetApplicationProtocols()) == 0:
		return 0
	case slices.Contains(m.GetApplicationProtocols(), c.protocol):
		return 1
	}
	return -1
}
