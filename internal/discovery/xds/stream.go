package xds

import (
	"context"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/slipway-mesh/slipway/internal/discovery/envoy"
	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
	"github.com/slipway-mesh/slipway/internal/trustbundle"
)

// barrier is how long a push waits for an acknowledgement before it goes on without.
const barrier = 5 * time.Second

// stream is one connected proxy. Its loop is the only one that touches typeStates; the server sets target.
type stream struct {
	ctx    context.Context // of the RPC: it ends when the proxy is gone
	proxy  *mesh.Proxy
	class  *class // guarded by the server
	since  time.Time
	target atomic.Pointer[target]
	awake  chan struct{}
	// drained is closed when the stream is to end.
	drained chan struct{}
	// filterKey names the patches of the proxy, as they were with filterTree; the server guards both.
	filterKey  string
	filterTree filterTree

	done atomic.Uint64 // the step of the last target that was wholly acknowledged

	types    [typeCount]*typeState
	warming  map[string]bool // clusters sent whose endpoints are not acknowledged yet
	warmAll  bool            // all clusters were sent, and no endpoints are acknowledged yet
	opened   map[string]bool // tables whose virtual hosts are sent
	closed   map[string]bool // those that were removed since
	deadline time.Time       // until when listeners and routes wait for clusters; zero when they do not
	removal  time.Time       // until when clusters that are to go wait for routes; zero when they do not
	send     func(*response) error
	metrics  *Metrics
	nonce    uint64
	turns    turnstile   // of the server
	turn     func()      // ends the one that it has; nil while it has none
	greeting *time.Timer // ends the reading of its first requests

	registrar      Registrar
	quarantine     *Quarantine
	identity       *Identity // nil where nobody asked
	secretSource   SecretSource
	secrets        *secretState
	watchesSecrets atomic.Bool
	secretsStale   atomic.Bool // some may be other ones than were sent
	roots          rootsState

	reportMu sync.Mutex
	reports  [typeCount]TypeReport
}

// typeState is what a stream holds of one type.
type typeState struct {
	wildcard   bool
	byName     bool // of names: the client takes them one by one; Istio's agent asks for none by name, and wants one table
	subscribed names
	base       []*envoy.Section  // what it has been sent
	hostBase   []*envoy.Section  // for whole tables: the virtual hosts that they were made of
	fresh      map[string]bool   // subscribed and not sent yet, whatever base says
	doomed     map[string]bool   // to be removed when nothing uses it any more
	absent     []string          // endpoints that were asked for and are not there, to be said so at once
	held       *holding          // of virtual hosts: what the proxy brought along, until its tables are opened
	brought    map[string]string // versions of what it brought along that was not so here
	nonce      string            // of the response that is not acknowledged yet
	sentAt     time.Time         // when it was sent
	sent       []*envoy.Resource
	removed    []string            // in the last response
	suspects   [][]*envoy.Resource // parts of a rejected response, to be sent by themselves
	answered   bool
}

// newStream is a stream of a proxy that has asked for nothing yet.
func (s *Server) newStream(ctx context.Context, proxy *mesh.Proxy, send func(*response) error) *stream {
	st := &stream{
		ctx: ctx, proxy: proxy, since: time.Now(), awake: make(chan struct{}, 1), drained: make(chan struct{}), warming: map[string]bool{}, opened: map[string]bool{}, closed: map[string]bool{},
		send: send, metrics: s.metrics, turns: s.turns, registrar: s.Registrar, quarantine: s.Quarantine, secretSource: s.Secrets,
	}
	st.roots.now = &s.roots
	return st
}

func (s *stream) wake() {
	select {
	case s.awake <- struct{}{}:
	default:
	}
}

// DeltaAggregatedResources serves one proxy until it goes.
func (e *endpoint) DeltaAggregatedResources(rpc discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	recv := func() (*request, error) {
		r := &request{}
		return r, rpc.RecvMsg(r)
	}
	greeted := e.greetings.enter(rpc.Context())
	defer greeted()
	greeting := time.AfterFunc(pause, greeted) // who says nothing keeps nobody waiting
	first, err := recv()
	if err != nil {
		return e.unreadable(err)
	}
	proxy, err := parseNode(first.Node, true)
	if err != nil {
		return e.unreadable(status.Error(codes.InvalidArgument, err.Error()))
	}
	st := e.newStream(rpc.Context(), proxy, sender(rpc))
	if err := e.admit(rpc.Context(), st); err != nil {
		return err
	}
	defer e.leave(st)
	defer st.endTurn()
	st.greeting = greeting
	greeting.Reset(pause)
	requests, failed := receive(rpc.Context(), recv)
	if err := st.handle(first); err != nil {
		return err
	}
	return st.loop(requests, failed)
}

// unreadable counts a first request that cannot be served. A caller that only goes is none.
func (e *endpoint) unreadable(err error) error {
	switch status.Code(err) {
	case codes.InvalidArgument, codes.Internal, codes.ResourceExhausted:
		e.metrics.Refused.Inc()
		slog.Warn("xDS: a first request cannot be served", "error", err)
	}
	return err
}

// sender sends responses by the server's Codec.
func sender(rpc discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) func(*response) error {
	return func(r *response) error { return rpc.SendMsg(r) }
}

// loop prefers requests to pushes, so that acknowledgements never starve.
func (s *stream) loop(requests <-chan *request, failed <-chan error) error {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		if at := s.wakesAt(); !at.IsZero() {
			timer.Reset(time.Until(at))
		}
		var err error
		select {
		case request := <-requests:
			err = s.handle(request)
			s.greeting.Reset(pause)
		default:
			select {
			case request := <-requests:
				err = s.handle(request)
				s.greeting.Reset(pause)
			case <-s.awake:
				if err = s.advance(); err == nil {
					err = s.pushOthers()
				}
			case <-timer.C:
				err = s.advance()
			case err := <-failed:
				return err
			case <-s.drained:
				return errDraining
			}
		}
		if err != nil {
			return err
		}
		s.noteStep()
	}
}

// pushOthers sends what is in no target.
func (s *stream) pushOthers() error {
	if err := s.pushSecrets(); err != nil {
		return err
	}
	return s.pushRoots()
}

// handle takes a request: a subscription, an acknowledgement, or both.
func (s *stream) handle(request *request) error {
	switch request.TypeUrl {
	case envoy.SecretType:
		return s.handleSecrets(request)
	case trustbundle.TypeURL:
		return s.handleRoots(request)
	case envoy.BootstrapType:
		return s.handleBootstrap(request)
	case healthType:
		s.noteHealth(request.ErrorDetail)
		return nil
	}
	i, ok := indexOf(request.TypeUrl)
	if !ok {
		return s.refuseType(request)
	}
	t := s.types[i]
	if t == nil {
		t = &typeState{fresh: map[string]bool{}, doomed: map[string]bool{}}
		t.byName = slices.Contains(request.ResourceNamesSubscribe, "*")
		t.wildcard = i == hostIndex || t.byName || len(request.ResourceNamesSubscribe) == 0
		s.types[i] = t
	}
	has := s.adopt(i, t, request.held)
	s.subscribe(i, t, request, has)
	if request.ResponseNonce != "" && request.ResponseNonce == t.nonce {
		s.acknowledge(i, t, request)
	}
	return s.advance()
}

// subscribe takes in what a request asks for and gives up. Before the first response nothing need be noted of what is asked for:
// that response has it all. has says what the proxy holds in the current version.
func (s *stream) subscribe(i int, t *typeState, request *request, has func(name string) bool) {
	asked := request.ResourceNamesSubscribe
	if slices.Contains(asked, "*") {
		t.wildcard = true
		asked = slices.DeleteFunc(asked, func(name string) bool { return name == "*" })
	}
	now := s.target.Load().parts[i][0]
	t.subscribed.add(asked, now)
	if t.base != nil {
		for _, name := range asked {
			if !has(name) || i == endpointIndex && (s.warmAll || s.warming[name]) {
				t.fresh[name] = true
			}
		}
	}
	t.subscribed.remove(request.ResourceNamesUnsubscribe, now)
	for _, name := range request.ResourceNamesUnsubscribe {
		delete(t.fresh, name)
		if i == endpointIndex {
			delete(s.warming, name)
		}
	}
}

// refuseType answers a type that is not served with nothing, once, so that the client does not wait.
func (s *stream) refuseType(request *request) error {
	if request.ResponseNonce != "" {
		return nil
	}
	s.nonce++
	return s.send(&response{head: &discovery.DeltaDiscoveryResponse{TypeUrl: request.TypeUrl, Nonce: strconv.FormatUint(s.nonce, 10), RemovedResources: request.ResourceNamesSubscribe}})
}

// adopt starts a type from what the proxy already holds, as it says at its first request after a reconnect: what it holds
// in the current version is not sent again. It returns what tells whether a name is so held.
func (s *stream) adopt(i int, t *typeState, held held) (has func(name string) bool) {
	if held == nil || t.base != nil {
		return func(string) bool { return false }
	}
	now := s.target.Load().parts[i]
	t.base, t.hostBase = now, s.target.Load().parts[hostIndex]
	// Envoy takes a stream that brings nothing for one that failed, and waits longer each time before it connects again: clusters, which
	// everybody asks for, are always answered.
	t.answered = i != clusterIndex
	if i == hostIndex { // each table's virtual hosts are compared when the table is
		t.held = holdingOf(held, now[0])
		for name, version := range t.held.differs {
			if version != "" {
				t.bring(name, version)
			}
		}
		return func(name string) bool { r, there := get(now, name); return there && r.Version == t.held.version(name) }
	}
	stale := map[string]bool{}
	complete := held.compare(now, func(name, version string, there bool) {
		if there && s.inWhole(i, name, version) {
			return
		}
		switch t.bring(name, version); {
		case there:
			t.fresh[name], stale[name] = true, true
		case i != endpointIndex: // endpoints go with their cluster
			t.doomed[name] = true
		}
	})
	if complete { // other versions are fresh already
		return func(name string) bool { _, there := get(now, name); return there }
	}
	versions := held.versions()
	if t.wildcard {
		each(now, func(r *envoy.Resource) {
			if _, has := versions[r.Name]; !has {
				t.fresh[r.Name] = true
			}
		})
	}
	return func(name string) bool { return versions[name] != "" && !stale[name] && !t.doomed[name] }
}

// inWhole says whether a version is that of a table with all its virtual hosts in it, as a proxy is sent that does not take them one by
// one.
func (s *stream) inWhole(i int, name, version string) bool {
	if i != routeIndex || s.proxy.VHDS {
		return false
	}
	table, _ := get(s.target.Load().parts[i], name)
	return s.shaped(i, []*envoy.Resource{table})[0].Version == version
}

func (s *stream) acknowledge(i int, t *typeState, request *request) {
	t.nonce = ""
	if request.ErrorDetail != nil {
		s.rejected(i, t, request.ErrorDetail.Message)
	} else {
		s.report(i, func(r *TypeReport) { r.Acknowledged = r.Sent; r.Error = "" })
		s.quarantine.settle(shortNames[i], s.proxy.Build, t.sent, t.removed)
	}
	if i == endpointIndex {
		s.warmAll = false
		for _, r := range t.sent {
			delete(s.warming, r.Name)
		}
		if len(s.warming) == 0 {
			s.warming = map[string]bool{}
		}
	}
	if hosts := s.types[hostIndex]; i == routeIndex && hosts != nil {
		for _, table := range t.removed {
			hosts.held.lose(table)
		}
	}
	t.sent, t.removed = nil, nil
}
