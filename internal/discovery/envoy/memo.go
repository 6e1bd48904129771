package envoy

import "github.com/slipway-mesh/slipway/internal/discovery/mesh"

// Memo shares what hosts become between the scopes of one mesh: most namespaces see most hosts alike, and then the work is
// done once and the bytes are there once. What is looked up is found only under exactly what it was made of, so a Memo
// never decides what is right, only what is cheap. It is not safe for concurrent use.
type Memo struct {
	step  uint64
	hosts map[string]*memoHost
}

// NewMemo remembers nothing.
func NewMemo() *Memo { return &Memo{hosts: map[string]*memoHost{}} }

// Step begins another state of the mesh. What a host became before is forgotten when the host next changes.
func (m *Memo) Step() { m.step++ }

// memoHost is what one host becomes, for each kind of thing by what that depends on.
type memoHost struct {
	step      uint64
	clusters  map[clusterKey][]*Resource
	endpoints map[endpointKey][]*Resource
	parts     map[partKey][]*part
	listeners map[listenerKey]*Resource
	virtual   map[virtualKey]*Resource
}

type clusterKey struct {
	config    *mesh.Config
	service   *mesh.Service
	rule      *mesh.DestinationRule
	place     string
	mtls      bool
	edge      bool
	through   bool
	keepsCase bool
	endpoints *mesh.Endpoints // nil where the cluster does not hold them
}

type endpointKey struct {
	config    *mesh.Config
	service   *mesh.Service
	rule      *mesh.DestinationRule
	endpoints *mesh.Endpoints
	place     string
	edge      bool
	through   bool
}

type partKey struct {
	config  *mesh.Config
	flavour mesh.Flavour
	service *mesh.Service
	rule    *mesh.DestinationRule
}

type listenerKey struct {
	config  *mesh.Config
	flavour mesh.Flavour
	part    *part
}

type virtualKey struct {
	config         *mesh.Config
	service        *mesh.Service
	rule           *mesh.DestinationRule
	table, domains string
	routes         *mesh.VirtualService
	settings       mesh.RouteSettings
}

// host finds what is remembered of a host. changed says that the host is another one in this step than in the last.
func (m *Memo) host(name string, changed bool) *memoHost {
	h := m.hosts[name]
	if h == nil || changed && h.step != m.step {
		h = &memoHost{
			step: m.step, clusters: map[clusterKey][]*Resource{}, endpoints: map[endpointKey][]*Resource{}, parts: map[partKey][]*part{},
			listeners: map[listenerKey]*Resource{}, virtual: map[virtualKey]*Resource{},
		}
		m.hosts[name] = h
	}
	return h
}

// forget drops a host that is gone.
func (m *Memo) forget(name string) { delete(m.hosts, name) }

// remember returns what a key stands for, and makes it where nobody has.
func remember[K comparable, V any](known map[K]V, key K, make func() V) V {
	if v, ok := known[key]; ok {
		return v
	}
	v := make()
	known[key] = v
	return v
}
