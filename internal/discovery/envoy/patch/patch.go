// Package patch changes Envoy resources as EnvoyFilters say. The filters of a proxy and its resources enter, changed
// resources leave. A patch that cannot be applied is left out, and never hinders another; nothing that a user writes may
// make it panic. It must not know the World or a stream.
package patch

import (
	"fmt"
	"log/slog"
	"regexp"
	"strings"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/proto"
	networking "istio.io/api/networking/v1alpha3"

	"github.com/slipway-mesh/slipway/internal/discovery/envoy"
	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
)

// Set is the patches of a proxy, in the order in which they apply. It is immutable.
type Set struct {
	router  bool
	patches []*one
	types   map[string]bool // of the resources that some patch may change
}

// one is a patch with its value read.
type one struct {
	owner mesh.Owner
	index int
	*networking.EnvoyFilter_EnvoyConfigObjectPatch
	value proto.Message // nil for a removal
}

func (p *one) op() networking.EnvoyFilter_Patch_Operation { return p.GetPatch().GetOperation() }

// touched are the types of resources that each kind of patch may change.
var touched = map[networking.EnvoyFilter_ApplyTo][]string{
	networking.EnvoyFilter_CLUSTER:             {envoy.ClusterType},
	networking.EnvoyFilter_LISTENER:            {envoy.ListenerType},
	networking.EnvoyFilter_FILTER_CHAIN:        {envoy.ListenerType},
	networking.EnvoyFilter_NETWORK_FILTER:      {envoy.ListenerType},
	networking.EnvoyFilter_HTTP_FILTER:         {envoy.ListenerType},
	networking.EnvoyFilter_LISTENER_FILTER:     {envoy.ListenerType},
	networking.EnvoyFilter_EXTENSION_CONFIG:    {envoy.ExtensionType},
	networking.EnvoyFilter_ROUTE_CONFIGURATION: {envoy.RouteType, envoy.ListenerType},
	networking.EnvoyFilter_VIRTUAL_HOST:        {envoy.VirtualHostType, envoy.RouteType, envoy.ListenerType},
	networking.EnvoyFilter_BOOTSTRAP:           {envoy.BootstrapType},
	networking.EnvoyFilter_HTTP_ROUTE:          {envoy.VirtualHostType, envoy.RouteType, envoy.ListenerType},
}

// New is the patches of the filters that are for the proxy; nil if there is none.
func New(filters []*mesh.EnvoyFilter, proxy *mesh.Proxy) *Set {
	set := &Set{router: proxy.Kind == mesh.Router, types: map[string]bool{}}
	for _, filter := range filters {
		for i, p := range filter.Patches {
			if touched[p.GetApplyTo()] == nil || !set.inContext(p) || !ofProxy(p, proxy) {
				continue
			}
			value, err := read(p, false)
			if err != nil {
				slog.Warn("EnvoyFilter: a patch is left out", "filter", filter.Namespace+"/"+filter.Name, "patch", i, "error", err)
				continue
			}
			set.patches = append(set.patches, &one{owner: filter.Owner, index: i, EnvoyFilter_EnvoyConfigObjectPatch: p, value: value})
			for _, url := range touched[p.GetApplyTo()] {
				set.types[url] = true
			}
		}
	}
	if len(set.patches) == 0 {
		return nil
	}
	return set
}

// Touches says whether some patch may change a resource of the type.
func (s *Set) Touches(typeURL string) bool { return s.types[typeURL] }

func (s *Set) inContext(p *networking.EnvoyFilter_EnvoyConfigObjectPatch) bool {
	switch p.GetMatch().GetContext() {
	case networking.EnvoyFilter_ANY:
		return true
	case networking.EnvoyFilter_GATEWAY:
		return s.router
	case networking.EnvoyFilter_SIDECAR_INBOUND, networking.EnvoyFilter_SIDECAR_OUTBOUND:
		return !s.router
	}
	return false
}

// ofProxy says whether a patch is for the proxy's version and metadata.
func ofProxy(p *networking.EnvoyFilter_EnvoyConfigObjectPatch, proxy *mesh.Proxy) bool {
	match := p.GetMatch().GetProxy()
	if pattern := match.GetProxyVersion(); pattern != "" {
		if expr, err := regexp.Compile(pattern); err != nil || !expr.MatchString(proxy.Version) {
			return false
		}
	}
	for name, value := range match.GetMetadata() {
		if have, ok := proxy.Metadata[name]; !ok || have != value {
			return false
		}
	}
	return true
}

// Apply is the resource as the patches leave it: itself if none changes it, nil if one removes it.
func (s *Set) Apply(r *envoy.Resource) *envoy.Resource {
	message, err := r.Body.UnmarshalNew()
	if err != nil {
		return r
	}
	e := &editor{set: s}
	kept := e.message(r, message)
	switch {
	case !kept:
		return nil
	case !e.changed:
		return r
	}
	patched := envoy.NewResource(r.Name, message)
	patched.Patched = e.by.path()
	return patched
}

// path is that of the filter, as resources name their owners.
func (p *one) path() string {
	return "/apis/networking.istio.io/v1alpha3/namespaces/" + p.owner.Namespace + "/envoy-filter/" + p.owner.Name
}

// Table is a route table with all its virtual hosts in it, as the patches of tables leave it: those of virtual hosts are
// in it already.
func (s *Set) Table(r *envoy.Resource) *envoy.Resource {
	message := &route.RouteConfiguration{}
	if !s.Touches(envoy.RouteType) || r.Body.UnmarshalTo(message) != nil {
		return r
	}
	e := &editor{set: s}
	if e.tableAlone(message, false); !e.changed {
		return r
	}
	return envoy.NewResource(r.Name, message)
}

// AddedHosts are the virtual hosts that patches add to a table whose virtual hosts are sent one by one.
func (s *Set) AddedHosts(table string) []*envoy.Resource {
	var added []*envoy.Resource
	(&editor{set: s}).each(networking.EnvoyFilter_VIRTUAL_HOST, false, func(p *one) {
		host, ok := p.value.(*route.VirtualHost)
		if !ok || !p.adds() || !matchesTable(p, table) {
			return
		}
		host = clone(host)
		host.Name = table + "/" + host.Name
		made := envoy.NewResource(host.Name, host)
		made.Patched = p.path()
		added = append(added, made)
	})
	return added
}

// standing are the kinds of patches that add resources, and of what type.
var standing = map[networking.EnvoyFilter_ApplyTo]string{
	networking.EnvoyFilter_CLUSTER: envoy.ClusterType, networking.EnvoyFilter_LISTENER: envoy.ListenerType, networking.EnvoyFilter_EXTENSION_CONFIG: envoy.ExtensionType,
}

// Added are the resources of the type that patches add.
func (s *Set) Added(typeURL string) []*envoy.Resource {
	var added []*envoy.Resource
	for _, p := range s.patches {
		named, ok := p.value.(interface{ GetName() string })
		if p.op() != networking.EnvoyFilter_Patch_ADD || !ok || named.GetName() == "" {
			continue
		}
		if standing[p.GetApplyTo()] == typeURL {
			made := envoy.NewResource(named.GetName(), p.value)
			made.Patched = p.path()
			added = append(added, made)
		}
	}
	return added
}

// editor applies the patches to one resource.
type editor struct {
	set     *Set
	changed bool
	by      *one // the last patch that changed it
}

// each calls do for the patches of a kind whose context is the given one. A patch at which it panics is left out: what it is
// given comes from users.
func (e *editor) each(to networking.EnvoyFilter_ApplyTo, inbound bool, do func(*one)) {
	for _, p := range e.set.patches {
		if p.GetApplyTo() == to && e.set.directed(p, inbound) {
			before := e.changed
			e.changed = false
			if guard(p, do); e.changed {
				e.by = p
			}
			e.changed = e.changed || before
		}
	}
}

func guard(p *one, do func(*one)) {
	defer func() {
		if why := recover(); why != nil {
			slog.Error("EnvoyFilter: a patch is left out", "filter", p.owner.Namespace+"/"+p.owner.Name, "patch", p.index, "error", fmt.Sprint(why))
		}
	}()
	do(p)
}

// directed says whether a patch is for what is received, or for what is sent.
func (s *Set) directed(p *one, inbound bool) bool {
	switch p.GetMatch().GetContext() {
	case networking.EnvoyFilter_SIDECAR_INBOUND:
		return inbound
	case networking.EnvoyFilter_SIDECAR_OUTBOUND:
		return !inbound
	}
	return true
}

// message applies the patches to a resource of any type, and says whether it stays.
func (e *editor) message(r *envoy.Resource, message proto.Message) bool {
	switch m := message.(type) {
	case *cluster.Cluster:
		return e.cluster(m)
	case *listener.Listener:
		return e.listener(m)
	case *route.RouteConfiguration:
		e.table(m, false)
	case *route.VirtualHost:
		return e.host(envoy.TableOf(r.Name), m)
	}
	return true
}

func splitList(text string) []string {
	parts := strings.Split(text, ",")
	for i := range parts {
		parts[i] = strings.TrimSpace(parts[i])
	}
	return parts
}
