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

// class is the proxies that can call the same.
type class struct {
	scope    *scope.Scope
	outbound *envoy.Outbound
	users    int
}

func newClass(w *world.World, key scope.Key, memo *envoy.Memo) *class {
	c := &class{scope: scope.New(w, key)}
	c.outbound = envoy.NewOutbound(c.scope.Config, key.Flavour, key.Names != "", memo)
	var hosts []string
	c.scope.Hosts.Root().Walk(func(host []byte, _ *mesh.Outbound) bool {
		hosts = append(hosts, string(host))
		return false
	})
	c.outbound = c.outbound.Next(c.scope.Config, c.lookup(w), hosts, nil)
	return c
}

func (c *class) update(w *world.World, dirty world.Dirty) {
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
		c = newClass(s.world, key, s.memo)
		s.scopes[key] = c
	}
	c.users++
	st.class = c
}

func (s *Server) leaveScope(st *stream) {
	st.class.users--
	if st.class.users == 0 {
		delete(s.scopes, st.class.scope.Key)
	}
}

// inboundClass is the proxies whose workloads serve the same.
type inboundClass struct{ sections envoy.InboundSections }

// inbound finds the class by what the workload serves. Sections of one content are made once for each state of the mesh;
// that their content is the same as before is told by the resources' versions.
func (s *Server) inbound(proxy *mesh.Proxy) *inboundClass {
	in := scope.Inbound(s.world, proxy)
	config, telemetry := scope.Config(s.world, proxy)
	key := string(proxy.Flavour) + "|" + telemetry + "|" + in.Key()
	c := s.inbounds[key]
	if c == nil {
		c = &inboundClass{envoy.Inbound(config, proxy.Flavour, in)}
		s.inbounds[key] = c
	}
	return c
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
	key.WriteString("\x00" + string(proxy.Flavour))
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
		config, _ := scope.Config(s.world, st.proxy)
		g.sections = g.sections.Next(envoy.Edge{Config: config, Guard: s.world.Guard(st.proxy.Namespace, st.proxy.Labels), Lookup: c.lookup(s.world)}, scope.Gateway(s.world, st.proxy))
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
