package xds

import (
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/slipway-mesh/slipway/internal/discovery/envoy"
	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
	"github.com/slipway-mesh/slipway/internal/discovery/scope"
	"github.com/slipway-mesh/slipway/internal/discovery/world"
)

// gRPC applications ask for few resources, each by its name. They are made when the first one asks, and kept until a host changes that they
// were made of.

// asked is what the gRPC applications of a class asked for, in one state of the mesh. All of its streams use it.
type asked struct {
	source envoy.Proxyless
	mu     sync.Mutex
	made   map[askedName]askedResource
}

type askedName struct{ typeURL, name string }

type askedResource struct {
	resource *envoy.Resource
	hosts    []string
}

func newAsked(source envoy.Proxyless) *asked {
	return &asked{source: source, made: map[askedName]askedResource{}}
}

// proxyless is what the class's resources are made of.
func (c *class) proxyless(w *world.World) envoy.Proxyless {
	return envoy.Proxyless{Config: c.scope.Config, Namespace: c.scope.Namespace, Lookup: c.lookup(w)}
}

func (a *asked) find(typeURL, name string) *envoy.Resource {
	a.mu.Lock()
	defer a.mu.Unlock()
	key := askedName{typeURL, name}
	found, known := a.made[key]
	if !known {
		if found.resource, found.hosts = a.source.Find(typeURL, name); found.resource != nil { // of what is not there any number could be asked for
			a.made[key] = found
		}
	}
	return found.resource
}

// next is a itself if nothing that concerns it changed.
func (a *asked) next(source envoy.Proxyless, changed []string) *asked {
	if len(changed) == 0 && source.Config == a.source.Config {
		return a
	}
	out := newAsked(source)
	if source.Config != a.source.Config {
		return out
	}
	touched := map[string]bool{}
	for _, host := range changed {
		touched[host] = true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for key, one := range a.made {
		if !slices.ContainsFunc(one.hosts, func(host string) bool { return touched[host] }) {
			out.made[key] = one
		}
	}
	return out
}

// calls is what one gRPC application can ask for: what it calls, and the listeners of its servers.
type calls struct {
	asked   *asked
	inbound *mesh.Inbound
	key     string // of inbound
	tlsMode bool
}

func (c *calls) equal(other *calls) bool { return c.asked == other.asked && c.key == other.key }

// find returns what there is of some names.
func (c *calls) find(i int, names []string) []*envoy.Resource {
	var out []*envoy.Resource
	for _, name := range names {
		var r *envoy.Resource
		if i == listenerIndex && strings.HasPrefix(name, envoy.ServerPrefix) {
			r = envoy.ProxylessServer(c.asked.source.Config, c.inbound, c.tlsMode, name)
		} else {
			r = c.asked.find(typeURLs[i], name)
		}
		if r != nil {
			out = append(out, r)
		}
	}
	return out
}

func (s *Server) callsTarget(st *stream) *target {
	in := scope.Inbound(s.world, st.proxy)
	return &target{step: s.step, made: time.Now(), calls: &calls{asked: st.class.asked, inbound: in, key: in.Key(), tlsMode: st.proxy.Labels["security.istio.io/tlsMode"] == "istio"}}
}
