// Package world is all that is known of a mesh at one moment. Resolve makes a World from the one before; scope reads
// it. A World is immutable and shares what did not change with its predecessor. It must not know Kubernetes or Envoy.
package world

import (
	"sort"

	iradix "github.com/hashicorp/go-immutable-radix/v2"

	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
)

// World holds the mesh. Trees are keyed as the field says.
type World struct {
	Config *mesh.Config
	// Services by host, then namespace: host NUL namespace.
	Services *iradix.Tree[*mesh.Service]
	// Endpoints by the host and namespace of their service: host NUL namespace.
	Endpoints *iradix.Tree[*mesh.Endpoints]
	// VirtualServices by host NUL namespace NUL name, once a host.
	VirtualServices *iradix.Tree[*mesh.VirtualService]
	// Rules by host NUL namespace NUL name.
	Rules *iradix.Tree[*mesh.DestinationRule]
	// Gateways by namespace/name.
	Gateways *iradix.Tree[*mesh.Gateway]
	// PeerAuthentications by namespace NUL name.
	PeerAuthentications *iradix.Tree[*mesh.PeerAuthentication]
	// Leading has the VirtualServices that send to a host, by host NUL namespace NUL name.
	Leading *iradix.Tree[*mesh.VirtualService]
	// Aliases are Services that only name another host: by that host NUL their own.
	Aliases *iradix.Tree[Alias]
	// Sidecars by namespace NUL name.
	Sidecars *iradix.Tree[*mesh.Sidecar]
	// Telemetries by namespace NUL name.
	Telemetries *iradix.Tree[*mesh.Telemetry]
	// EnvoyFilters by namespace NUL name.
	EnvoyFilters *iradix.Tree[*mesh.EnvoyFilter]
	// AuthorizationPolicies and RequestAuthentications by namespace NUL name.
	AuthorizationPolicies  *iradix.Tree[*mesh.AuthorizationPolicy]
	RequestAuthentications *iradix.Tree[*mesh.RequestAuthentication]
	// KeySources counts what needs the keys of a source, by source NUL how long it waits for an answer; 0s is as long as usual. Keys
	// has those that were read.
	KeySources *iradix.Tree[int]
	Keys       *iradix.Tree[string]
	// Selecting has the Services with a selector, by namespace NUL name.
	Selecting *iradix.Tree[*mesh.Service]
	// SourceTests are the distinct sourceLabels and sourceNamespace conditions in VirtualServices, by their text.
	SourceTests *iradix.Tree[SourceTest]
	// Nodes are where the cluster's nodes are, by name.
	Nodes *iradix.Tree[mesh.Locality]
	// PlaceTests has the labels of callers' places that some rule looks at, and "" where one looks at the locality; the value
	// counts the rules.
	PlaceTests *iradix.Tree[int]
}

// SourceTest is a condition on the calling workload.
type SourceTest struct {
	Labels    map[string]string
	Namespace string
	// Uses counts the rules that have it.
	Uses int
}

// Holds says whether the proxy meets the condition.
func (t SourceTest) Holds(namespace string, labels map[string]string) bool {
	return (t.Namespace == "" || t.Namespace == namespace) && mesh.MatchesLabels(t.Labels, labels)
}

// TestKey is the text of a condition on callers, by which SourceTests is keyed.
func TestKey(namespace string, labels map[string]string) []byte {
	names := make([]string, 0, len(labels))
	for name := range labels {
		names = append(names, name)
	}
	sort.Strings(names)
	parts := []string{namespace}
	for _, name := range names {
		parts = append(parts, name+"="+labels[name])
	}
	return Key(parts...)
}

// Alias is a Service that only names another host.
type Alias struct{ Host, Name, Namespace string }

// aliasDepth is how many aliases of aliases are followed.
const aliasDepth = 8

// AliasesOf lists the other names of a host, those of its other names included.
func (w *World) AliasesOf(host string) []Alias {
	var out []Alias
	seen := map[string]bool{host: true}
	next := []string{host}
	for range aliasDepth {
		var more []string
		for _, of := range next {
			for _, alias := range Below(w.Aliases, of) {
				if !seen[alias.Host] {
					seen[alias.Host] = true
					out, more = append(out, alias), append(more, alias.Host)
				}
			}
		}
		next = more
	}
	return out
}

// New is an empty world.
func New(config *mesh.Config) *World {
	return &World{
		Config: config, Services: iradix.New[*mesh.Service](), Endpoints: iradix.New[*mesh.Endpoints](),
		VirtualServices: iradix.New[*mesh.VirtualService](), Rules: iradix.New[*mesh.DestinationRule](),
		Gateways: iradix.New[*mesh.Gateway](), PeerAuthentications: iradix.New[*mesh.PeerAuthentication](),
		Selecting: iradix.New[*mesh.Service](), SourceTests: iradix.New[SourceTest](),
		AuthorizationPolicies: iradix.New[*mesh.AuthorizationPolicy](), RequestAuthentications: iradix.New[*mesh.RequestAuthentication](),
		Telemetries: iradix.New[*mesh.Telemetry](), EnvoyFilters: iradix.New[*mesh.EnvoyFilter](), KeySources: iradix.New[int](), Keys: iradix.New[string](),
		Leading: iradix.New[*mesh.VirtualService](), Aliases: iradix.New[Alias](), Sidecars: iradix.New[*mesh.Sidecar](), Nodes: iradix.New[mesh.Locality](), PlaceTests: iradix.New[int](),
	}
}

// Key joins the parts of a tree's key.
func Key(parts ...string) []byte {
	var key []byte
	for i, part := range parts {
		if i > 0 {
			key = append(key, 0)
		}
		key = append(key, part...)
	}
	return key
}

// prefix is the part of keys that begin with these parts and have more.
func prefix(parts ...string) []byte { return append(Key(parts...), 0) }

// Below returns the values whose keys begin with these parts and have more, in the order of keys.
func Below[T any](tree *iradix.Tree[T], parts ...string) []T {
	var values []T
	tree.Root().WalkPrefix(prefix(parts...), func(_ []byte, value T) bool {
		values = append(values, value)
		return false
	})
	return values
}

// Sidecar returns what narrows a workload's calls: of its own namespace one that selects it, then one for the whole namespace, then one
// of the root namespace for all; nil if there is none.
func (w *World) Sidecar(namespace string, labels map[string]string) *mesh.Sidecar {
	var selecting, whole, root *mesh.Sidecar
	keep := func(best **mesh.Sidecar, s *mesh.Sidecar) {
		if *best == nil || older(s.Created, s.Owner, (*best).Created, (*best).Owner) {
			*best = s
		}
	}
	for _, s := range Below(w.Sidecars, namespace) {
		switch {
		case len(s.Selector) == 0:
			keep(&whole, s)
		case mesh.MatchesLabels(s.Selector, labels):
			keep(&selecting, s)
		}
	}
	for _, s := range Below(w.Sidecars, w.Config.RootNamespace) {
		if len(s.Selector) == 0 {
			keep(&root, s)
		}
	}
	for _, s := range []*mesh.Sidecar{selecting, whole, root} {
		if s != nil {
			return s
		}
	}
	return nil
}

// Service returns the service that a namespace's callers mean by a host: a Kubernetes Service before a ServiceEntry, the
// caller's own namespace before others, older before younger. Those that keep refuses do not count; nil keeps all.
func (w *World) Service(host, namespace string, keep func(*mesh.Service) bool) *mesh.Service {
	var best *mesh.Service
	for _, s := range Below(w.Services, host) {
		if s.VisibleFrom(namespace, w.Config) && (keep == nil || keep(s)) && (best == nil || before(s, best, namespace)) {
			best = s
		}
	}
	return best
}

// EndpointsOf returns a service's endpoints, nil if none are known.
func (w *World) EndpointsOf(service *mesh.Service) *mesh.Endpoints {
	if service == nil {
		return nil
	}
	endpoints, _ := w.Endpoints.Get(Key(service.Host, service.Namespace))
	return endpoints
}

func before(a, b *mesh.Service, namespace string) bool {
	if a.Kubernetes != b.Kubernetes {
		return a.Kubernetes
	}
	if (a.Namespace == namespace) != (b.Namespace == namespace) {
		return a.Namespace == namespace
	}
	if a.Created != b.Created {
		return a.Created < b.Created
	}
	return a.Namespace+"/"+a.Name < b.Namespace+"/"+b.Name
}

// MeshRoutes returns the VirtualService that sidecars of a namespace follow for a host: that of the most specific
// host, and among equals the oldest. Those that keep refuses do not count; nil keeps all.
func (w *World) MeshRoutes(host, namespace string, keep func(*mesh.VirtualService) bool) *mesh.VirtualService {
	for _, pattern := range mesh.Wildcards(host) {
		var best *mesh.VirtualService
		for _, v := range Below(w.VirtualServices, pattern) {
			if v.OnMesh() && v.VisibleFrom(namespace, w.Config) && (keep == nil || keep(v)) && (best == nil || older(v.Created, v.Owner, best.Created, best.Owner)) {
				best = v
			}
		}
		if best != nil {
			return best
		}
	}
	return nil
}

func older(createdA int64, a mesh.Owner, createdB int64, b mesh.Owner) bool {
	if createdA != createdB {
		return createdA < createdB
	}
	return a.Namespace+"/"+a.Name < b.Namespace+"/"+b.Name
}

// SortByAge puts older VirtualServices first.
func SortByAge(list []*mesh.VirtualService) {
	sort.Slice(list, func(i, j int) bool {
		return older(list[i].Created, list[i].Owner, list[j].Created, list[j].Owner)
	})
}

// Rule returns the DestinationRule for a service's host as a client namespace sees it: the client's own namespace, then
// the service's, then the root namespace; in each the most specific host. Rules of one host in one namespace are
// merged: subsets are added up, and the oldest's top-level policy stands. A rule of the client's namespace that selects the client
// goes before all others; selects says whether one does.
func (w *World) Rule(host, client, service string, selects func(*mesh.DestinationRule) bool) *mesh.DestinationRule {
	for _, pattern := range mesh.Wildcards(host) {
		var found []*mesh.DestinationRule
		for _, r := range Below(w.Rules, pattern, client) {
			if len(r.Selector) > 0 && selects(r) {
				found = append(found, r)
			}
		}
		if len(found) > 0 {
			return mergeRules(found)
		}
	}
	namespaces := []string{client, service, w.Config.RootNamespace}
	if client == w.Config.RootNamespace {
		namespaces = namespaces[1:]
	}
	for i, namespace := range namespaces {
		own := i == 0 && namespace == client
		for _, pattern := range mesh.Wildcards(host) {
			var found []*mesh.DestinationRule
			for _, r := range Below(w.Rules, pattern, namespace) {
				if len(r.Selector) == 0 && (own || r.VisibleFrom(client, w.Config)) {
					found = append(found, r)
				}
			}
			if len(found) > 0 {
				return mergeRules(found)
			}
		}
	}
	return nil
}

func mergeRules(rules []*mesh.DestinationRule) *mesh.DestinationRule {
	if len(rules) == 1 {
		return rules[0]
	}
	sort.Slice(rules, func(i, j int) bool {
		return older(rules[i].Created, rules[i].Owner, rules[j].Created, rules[j].Owner)
	})
	merged := *rules[0]
	merged.Subsets = append([]mesh.Subset(nil), merged.Subsets...)
	seen := map[string]bool{}
	for _, s := range merged.Subsets {
		seen[s.Name] = true
	}
	for _, r := range rules[1:] {
		if merged.Policy == nil {
			merged.Policy = r.Policy
		}
		for _, s := range r.Subsets {
			if !seen[s.Name] {
				seen[s.Name] = true
				merged.Subsets = append(merged.Subsets, s)
			}
		}
	}
	return &merged
}

// MTLSMode returns what a workload's port accepts: its own PeerAuthentication's port, then its own, the namespace's, the
// root namespace's; PERMISSIVE if none says. Among several of one level the oldest counts.
func (w *World) MTLSMode(namespace string, labels map[string]string, port uint32) mesh.MTLSMode {
	var workload, whole, root *mesh.PeerAuthentication
	keep := func(best **mesh.PeerAuthentication, p *mesh.PeerAuthentication) {
		if *best == nil || older(p.Created, p.Owner, (*best).Created, (*best).Owner) {
			*best = p
		}
	}
	for _, p := range Below(w.PeerAuthentications, namespace) {
		switch {
		case len(p.Selector) == 0:
			keep(&whole, p)
		case labels != nil && mesh.MatchesLabels(p.Selector, labels):
			keep(&workload, p)
		}
	}
	for _, p := range Below(w.PeerAuthentications, w.Config.RootNamespace) {
		if len(p.Selector) == 0 {
			keep(&root, p)
		}
	}
	if workload != nil {
		if mode := workload.Ports[port]; mode != mesh.Unset {
			return mode
		}
	}
	for _, p := range []*mesh.PeerAuthentication{workload, whole, root} {
		if p != nil && p.Mode != mesh.Unset {
			return p.Mode
		}
	}
	return mesh.Permissive
}
