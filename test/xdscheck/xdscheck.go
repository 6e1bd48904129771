// Package xdscheck looks for what no answer of an xDS server may have, whatever it was made of: what Envoy's own rules forbid, names and
// domains that stand twice, filter chains that match the same, and route tables that are named and not there. A cluster that a route
// names may be missing: it is what a user wrote, and a Problem tells of it.
package xdscheck

import (
	"fmt"
	"net/netip"

	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/slipway-mesh/slipway/internal/discovery/envoy"
)

// Check returns what is wrong with all that a proxy is sent, by type URL.
func Check(resources map[string][]*envoy.Resource) []error {
	c := &checker{tables: map[string]bool{}}
	for _, r := range resources[envoy.RouteType] {
		c.tables[r.Name] = true
	}
	for url, list := range resources {
		seen := map[string]bool{}
		for _, r := range list {
			c.at = url[len("type.googleapis.com/"):] + " " + r.Name
			if seen[r.Name] {
				c.wrong("stands twice")
			}
			seen[r.Name] = true
			c.any(r.Body)
		}
	}
	return c.errors
}

type checker struct {
	at     string
	tables map[string]bool
	errors []error
}

func (c *checker) wrong(format string, args ...any) {
	c.errors = append(c.errors, fmt.Errorf("%s: %s", c.at, fmt.Sprintf(format, args...)))
}

// any looks at a packed message. What this program has no type for is left out: names of DNS, and filters of istio-proxy's.
func (c *checker) any(body *anypb.Any) {
	message, err := body.UnmarshalNew()
	if err != nil {
		return
	}
	if rules, ok := message.(interface{ ValidateAll() error }); ok {
		if err := rules.ValidateAll(); err != nil {
			c.wrong("%v", err)
		}
	}
	switch m := message.(type) {
	case *endpoint.ClusterLoadAssignment:
		c.addresses(m)
	case *route.RouteConfiguration:
		c.domains(m.VirtualHosts)
	case *listener.Listener:
		c.chains(m)
	case *hcm.HttpConnectionManager:
		if name := m.GetRds().GetRouteConfigName(); name != "" && !c.tables[name] {
			c.wrong("the route table %s is not there", name)
		}
		c.domains(m.GetRouteConfig().GetVirtualHosts())
	}
	c.inside(message.ProtoReflect())
}

// inside looks for packed messages.
func (c *checker) inside(m protoreflect.Message) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		visit := func(v protoreflect.Value) {
			if packed, ok := v.Message().Interface().(*anypb.Any); ok {
				c.any(packed)
			} else {
				c.inside(v.Message())
			}
		}
		switch {
		case f.IsMap():
			if f.MapValue().Kind() == protoreflect.MessageKind {
				v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool { visit(v); return true })
			}
		case f.Kind() != protoreflect.MessageKind:
		case f.IsList():
			for i := range v.List().Len() {
				visit(v.List().Get(i))
			}
		default:
			visit(v)
		}
		return true
	})
}

// addresses must be such: Envoy resolves no names that come by EDS.
func (c *checker) addresses(m *endpoint.ClusterLoadAssignment) {
	for _, locality := range m.Endpoints {
		for _, e := range locality.LbEndpoints {
			if at := e.GetEndpoint().GetAddress().GetSocketAddress(); at != nil {
				if _, err := netip.ParseAddr(at.Address); err != nil {
					c.wrong("%v", err)
				}
			}
		}
	}
}

func (c *checker) domains(hosts []*route.VirtualHost) {
	names, domains := map[string]bool{}, map[string]bool{}
	for _, host := range hosts {
		if names[host.Name] {
			c.wrong("the virtual host %s stands twice", host.Name)
		}
		names[host.Name] = true
		for _, domain := range host.Domains {
			if domains[domain] {
				c.wrong("the domain %s stands twice", domain)
			}
			domains[domain] = true
		}
	}
}

func (c *checker) chains(l *listener.Listener) {
	seen := map[string]bool{}
	for _, chain := range l.FilterChains {
		match := chain.GetFilterChainMatch()
		if match == nil {
			match = &listener.FilterChainMatch{}
		}
		key, err := proto.MarshalOptions{Deterministic: true}.Marshal(match)
		if err != nil {
			c.wrong("%v", err)
		}
		if seen[string(key)] {
			c.wrong("two filter chains match %v", match)
		}
		seen[string(key)] = true
	}
	if len(l.FilterChains) == 0 && l.DefaultFilterChain == nil {
		c.wrong("there is no filter chain")
	}
}
