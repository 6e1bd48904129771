package patch

import (
	"slices"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/proto"
	networking "istio.io/api/networking/v1alpha3"
)

const (
	virtualInbound  = "virtualInbound"
	virtualOutbound = "virtualOutbound"
	httpManager     = "envoy.filters.network.http_connection_manager"
)

// formerNames are what filters were called before; older documents still say so.
var formerNames = map[string]string{
	"envoy.http_connection_manager": httpManager, "envoy.tcp_proxy": "envoy.filters.network.tcp_proxy", "envoy.router": "envoy.filters.http.router",
	"envoy.cors": "envoy.filters.http.cors", "envoy.fault": "envoy.filters.http.fault", "envoy.lua": "envoy.filters.http.lua",
	"envoy.ext_authz": "envoy.filters.http.ext_authz", "envoy.rate_limit": "envoy.filters.http.ratelimit", "envoy.grpc_web": "envoy.filters.http.grpc_web",
}

func now(name string) string {
	if renamed, ok := formerNames[name]; ok {
		return renamed
	}
	return name
}

// listener applies the patches to a listener, and says whether it stays.
func (e *editor) listener(l *listener.Listener) bool {
	inbound, stays := l.TrafficDirection == core.TrafficDirection_INBOUND && !e.set.router, true
	e.each(networking.EnvoyFilter_LISTENER, inbound, func(p *one) {
		if !stays || !matchesListener(p, l) {
			return
		}
		switch {
		case p.op() == networking.EnvoyFilter_Patch_REMOVE:
			stays = false
		case p.merges():
			e.mergeInto(p, l)
		}
	})
	if !stays {
		return false
	}
	e.each(networking.EnvoyFilter_LISTENER_FILTER, inbound, func(p *one) {
		if matchesListener(p, l) {
			anchor := p.GetMatch().GetListener().GetListenerFilter()
			l.ListenerFilters = edit(e, p, l.ListenerFilters, anchor == "", func(f *listener.ListenerFilter) bool { return anchor == "" || f.GetName() == now(anchor) }, 0)
		}
	})
	e.each(networking.EnvoyFilter_FILTER_CHAIN, inbound, func(p *one) { e.chains(p, l) })
	l.FilterChains = distinct(l.FilterChains)
	if len(l.FilterChains) == 0 && l.DefaultFilterChain == nil {
		return false // what takes no connection need not be open, and Envoy would refuse it
	}
	for _, chain := range append(slices.Clone(l.FilterChains), l.DefaultFilterChain) {
		if chain != nil {
			e.chain(l, chain, inbound)
		}
	}
	return true
}

// distinct leaves out chains that match what one before them does already: Envoy would refuse the listener.
func distinct(chains []*listener.FilterChain) []*listener.FilterChain {
	seen := map[string]bool{}
	return slices.DeleteFunc(chains, func(c *listener.FilterChain) bool {
		match := c.GetFilterChainMatch()
		if match == nil {
			match = &listener.FilterChainMatch{}
		}
		key, _ := proto.MarshalOptions{Deterministic: true}.Marshal(match)
		was := seen[string(key)]
		seen[string(key)] = true
		return was
	})
}

// chains applies a patch to the filter chains themselves. None is added to the two listeners that take everything.
func (e *editor) chains(p *one, l *listener.Listener) {
	adds := p.op() == networking.EnvoyFilter_Patch_ADD
	if !matchesListener(p, l) || adds && (l.Name == virtualInbound || l.Name == virtualOutbound) {
		return
	}
	l.FilterChains = edit(e, p, l.FilterChains, false, func(c *listener.FilterChain) bool { return matchesChain(p, l, c) }, 0)
	if c := l.DefaultFilterChain; c != nil && matchesChain(p, l, c) {
		switch {
		case p.op() == networking.EnvoyFilter_Patch_REMOVE:
			l.DefaultFilterChain, e.changed = nil, true
		case p.merges():
			e.mergeInto(p, c)
		}
	}
}

// chain applies the patches to the filters of a chain.
func (e *editor) chain(l *listener.Listener, c *listener.FilterChain, inbound bool) {
	e.each(networking.EnvoyFilter_NETWORK_FILTER, inbound, func(p *one) {
		if matchesListener(p, l) && matchesChain(p, l, c) {
			anchor := p.GetMatch().GetListener().GetFilterChain().GetFilter().GetName()
			c.Filters = edit(e, p, c.Filters, anchor == "", func(f *listener.Filter) bool { return anchor == "" || f.GetName() == now(anchor) }, 1)
		}
	})
	for _, filter := range c.Filters {
		if filter.GetName() == httpManager && filter.GetTypedConfig() != nil {
			e.http(l, c, filter, inbound)
		}
	}
}

// http applies the patches to the filters and the routes of an HTTP connection manager.
func (e *editor) http(l *listener.Listener, c *listener.FilterChain, filter *listener.Filter, inbound bool) {
	manager := &hcm.HttpConnectionManager{}
	if filter.GetTypedConfig().UnmarshalTo(manager) != nil {
		return
	}
	before := e.changed
	e.changed = false
	e.each(networking.EnvoyFilter_HTTP_FILTER, inbound, func(p *one) {
		match := p.GetMatch().GetListener().GetFilterChain().GetFilter()
		if !matchesListener(p, l) || !matchesChain(p, l, c) || match.GetName() != "" && now(match.GetName()) != httpManager {
			return
		}
		anchor := match.GetSubFilter().GetName()
		manager.HttpFilters = edit(e, p, manager.HttpFilters, anchor == "", func(f *hcm.HttpFilter) bool { return anchor == "" || f.GetName() == now(anchor) }, 1)
	})
	if inline := manager.GetRouteConfig(); inline != nil {
		e.table(inline, inbound)
	}
	if e.changed {
		filter.ConfigType = &listener.Filter_TypedConfig{TypedConfig: pack(manager)}
	}
	e.changed = e.changed || before
}

func matchesListener(p *one, l *listener.Listener) bool {
	match := p.GetMatch().GetListener()
	if match == nil {
		return true
	}
	if match.Name != "" && match.Name != l.Name {
		return false
	}
	// The listener for everything that is received has a chain a port: there the port is the chain's.
	return match.PortNumber == 0 || l.Name == virtualInbound || match.PortNumber == l.GetAddress().GetSocketAddress().GetPortValue()
}

func matchesChain(p *one, l *listener.Listener, c *listener.FilterChain) bool {
	match, have := p.GetMatch().GetListener(), c.GetFilterChainMatch()
	if port := have.GetDestinationPort(); l.Name == virtualInbound && match.GetPortNumber() != 0 && port != nil && port.Value != match.GetPortNumber() {
		return false
	}
	want := match.GetFilterChain()
	if want == nil {
		return true
	}
	if want.Name != "" && want.Name != c.Name || want.Sni != "" && !slices.Contains(have.GetServerNames(), want.Sni) ||
		want.TransportProtocol != "" && want.TransportProtocol != have.GetTransportProtocol() ||
		want.DestinationPort != 0 && want.DestinationPort != have.GetDestinationPort().GetValue() {
		return false
	}
	return matchesProtocols(want.ApplicationProtocols, have.GetApplicationProtocols()) && hasFilter(p, want.GetFilter().GetName(), c)
}

// hasFilter says whether the chain has the filter that the match names. A patch of network filters looks for it by itself.
func hasFilter(p *one, name string, c *listener.FilterChain) bool {
	if name == "" || p.GetApplyTo() == networking.EnvoyFilter_NETWORK_FILTER {
		return true
	}
	return slices.ContainsFunc(c.Filters, func(f *listener.Filter) bool { return f.GetName() == now(name) })
}

// matchesProtocols says whether one of the protocols, with commas between, is among those of a chain.
func matchesProtocols(want string, have []string) bool {
	if want == "" {
		return true
	}
	for _, protocol := range splitList(want) {
		if slices.Contains(have, protocol) {
			return true
		}
	}
	return false
}
