package xds

import (
	"maps"
	"slices"
	"strings"

	"github.com/slipway-mesh/slipway/internal/discovery/envoy"
	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
	"github.com/slipway-mesh/slipway/internal/discovery/scope"
	"github.com/slipway-mesh/slipway/internal/discovery/world"
)

// A class is a set of proxies that share a section. It lives as long as a stream is in it. All of this is guarded by the
// server's mutex.

// class is the proxies that can call the same. Most classes lie over a base, which has no proxies, and hold what differs from it.
type class struct {
	base     *class // nil where there is none
	scope    *scope.Scope
	outbound *envoy.Outbound
	asked    *asked // in the place of outbound, where the proxies are gRPC applications
	users    int
}

func newClass(w *world.World, key scope.Key, memo *envoy.Memo) *class {
	c := &class{scope: scope.New(w, key)}
	if key.Flavour == mesh.Proxyless {
		c.asked = newAsked(c.proxyless(w))
		return c
	}
	c.outbound = envoy.NewOutbound(c.scope.Config, key.Flavour, key.Names != "", memo)
	var hosts []string
	c.scope.Hosts.Walk(func(host []byte, _ *mesh.Outbound) bool {
		hosts = append(hosts, string(host))
		return false
	})
	c.outbound = c.outbound.Next(c.scope.Config, c.lookup(w), hosts, nil)
	return c
}

func classOver(w *world.World, key scope.Key, base *class) *class {
	c := &class{base: base}
	var differ []string
	c.scope, differ = scope.Over(w, key, base.scope)
	c.outbound = base.outbound.Over().Next(c.scope.Config, c.lookup(w), differ, nil)
	return c
}

// update brings a class to a newer world; its base is there already.
func (c *class) update(w *world.World, dirty world.Dirty) {
	if c.base != nil {
		c.scope, c.outbound = c.scope.Onto(c.base.scope), c.outbound.Onto(c.base.outbound)
	}
	next, changed := c.scope.Next(w, dirty)
	c.scope = next
	done := map[string]bool{}
	for _, host := range changed {
		done[host] = true
	}
	var endpoints []string
	for host := range dirty.Endpoints {
		if !done[host] {
			endpoints = append(endpoints, host)
		}
	}
	if c.asked != nil {
		c.asked = c.asked.next(c.proxyless(w), append(changed, endpoints...))
		return
	}
	c.outbound = c.outbound.Next(c.scope.Config, c.lookup(w), changed, endpoints)
}

func (c *class) lookup(w *world.World) envoy.Lookup {
	hosts := c.scope.Hosts
	outbound := func(host string) *mesh.Outbound { o, _ := hosts.Get([]byte(host)); return o }
	return envoy.Lookup{Flavour: c.scope.Flavour, Outbound: outbound, Endpoints: func(host string) *mesh.Endpoints {
		if o := outbound(host); o != nil {
			return w.EndpointsOf(o.Service)
		}
		return nil
	}}
}

func (s *Server) joinScope(st *stream) {
	key := scope.KeyOf(s.world, st.proxy)
	c := s.scopes[key]
	if c == nil {
		if base, ok := key.Base(); ok {
			c = classOver(s.world, key, s.baseOf(base))
		} else {
			c = newClass(s.world, key, s.memo)
		}
		s.scopes[key] = c
	}
	c.users++
	st.class = c
}

// baseOf finds a base for one more class.
func (s *Server) baseOf(key scope.Key) *class {
	c := s.bases[key]
	if c == nil {
		c = newClass(s.world, key, s.memo)
		s.bases[key] = c
	}
	c.users++
	return c
}

func (s *Server) leaveScope(st *stream) {
	c := st.class
	if c.users--; c.users > 0 {
		return
	}
	delete(s.scopes, c.scope.Key)
	if c.base == nil {
		return
	}
	if c.base.users--; c.base.users == 0 {
		delete(s.bases, c.base.scope.Key)
	}
}

// inboundClass is the proxies whose workloads serve the same.
type inboundClass struct{ sections envoy.InboundSections }

// inbound finds the class by what the workload serves. Sections of one content are made once for each state of the mesh;
// that their content is the same as before is told by the resources' versions.
func (s *Server) inbound(proxy *mesh.Proxy) *inboundClass {
	in := scope.Inbound(s.world, proxy)
	key := string(proxy.Flavour) + "|" + scope.ConfigKey(s.world, proxy) + "|" + in.Key()
	c := s.inbounds[key]
	if c == nil {
		c = &inboundClass{envoy.Inbound(scope.Config(s.world, proxy), proxy.Flavour, in)}
		s.inbounds[key] = c
	}
	return c
}

// peersOf tells a proxy of the other instances of its workload. As long as they are the same, so is the Section.
func (s *Server) peersOf(proxy *mesh.Proxy) *envoy.Section {
	of, instances := scope.Peers(s.world, proxy)
	if now := s.peers[of]; now != nil {
		return now
	}
	before := s.peersBefore[of]
	if before == nil {
		before = envoy.EmptySection()
	}
	s.peers[of] = envoy.Peers(before, instances)
	return s.peers[of]
}

// gatewayClass is the gateway proxies of the same labels.
type gatewayClass struct {
	sections envoy.GatewaySections
	stale    bool
	users    map[*stream]struct{}
}

func gatewayKey(proxy *mesh.Proxy) string {
	var key strings.Builder
	key.WriteString(proxy.Namespace)
	for _, name := range slices.Sorted(maps.Keys(proxy.Labels)) {
		key.WriteString("\x00" + name + "=" + proxy.Labels[name])
	}
	key.WriteString("\x00" + string(proxy.Flavour) + "\x00" + proxy.Settings)
	if proxy.Unprivileged {
		key.WriteString("\x00unprivileged")
	}
	return key.String()
}

func (s *Server) gateway(st *stream, c *class) *gatewayClass {
	key := gatewayKey(st.proxy)
	g := s.gateways[key]
	if g == nil {
		g = &gatewayClass{sections: envoy.EmptyGateway(), stale: true, users: map[*stream]struct{}{}}
		s.gateways[key] = g
	}
	g.users[st] = struct{}{}
	if g.stale {
		g.sections = g.sections.Next(envoy.Edge{Config: scope.Config(s.world, st.proxy), Guard: s.world.Guard(st.proxy.Namespace, st.proxy.Labels), Lookup: c.lookup(s.world)}, scope.Gateway(s.world, st.proxy))
		g.stale = false
	}
	return g
}

func (s *Server) leaveGateway(st *stream) {
	key := gatewayKey(st.proxy)
	if g := s.gateways[key]; g != nil {
		delete(g.users, st)
		if len(g.users) == 0 {
			delete(s.gateways, key)
		}
	}
}
