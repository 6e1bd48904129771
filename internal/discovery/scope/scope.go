// Package scope says what of the World a proxy can use. A World and a proxy enter, the mesh's sections of a View leave.
// Proxies that can use the same share one Scope. It must not know Kubernetes or Envoy.
package scope

import (
	"net/netip"
	"slices"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/slipway-mesh/slipway/internal/discovery/layer"
	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
	"github.com/slipway-mesh/slipway/internal/discovery/world"
)

// Key is what a proxy's outbound view depends on beside the World.
type Key struct {
	Namespace string
	// Tests are the source conditions that the proxy meets, by their texts.
	Tests string
	// Sidecar is the object that narrows what the proxies call, as namespace/name; empty where none does.
	Sidecar string
	// Place is where the proxies run, as far as a rule looks at it; see mesh.Place.
	Place string
	// Flavour is the build of Envoy, which decides how some of it is said.
	Flavour mesh.Flavour
	// Edge says that the proxies are gateways.
	Edge bool
	// Through says that they lead the mesh's TLS on by server names; see mesh.Outbound.
	Through bool
	// Telemetry names the objects that speak of the proxies' calls, in their present form.
	Telemetry string
	// Settings are those of the proxies' own ProxyConfig; see mesh.Proxy.
	Settings string
	// Names says for which families of addresses their agents answer DNS questions; see mesh.Proxy.
	Names string
}

// Base is the key of a scope from which few hosts differ in this one: what callers see who are in no namespace. ok is false where
// there is none: a Sidecar's scope is small, gateways are in few namespaces, and gRPC applications are told only of what they ask for.
func (k Key) Base() (base Key, ok bool) {
	if k.Sidecar != "" || k.Edge || k.Flavour == mesh.Proxyless {
		return Key{}, false
	}
	return Key{Place: k.Place, Flavour: k.Flavour, Names: k.Names}, true
}

// KeyOf computes a proxy's key.
func KeyOf(w *world.World, proxy *mesh.Proxy) Key {
	var met []string
	w.SourceTests.Root().Walk(func(key []byte, test world.SourceTest) bool {
		if test.Holds(proxy.Namespace, proxy.Labels) {
			met = append(met, string(key))
		}
		return false
	})
	narrowed := ""
	if sidecar := w.Sidecar(proxy.Namespace, proxy.Labels); sidecar != nil && proxy.Kind == mesh.SidecarProxy {
		narrowed = sidecar.Namespace + "/" + sidecar.Name
	}
	return Key{Namespace: proxy.Namespace, Tests: strings.Join(met, "\x01"), Sidecar: narrowed, Place: placeOf(w, proxy), Flavour: proxy.Flavour, Edge: proxy.Kind == mesh.Router, Through: leadsThrough(w, proxy), Names: proxy.Names(), Settings: proxy.Settings, Telemetry: telemetryKey(w.TelemetriesOf(proxy.Namespace, proxy.Labels))}
}

// placeOf tells where a proxy runs: what it says itself, or what its node does. It is empty while no rule asks.
func placeOf(w *world.World, proxy *mesh.Proxy) string {
	if w.PlaceTests.Len() == 0 {
		return ""
	}
	place := mesh.Place{Locality: proxy.Locality, Labels: map[string]string{}}
	if place.Locality == (mesh.Locality{}) {
		place.Locality, _ = w.Nodes.Get([]byte(proxy.Node))
	}
	w.PlaceTests.Root().Walk(func(key []byte, _ int) bool {
		switch name := string(key); name {
		case "":
		case mesh.LabelNetwork:
			place.Labels[name] = proxy.Network
		case mesh.LabelCluster:
			place.Labels[name] = proxy.Cluster
		case mesh.LabelHostname:
			place.Labels[name] = proxy.Node
		default:
			place.Labels[name] = proxy.Labels[name]
		}
		return false
	})
	return place.Text()
}

// Scope is the hosts that the proxies of a key can call. It is immutable.
type Scope struct {
	Key
	Hosts layer.Map[*mesh.Outbound]
	base  *Scope // see Over; nil where there is none
	place *mesh.Place
	// Sidecar narrows the scope; nil if nothing does.
	Sidecar *mesh.Sidecar
	// Config is the mesh's configuration as it counts here.
	Config *mesh.Config
}

// New computes a scope from scratch.
func New(w *world.World, key Key) *Scope {
	s := &Scope{Key: key, Hosts: layer.New(same), place: mesh.ParsePlace(key.Place), Sidecar: sidecarOf(w, key.Sidecar)}
	s.Config = s.configure(w)
	s.fill(w)
	return s
}

// Over computes the scope of a key whose base key base has; it shares the memory of base. It returns the hosts that differ: all of
// them where the configuration does.
func Over(w *world.World, key Key, base *Scope) (*Scope, []string) {
	s := &Scope{Key: key, Hosts: base.Hosts.Over(), base: base, place: base.place, Config: base.Config}
	if key.Telemetry != "" || key.Settings != "" {
		s.Config = s.configure(w)
	}
	differ := s.fill(w)
	if s.Config != base.Config {
		differ = nil
		s.Hosts.Walk(func(host []byte, _ *mesh.Outbound) bool {
			differ = append(differ, string(host))
			return false
		})
	}
	return s, differ
}

// Onto is the scope over a later state of its base.
func (s *Scope) Onto(base *Scope) *Scope {
	next := *s
	next.Hosts, next.base = s.Hosts.Onto(base.Hosts), base
	return &next
}

// fill computes every host, and returns those that are another one than before.
func (s *Scope) fill(w *world.World) []string {
	var changed []string
	txn := s.Hosts.Txn()
	for _, host := range allHosts(w) {
		if s.set(txn, host, s.outbound(w, host)) {
			changed = append(changed, host)
		}
	}
	s.Hosts = txn.Commit()
	return changed
}

// set replaces what a host is, and says whether that makes a difference.
func (s *Scope) set(txn *layer.Txn[*mesh.Outbound], host string, after *mesh.Outbound) bool {
	before, _ := s.Hosts.Get([]byte(host))
	switch {
	case same(before, after):
		return false
	case after == nil:
		txn.Delete([]byte(host))
	default:
		txn.Insert([]byte(host), after)
	}
	return true
}

func sidecarOf(w *world.World, name string) *mesh.Sidecar {
	namespace, own, _ := strings.Cut(name, "/")
	sidecar, _ := w.Sidecars.Get(world.Key(namespace, own))
	return sidecar
}

// allHosts lists every host that a service or a VirtualService names.
func allHosts(w *world.World) []string {
	var hosts []string
	collect := func(key []byte) {
		host, _, _ := strings.Cut(string(key), "\x00")
		if len(hosts) == 0 || hosts[len(hosts)-1] != host {
			hosts = append(hosts, host)
		}
	}
	w.Services.Root().Walk(func(key []byte, _ *mesh.Service) bool { collect(key); return false })
	w.VirtualServices.Root().Walk(func(key []byte, _ *mesh.VirtualService) bool { collect(key); return false })
	return hosts
}

// Next brings the scope to a newer World and returns the hosts whose Outbound is another one now, sorted by tree order.
func (s *Scope) Next(w *world.World, dirty world.Dirty) (*Scope, []string) {
	if _, narrowedAnew := dirty.Sidecars[s.Key.Sidecar]; dirty.All || narrowedAnew {
		return s.rebuild(w)
	}
	next := *s
	txn := s.Hosts.Txn()
	var changed []string
	for host := range s.affected(w, dirty) {
		if s.set(txn, host, s.outbound(w, host)) {
			changed = append(changed, host)
		}
	}
	next.Hosts = txn.Commit()
	return &next, changed
}

func (s *Scope) rebuild(w *world.World) (*Scope, []string) {
	var next *Scope
	if s.base != nil {
		next, _ = Over(w, s.Key, s.base)
	} else {
		next = New(w, s.Key)
	}
	seen := map[string]bool{}
	var changed []string
	for _, hosts := range []layer.Map[*mesh.Outbound]{s.Hosts, next.Hosts} {
		hosts.Walk(func(key []byte, _ *mesh.Outbound) bool {
			if !seen[string(key)] {
				seen[string(key)] = true
				changed = append(changed, string(key))
			}
			return false
		})
	}
	return next, changed
}

// affected lists the hosts that dirty hosts bear upon: themselves, those that a pattern covers, and those that have one
// as a short name.
func (s *Scope) affected(w *world.World, dirty world.Dirty) map[string]struct{} {
	hosts := map[string]struct{}{}
	for host := range dirty.Hosts {
		hosts[host] = struct{}{}
		if full, ok := expand(host, s.Namespace, w.Config.Domain); ok {
			hosts[full] = struct{}{}
		}
		if strings.HasPrefix(host, "*") {
			s.Hosts.Walk(func(key []byte, _ *mesh.Outbound) bool {
				if mesh.HostCovers(host, string(key)) {
					hosts[string(key)] = struct{}{}
				}
				return false
			})
		}
	}
	return hosts
}

// expand completes what could be a short name of a Kubernetes Service.
func expand(host, namespace, domain string) (string, bool) {
	switch parts := strings.Split(host, "."); {
	case len(parts) == 1:
		return host + "." + namespace + ".svc." + domain, true
	case len(parts) == 2:
		return host + ".svc." + domain, true
	case len(parts) == 3 && parts[2] == "svc":
		return host + "." + domain, true
	}
	return "", false
}

func same(a, b *mesh.Outbound) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Service == b.Service && a.Routes == b.Routes && a.Rule == b.Rule && a.MTLS == b.MTLS &&
		strings.Join(a.Domains, ",") == strings.Join(b.Domains, ",")
}

// outbound computes what the scope does with a host; nil if the host means nothing here.
func (s *Scope) outbound(w *world.World, host string) *mesh.Outbound {
	whole := w.Service(host, s.Namespace, s.imported(w))
	service := s.narrow(w, whole)
	routes := s.routes(w, host, service != nil)
	if service == nil && routes == nil {
		return nil
	}
	out := &mesh.Outbound{Host: host, Service: service, Whole: whole, Domains: []string{host}, Place: s.place, Edge: s.Edge, Through: s.Through}
	if routes != nil {
		out.Routes = s.forCaller(routes)
		out.Narrowed = out.Routes != routes
	}
	if service != nil {
		out.Proxies = s.proxiesFor(service.Namespace, host)
		out.Domains = s.domains(w, service)
		out.Rule = w.Rule(host, s.Namespace, service.Namespace, s.selects)
		out.MTLS = w.Config.AutoMTLS && !service.External && service.Resolution != mesh.Passthrough && service.Resolution != mesh.DynamicDNS &&
			w.MTLSMode(service.Namespace, nil, 0) != mesh.Disable
	} else {
		out.Proxies = s.proxiesFor(routes.Namespace, host)
		out.Rule = w.Rule(host, s.Namespace, s.Namespace, s.selects)
	}
	return out
}

// routes returns the VirtualService that binds to the host. A host that is in no registry needs one that names it.
func (s *Scope) routes(w *world.World, host string, registered bool) *mesh.VirtualService {
	var follows func(*mesh.VirtualService) bool
	if s.Sidecar.Restricts() {
		follows = s.Sidecar.ImportsRoutes
	}
	routes := w.MeshRoutes(host, s.Namespace, follows)
	if routes == nil || registered {
		return routes
	}
	for _, own := range routes.Hosts {
		if own == host {
			return routes
		}
	}
	return nil
}

// domains lists the names of a service in this scope. A short name that is another service's full name is not ours.
func (s *Scope) domains(w *world.World, service *mesh.Service) []string {
	domains := []string{service.Host}
	add := func(name string) {
		if w.Service(name, s.Namespace, nil) == nil {
			domains = append(domains, name)
		}
	}
	if service.Kubernetes {
		if service.Namespace == s.Namespace {
			add(service.Name)
		}
		add(service.Name + "." + service.Namespace)
		add(service.Name + "." + service.Namespace + ".svc")
		if service.Headless {
			domains = append(domains, "*."+service.Host)
		}
	}
	for _, alias := range w.AliasesOf(service.Host) {
		add(alias.Host)
		if alias.Namespace == s.Namespace {
			add(alias.Name)
		}
		add(alias.Name + "." + alias.Namespace)
		add(alias.Name + "." + alias.Namespace + ".svc")
	}
	for _, address := range service.Addresses {
		if ip, err := netip.ParseAddr(address); err == nil {
			domains = append(domains, authority(ip))
		}
	}
	return domains
}

// authority is an address as a request names its host.
func authority(ip netip.Addr) string {
	if ip.Is6() {
		return "[" + ip.String() + "]"
	}
	return ip.String()
}

// meets says whether the scope's callers fulfil a condition.
func (s *Scope) meets(namespace string, labels map[string]string) bool {
	return slices.Contains(strings.Split(s.Tests, "\x01"), string(world.TestKey(namespace, labels)))
}

// selects says whether a DestinationRule with a selector is for this scope's callers.
func (s *Scope) selects(rule *mesh.DestinationRule) bool {
	return s.meets(rule.Namespace, rule.Selector)
}

// forCaller keeps the matches that can hold for this scope's callers. A VirtualService without conditions on callers
// or gateways is returned as it is.
func (s *Scope) forCaller(v *mesh.VirtualService) *mesh.VirtualService {
	v = filterL4(v, func(rule *mesh.L4Route) bool {
		return len(rule.Gateways) > 0 || len(rule.SourceLabels) == 0 && rule.SourceNS == "" || s.meets(rule.SourceNS, rule.SourceLabels)
	})
	return filterMatches(v, func(m *networking.HTTPMatchRequest) bool {
		if len(m.Gateways) > 0 {
			return slices.Contains(m.Gateways, "mesh") // conditions on the caller do not count then
		}
		if len(m.SourceLabels) == 0 && m.SourceNamespace == "" {
			return true
		}
		return s.meets(m.SourceNamespace, m.SourceLabels)
	})
}

// filterL4 drops the TLS and TCP rules that keep refuses.
func filterL4(v *mesh.VirtualService, keep func(*mesh.L4Route) bool) *mesh.VirtualService {
	refused := func(rule *mesh.L4Route) bool { return !keep(rule) }
	if !slices.ContainsFunc(v.TLS, refused) && !slices.ContainsFunc(v.TCP, refused) {
		return v
	}
	out := *v
	out.TLS, out.TCP = slices.DeleteFunc(slices.Clone(v.TLS), refused), slices.DeleteFunc(slices.Clone(v.TCP), refused)
	return &out
}

// filterMatches drops the matches that keep refuses, and the routes that had matches and have none left.
func filterMatches(v *mesh.VirtualService, keep func(*networking.HTTPMatchRequest) bool) *mesh.VirtualService {
	out := *v
	out.HTTP = nil
	changed := false
	for _, route := range v.HTTP {
		var matches []*networking.HTTPMatchRequest
		for _, m := range route.Match {
			if keep(m) {
				matches = append(matches, m)
			}
		}
		switch {
		case len(matches) == len(route.Match):
			out.HTTP = append(out.HTTP, route)
		case len(matches) == 0:
			changed = true
		default:
			changed = true
			narrowed := *route
			narrowed.Match = matches
			out.HTTP = append(out.HTTP, &narrowed)
		}
	}
	if !changed {
		return v
	}
	return &out
}
