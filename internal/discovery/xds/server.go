package xds

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/slipway-mesh/slipway/internal/discovery/envoy"
	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
	"github.com/slipway-mesh/slipway/internal/discovery/scope"
	"github.com/slipway-mesh/slipway/internal/discovery/world"
)

// Identity is who is at the other end of a connection.
type Identity struct{ Namespace, Account string }

// Authenticator finds out who calls. It returns nil where the listener asks for no identity.
type Authenticator interface {
	Authenticate(ctx context.Context) (*Identity, error)
}

// Registrar keeps the entries of workloads that no Kubernetes knows. It does not block.
type Registrar interface {
	Joined(*mesh.Proxy)
	Left(*mesh.Proxy)
	// Tell is told of a workload's health; no illness is healthy.
	Tell(p *mesh.Proxy, illness string)
}

// Server serves ADS. Update gives it the mesh; it is not ready before the first.
type Server struct {
	discovery.UnimplementedAggregatedDiscoveryServiceServer
	Quarantine *Quarantine
	Secrets    SecretSource // nil where none are served
	Registrar  Registrar    // nil where nobody keeps entries of workloads
	metrics    *Metrics

	greetings, turns turnstile
	admission        turnstile                      // lets one proxy in at a time, so that an Update waits for one at most
	roots            atomic.Pointer[envoy.Resource] // nil where agents are told of none

	mu       sync.Mutex
	ownRoots []string // of the authority, in PEM, the one that signs first
	world    *world.World
	step     uint64 // how many worlds there were
	scopes   map[scope.Key]*class
	bases    map[scope.Key]*class
	memo     *envoy.Memo
	inbounds map[string]*inboundClass
	// peers are the instances of services' workloads, by the service; peersBefore are those of an earlier state.
	peers, peersBefore map[string]*envoy.Section
	gateways           map[string]*gatewayClass
	patched            map[string]*patched
	streams            map[*stream]struct{}
	ready              atomic.Bool
	draining           atomic.Bool
}

// NewServer is a server without a world.
func NewServer(metrics *Metrics) *Server {
	return &Server{greetings: make(turnstile, greetings), turns: make(turnstile, turns), admission: make(turnstile, 1), Quarantine: newQuarantine(), metrics: metrics, scopes: map[scope.Key]*class{}, bases: map[scope.Key]*class{}, memo: envoy.NewMemo(), inbounds: map[string]*inboundClass{}, peers: map[string]*envoy.Section{}, gateways: map[string]*gatewayClass{}, patched: map[string]*patched{}, streams: map[*stream]struct{}{}}
}

// Ready says whether a world is known, and the server is not about to end.
func (s *Server) Ready() bool { return s.ready.Load() && !s.draining.Load() }

// Register offers the service on a gRPC server, with an authenticator of its own for each listener.
func (s *Server) Register(server *grpc.Server, authenticator Authenticator) {
	discovery.RegisterAggregatedDiscoveryServiceServer(server, &endpoint{Server: s, authenticator: authenticator})
}

// endpoint is the server at one listener.
type endpoint struct {
	*Server
	authenticator Authenticator
}

// Update brings every live view to a newer world, and wakes the streams whose view changed. It returns the number of the
// step, for Reach.
func (s *Server) Update(w *world.World, dirty world.Dirty) (step uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.world = w
	s.step++
	s.memo.Step()
	for _, classes := range []map[scope.Key]*class{s.bases, s.scopes} {
		for _, c := range classes {
			c.update(w, dirty)
		}
	}
	if dirty.All || len(dirty.Inbound) > 0 || len(dirty.Endpoints) > 0 {
		s.inbounds = map[string]*inboundClass{} // filled again below by those that are in use
		s.peersBefore, s.peers = s.peers, map[string]*envoy.Section{}
	}
	if dirty.Gateways || dirty.All || dirty.Tests || len(dirty.Hosts) > 0 {
		for _, g := range s.gateways {
			g.stale = true
		}
	}
	for st := range s.streams {
		s.place(st, dirty)
	}
	s.forgetFilters()
	if dirty.All { // MeshConfig's roots may be others
		s.tellRoots()
	}
	s.ready.Store(true)
	return s.step
}

// place computes a stream's target anew and wakes it if that differs.
func (s *Server) place(st *stream, dirty world.Dirty) {
	if (dirty.Tests || dirty.All) && scope.KeyOf(s.world, st.proxy) != st.class.scope.Key {
		s.leaveScope(st)
		s.joinScope(st)
	}
	next := s.targetOf(st)
	if last := st.target.Load(); last == nil || !last.equal(next) {
		st.target.Store(next)
		st.wake()
	}
}

// targetOf is what a stream is to be sent, as its EnvoyFilters leave it.
func (s *Server) targetOf(st *stream) *target {
	if st.class.asked != nil {
		return s.callsTarget(st)
	}
	t := s.sharedTarget(st)
	if filters := s.filtersOf(st); filters != nil {
		filters.apply(t, s.step)
	}
	return t
}

// noExtensions are those that are there without an EnvoyFilter.
var noExtensions = envoy.EmptySection()

func (s *Server) sharedTarget(st *stream) *target {
	c := st.class
	t := &target{step: s.step, made: time.Now(), parts: [typeCount][]*envoy.Section{
		clusterIndex:   {c.outbound.Clusters()},
		endpointIndex:  {c.outbound.Endpoints()},
		nameIndex:      {c.outbound.Names()},
		extensionIndex: {noExtensions},
	}}
	if st.proxy.Kind == mesh.Router {
		g := s.gateway(st, c)
		t.parts[listenerIndex] = []*envoy.Section{g.sections.Listeners}
		t.parts[routeIndex] = []*envoy.Section{g.sections.Tables}
		t.parts[hostIndex] = []*envoy.Section{g.sections.VirtualHosts}
		t.hostsOf = g.sections.HostsOf
		return t
	}
	if st.proxy.FindsPeers() {
		t.parts[endpointIndex] = append(t.parts[endpointIndex], s.peersOf(st.proxy))
	}
	in := s.inbound(st.proxy)
	t.parts[clusterIndex] = append(t.parts[clusterIndex], in.sections.Clusters)
	t.parts[listenerIndex] = []*envoy.Section{c.outbound.Listeners(), in.sections.Listeners}
	t.parts[routeIndex] = []*envoy.Section{c.outbound.Tables()}
	t.parts[hostIndex] = []*envoy.Section{c.outbound.VirtualHosts()}
	t.hostsOf = c.outbound.HostsOf
	return t
}

// admit checks who the caller is against who the node says it is, and takes the stream in.
func (e *endpoint) admit(ctx context.Context, st *stream) error {
	identity, err := e.authenticator.Authenticate(ctx)
	if err != nil {
		e.metrics.Refused.Inc()
		slog.Warn("xDS: connection refused", "node", st.proxy.ID, "error", err)
		return status.Error(codes.Unauthenticated, "request authenticate failure")
	}
	if identity != nil && (identity.Namespace != st.proxy.Namespace || st.proxy.Account != "" && identity.Account != st.proxy.Account) {
		e.metrics.Refused.Inc()
		slog.Warn("xDS: the node is not who connects", "node", st.proxy.ID, "namespace", identity.Namespace, "account", identity.Account)
		return status.Errorf(codes.PermissionDenied, "no identities match the node %s", st.proxy.ID)
	}
	st.identity = identity
	select {
	case e.admission <- struct{}{}:
	case <-ctx.Done(): // who gives up while he waits must not be waited for by others
		return status.FromContextError(ctx.Err()).Err()
	}
	defer func() { <-e.admission }()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.draining.Load() {
		return errDraining
	}
	if e.world == nil {
		return status.Error(codes.Unavailable, "the mesh is not known yet")
	}
	e.streams[st] = struct{}{}
	e.metrics.Streams.Set(float64(len(e.streams)))
	e.joinScope(st)
	st.target.Store(e.targetOf(st))
	if e.Registrar != nil {
		e.Registrar.Joined(st.proxy)
	}
	return nil
}

func (s *Server) leave(st *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, there := s.streams[st]; !there {
		return
	}
	delete(s.streams, st)
	s.metrics.Streams.Set(float64(len(s.streams)))
	if s.Registrar != nil {
		s.Registrar.Left(st.proxy)
	}
	s.leaveScope(st)
	if st.proxy.Kind == mesh.Router {
		s.leaveGateway(st)
	}
}
