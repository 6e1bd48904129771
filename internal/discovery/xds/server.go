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

// Server serves ADS. Update gives it the mesh; it is not ready before the first.
type Server struct {
	discovery.UnimplementedAggregatedDiscoveryServiceServer
	Quarantine *Quarantine
	Secrets    SecretSource // nil where none are served
	metrics    *Metrics

	mu       sync.Mutex
	world    *world.World
	step     uint64 // how many worlds there were
	scopes   map[scope.Key]*class
	memo     *envoy.Memo
	inbounds map[string]*inboundClass
	gateways map[string]*gatewayClass
	patched  map[string]*patched
	streams  map[*stream]struct{}
	ready    atomic.Bool
}

// NewServer is a server without a world.
func NewServer(metrics *Metrics) *Server {
	return &Server{Quarantine: newQuarantine(), metrics: metrics, scopes: map[scope.Key]*class{}, memo: envoy.NewMemo(), inbounds: map[string]*inboundClass{}, gateways: map[string]*gatewayClass{}, patched: map[string]*patched{}, streams: map[*stream]struct{}{}}
}

// Ready says whether a world is known.
func (s *Server) Ready() bool { return s.ready.Load() }

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
	for _, c := range s.scopes {
		c.update(w, dirty)
	}
	if dirty.All || len(dirty.Inbound) > 0 || len(dirty.Endpoints) > 0 {
		s.inbounds = map[string]*inboundClass{} // filled again below by those that are in use
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
	t := s.sharedTarget(st)
	if filters := s.filtersOf(st); filters != nil {
		filters.apply(t, s.step)
	}
	return t
}

func (s *Server) sharedTarget(st *stream) *target {
	c := st.class
	t := &target{step: s.step, made: time.Now(), parts: [typeCount][]*envoy.Section{
		clusterIndex:  {c.outbound.Clusters()},
		endpointIndex: {c.outbound.Endpoints()},
		nameIndex:     {c.outbound.Names()},
	}}
	if st.proxy.Kind == mesh.Router {
		g := s.gateway(st, c)
		t.parts[listenerIndex] = []*envoy.Section{g.sections.Listeners}
		t.parts[routeIndex] = []*envoy.Section{g.sections.Tables}
		t.parts[hostIndex] = []*envoy.Section{g.sections.VirtualHosts}
		t.hostsOf = g.sections.HostsOf
		return t
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
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.world == nil {
		return status.Error(codes.Unavailable, "the mesh is not known yet")
	}
	e.streams[st] = struct{}{}
	e.metrics.Streams.Set(float64(len(e.streams)))
	e.joinScope(st)
	st.target.Store(e.targetOf(st))
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
	s.leaveScope(st)
	if st.proxy.Kind == mesh.Router {
		s.leaveGateway(st)
	}
}
