package envoy

import (
	"slices"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/slipway-mesh/slipway/internal/discovery/layer"
	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
)

// Lookup reads what a scope's hosts are, and their endpoints.
type Lookup struct {
	Outbound  func(host string) *mesh.Outbound
	Endpoints func(host string) *mesh.Endpoints
	Flavour   mesh.Flavour // of the proxies
}

func (l Lookup) onlyPort(host string) uint32 {
	if o := l.Outbound(host); o != nil && o.Service != nil && len(o.Service.Ports) == 1 {
		return o.Service.Ports[0].Number
	}
	return 0
}

// policy is the traffic policy of a destination.
func (l Lookup) policy(config *mesh.Config, d mesh.Destination) *networking.TrafficPolicy {
	o := l.Outbound(d.Host)
	if o == nil || o.Rule == nil {
		return config.Traffic
	}
	for _, subset := range o.Rule.Subsets {
		if subset.Name == d.Subset {
			return policyFor(config, o.Rule, d.Port, subset)
		}
	}
	return policyFor(config, o.Rule, d.Port, mesh.Subset{})
}

// Outbound is all that the proxies of one scope are sent for what they call. It is immutable; Next makes the following
// one and computes only the hosts that changed.
type Outbound struct {
	config       *mesh.Config
	flavour      mesh.Flavour
	memo         *Memo
	clusters     byHost
	endpoints    byHost
	names        *byHost             // nil where nobody asks for names
	tables       *Section            // route tables that take their virtual hosts one by one
	virtualHosts *Section            // by TABLE/NAME
	listeners    *Section            //
	parts        layer.Map[*part]    // by listener NUL shape NUL host
	wants        layer.Map[[]*part]  // by host
	hosts        layer.Map[[]claim]  // by host
	claims       layer.Map[claim]    // by table NUL domain NUL host
	users        layer.Map[struct{}] // by destination host NUL host: whose routes read another host's rule or port
	under        *Outbound           // what all of these lie over; nowhere where they do not
}

// Clusters are the clusters of all hosts.
func (o *Outbound) Clusters() *Section { return o.clusters.Section }

// Endpoints are the load assignments of the clusters that have some.
func (o *Outbound) Endpoints() *Section { return o.endpoints.Section }

// Names are what DNS proxies answer for; empty where there is none.
func (o *Outbound) Names() *Section {
	if o.names == nil {
		return noNames
	}
	return o.names.Section
}

var noNames = EmptySection()

// Listeners are virtualOutbound and one for each address that hosts want.
func (o *Outbound) Listeners() *Section { return o.listeners }

// Tables are the route tables, without the virtual hosts that are sent one by one.
func (o *Outbound) Tables() *Section { return o.tables }

// VirtualHosts are those of all tables, named TABLE/NAME.
func (o *Outbound) VirtualHosts() *Section { return o.virtualHosts }

// NewOutbound has what every scope has; Next adds the hosts. names says that DNS proxies ask.
func NewOutbound(config *mesh.Config, flavour mesh.Flavour, names bool, memo *Memo) *Outbound {
	o := &Outbound{
		config: config, flavour: flavour, memo: memo, clusters: newByHost(), endpoints: newByHost(), tables: EmptySection(), virtualHosts: EmptySection(), listeners: EmptySection(),
		parts: layer.New(samePart), wants: layer.New(func(a, b []*part) bool { return slices.EqualFunc(a, b, samePart) }), hosts: layer.New(slices.Equal[[]claim]),
		claims: layer.New(equal[claim]), users: layer.New(equal[struct{}]), under: nowhere,
	}
	if names {
		empty := newByHost()
		o.names = &empty
	}
	o.clusters = o.clusters.replace(map[string][]*Resource{"": fixedClusters(config)}, byHost{})
	o.listeners = o.listeners.Next(map[string]*Resource{"virtualOutbound": virtualOutbound(config, flavour)})
	return o
}

// nowhere is what an Outbound lies over that lies over none.
var nowhere = &Outbound{}

func equal[T comparable](a, b T) bool { return a == b }

func samePart(a, b *part) bool {
	return a == b || a.listener == b.listener && a.bound == b.bound && a.shape == b.shape && a.port == b.port && a.host == b.host && a.table == b.table && len(a.chains)+len(b.chains) == 0
}

// Over is an Outbound with all that o has, which shares the memory of o: most scopes differ from each other in few hosts. What
// differs it is told by Next.
func (o *Outbound) Over() *Outbound {
	over := *o
	over.clusters, over.endpoints = o.clusters.over(), o.endpoints.over()
	if o.names != nil {
		names := o.names.over()
		over.names = &names
	}
	over.tables, over.virtualHosts, over.listeners = o.tables.Over(), o.virtualHosts.Over(), o.listeners.Over()
	over.parts, over.wants, over.hosts, over.claims, over.users = o.parts.Over(), o.wants.Over(), o.hosts.Over(), o.claims.Over(), o.users.Over()
	over.under = o
	return &over
}

// Onto is o over a later state of what it lies over.
func (o *Outbound) Onto(under *Outbound) *Outbound {
	next := *o
	next.parts, next.wants, next.hosts, next.claims, next.users = o.parts.Onto(under.parts), o.wants.Onto(under.wants), o.hosts.Onto(under.hosts), o.claims.Onto(under.claims), o.users.Onto(under.users)
	next.under = under
	return &next
}

// Next computes changed hosts anew, and the endpoints of those whose endpoints alone changed.
func (o *Outbound) Next(config *mesh.Config, lookup Lookup, changed, endpoints []string) *Outbound {
	next := *o
	next.config = config
	changed = next.withUsers(changed)
	if config != o.config { // what does not come from hosts depends on it
		next.clusters = next.clusters.replace(map[string][]*Resource{"": fixedClusters(config)}, o.under.clusters)
		next.listeners = next.listeners.next(map[string]*Resource{"virtualOutbound": virtualOutbound(config, o.flavour)}, o.under.listeners)
	}
	made, assigned := map[string][]*Resource{}, map[string][]*Resource{}
	for _, host := range changed {
		outbound := lookup.Outbound(host)
		made[host], assigned[host] = nil, nil
		if outbound == nil {
			next.memo.forget(host)
			continue
		}
		next.memo.host(host, len(o.clusters.of(host)) > 0)
		made[host] = next.madeClusters(outbound, lookup.Endpoints(host))
		assigned[host] = next.madeEndpoints(outbound, lookup.Endpoints(host))
	}
	for _, host := range endpoints {
		outbound := lookup.Outbound(host)
		assigned[host] = next.madeEndpoints(outbound, lookup.Endpoints(host))
		if outbound != nil && outbound.Service != nil && outbound.Service.Resolution != mesh.Static {
			made[host] = next.madeClusters(outbound, lookup.Endpoints(host)) // they hold their endpoints
		}
	}
	next.clusters = next.clusters.replace(made, o.under.clusters)
	next.endpoints = next.endpoints.replace(assigned, o.under.endpoints)
	next.updateNames(lookup, changed, endpoints)
	next.updateListeners(lookup, changed)
	next.updateVirtualHosts(lookup, changed, config != o.config)
	return &next
}

// updateNames tells of the addresses of hosts that changed.
func (o *Outbound) updateNames(lookup Lookup, hosts ...[]string) {
	if o.names == nil {
		return
	}
	made := map[string][]*Resource{}
	for _, host := range slices.Concat(hosts...) {
		made[host] = name(lookup.Outbound(host), lookup.Endpoints(host))
	}
	var under byHost
	if o.under.names != nil {
		under = *o.under.names
	}
	next := o.names.replace(made, under)
	o.names = &next
}

func (o *Outbound) madeClusters(outbound *mesh.Outbound, endpoints *mesh.Endpoints) []*Resource {
	key := clusterKey{config: o.config.Plain(), service: outbound.Service, rule: outbound.Rule, place: placeKey(outbound), mtls: outbound.MTLS, edge: outbound.Edge, through: outbound.Through, keepsCase: o.config.Settings.KeepsCase()}
	if outbound.Service != nil && outbound.Service.Resolution != mesh.Static {
		key.endpoints = endpoints
	}
	return remember(o.memo.host(outbound.Host, false).clusters, key, func() []*Resource { return clusters(o.config, outbound, endpoints) })
}

func (o *Outbound) madeEndpoints(outbound *mesh.Outbound, endpoints *mesh.Endpoints) []*Resource {
	if outbound == nil {
		return nil
	}
	key := endpointKey{o.config.Plain(), outbound.Service, outbound.Rule, endpoints, placeKey(outbound), outbound.Edge, outbound.Through}
	return remember(o.memo.host(outbound.Host, false).endpoints, key, func() []*Resource { return loadAssignments(o.config, outbound, endpoints) })
}

// placeKey is equal for callers from equal places.
func placeKey(o *mesh.Outbound) string {
	if o.Place == nil {
		return ""
	}
	return o.Place.Text()
}

// madeParts are what a host wants of listeners. Without rules for TLS and TCP it is the same for all who see the service.
func (o *Outbound) madeParts(outbound *mesh.Outbound, lookup Lookup) []*part {
	build := func() []*part { return parts(o.config, outbound, lookup) }
	routes := outbound.Routes
	if len(outbound.Proxies) > 0 || routes != nil && (outbound.Service == nil || len(routes.TLS)+len(routes.TCP) > 0) {
		return build()
	}
	return remember(o.memo.host(outbound.Host, false).parts, partKey{o.config, o.flavour, outbound.Service, outbound.Rule}, build)
}

// withUsers adds the hosts whose routes lead to changed ones: they read the destination's only port and hash policy.
func (o *Outbound) withUsers(changed []string) []string {
	seen := map[string]bool{}
	for _, host := range changed {
		seen[host] = true
	}
	all := changed
	for _, host := range changed {
		o.users.WalkPrefix([]byte(host+"\x00"), func(key []byte, _ struct{}) bool {
			if user := string(key[len(host)+1:]); !seen[user] {
				seen[user] = true
				all = append(all, user)
			}
			return false
		})
	}
	return all
}

// updateListeners replaces what the changed hosts want, and assembles the listeners that this touches.
func (o *Outbound) updateListeners(lookup Lookup, changed []string) {
	parts_, wants := o.parts.Txn(), o.wants.Txn()
	touched := map[string]bool{}
	key := func(p *part) []byte { return []byte(p.listener + "\x00" + itoa(uint32(p.shape)) + "\x00" + p.host) }
	for _, host := range changed {
		before, _ := o.wants.Get([]byte(host))
		for _, p := range before {
			parts_.Delete(key(p))
			touched[p.listener] = true
		}
		var after []*part
		if outbound := lookup.Outbound(host); outbound != nil {
			after = o.madeParts(outbound, lookup)
		}
		for _, p := range after {
			parts_.Insert(key(p), p)
			touched[p.listener] = true
		}
		if len(after) > 0 {
			wants.Insert([]byte(host), after)
		} else {
			wants.Delete([]byte(host))
		}
	}
	o.parts, o.wants = parts_.Commit(), wants.Commit()
	changes := map[string]*Resource{}
	for name := range touched {
		changes[name] = o.assembled(name)
	}
	o.listeners = o.listeners.next(changes, o.under.listeners)
}

// assembled makes a listener, nil if nobody wants it. For most shapes the first part decides alone, so the walk ends
// there: a port of a thousand services costs no more than one.
func (o *Outbound) assembled(name string) *Resource {
	var wanted []*part
	o.parts.WalkPrefix([]byte(name+"\x00"), func(_ []byte, p *part) bool {
		wanted = append(wanted, p)
		return wanted[0].shape != shapeMatched || p.shape != shapeMatched
	})
	if len(wanted) == 0 {
		return nil
	}
	first := wanted[0]
	build := func() *Resource { return assemble(o.config, o.flavour, wanted) }
	if first.shape == shapeMatched {
		return build()
	}
	return remember(o.memo.host(first.host, false).listeners, listenerKey{o.config, o.flavour, first}, build)
}
