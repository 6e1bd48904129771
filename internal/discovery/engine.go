// Package discovery joins the rooms of the control plane: what the source says changed goes through resolve into a World,
// and the World goes to the xDS server. It must not know the installer or the sidecar.
package discovery

import (
	"context"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	iradix "github.com/hashicorp/go-immutable-radix/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/slipway-mesh/slipway/internal/discovery/envoy"
	"github.com/slipway-mesh/slipway/internal/discovery/jwks"
	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
	"github.com/slipway-mesh/slipway/internal/discovery/resolve"
	"github.com/slipway-mesh/slipway/internal/discovery/sds"
	"github.com/slipway-mesh/slipway/internal/discovery/source"
	"github.com/slipway-mesh/slipway/internal/discovery/xds"
)

// Engine runs the line from objects to proxies.
type Engine struct {
	Server  *xds.Server
	secrets *sds.Store
	keys    *jwks.Reader
	source  *source.Source
	queue   *source.Queue
	state   atomic.Pointer[resolve.State]
	start   resolve.Options
	metrics *metrics
	reach   steps
	hold    hold
}

// NewEngine prepares the line; nothing is read before Run.
func NewEngine(watch source.Options, options resolve.Options, registry prometheus.Registerer) (*Engine, error) {
	queue := source.NewQueue()
	watch.Selectors = resolve.DiscoverySelectors
	from, err := source.New(watch, queue)
	if err != nil {
		return nil, err
	}
	server := xds.NewServer(xds.NewMetrics(registry))
	tell := func(from, keys string) {
		queue.Add(source.Change{Kind: resolve.KeySet, Name: from, Object: &mesh.KeySet{Text: keys}})
	}
	e := &Engine{Server: server, keys: jwks.New(tell), secrets: sds.New(watch.Kube, server.SecretsChanged), source: from, queue: queue, start: options,
		metrics: newMetrics(registry)}
	server.Secrets = secrets{e.secrets}
	return e, nil
}

// Run reads the cluster, then follows it until the context ends. The server is ready when all that is there has been read.
func (e *Engine) Run(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		e.source.Run(ctx)
	}()
	defer func() { <-done }()
	secretsEnded := make(chan struct{})
	go func() {
		defer close(secretsEnded)
		if err := e.secrets.Run(ctx); err != nil {
			slog.Error("SDS: secrets are not served", "error", err)
		}
	}()
	defer func() { <-secretsEnded }()
	if err := e.source.Synced(ctx); err != nil {
		return err
	}
	changes := e.source.Take()
	state, dirty := resolve.Next(resolve.Start(e.start), changes)
	dirty.All = true
	e.state.Store(state)
	e.reach.note(changes, e.Server.Update(state.World, dirty))
	e.metrics.show(state, changes)
	e.wantKeys(ctx, nil)
	slog.Info("the mesh is known", "services", state.World.Services.Len(), "problems", len(state.Problems()))
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-e.queue.Ready():
		case <-e.hold.over():
		}
		before := e.state.Load().World.KeySources
		e.step(time.Now())
		e.wantKeys(ctx, before)
	}
}

// wantKeys follows the key sources that rules name, if they are others than before.
func (e *Engine) wantKeys(ctx context.Context, before *iradix.Tree[int]) {
	now := e.state.Load().World.KeySources
	if now == before {
		return
	}
	sources := map[string]time.Duration{}
	now.Root().Walk(func(key []byte, _ int) bool {
		source, text, _ := strings.Cut(string(key), "\x00")
		patience, _ := time.ParseDuration(text) // as resolve writes it
		sources[source] = max(sources[source], patience)
		return false
	})
	e.keys.Want(ctx, sources)
}

// step takes all that is pending at once: when idle a change goes through at once, and under load what comes while one
// step runs is taken together by the next.
func (e *Engine) step(began time.Time) {
	state, dirty, changes := e.hold.next(e.state.Load(), e.source.Take(), began)
	if len(changes) == 0 {
		return
	}
	e.state.Store(state)
	step := uint64(0) // what changes nothing has reached everybody
	if !dirty.Empty() {
		step = e.Server.Update(state.World, dirty)
	}
	e.reach.note(changes, step)
	e.metrics.update.Observe(time.Since(began).Seconds())
	e.metrics.show(state, changes)
}

// Reach says which version of an object is known, and how many of the connected proxies hold what it made; false if the
// object is not known.
func (e *Engine) Reach(kind, namespace, name string) (Reach, bool) {
	at, known := e.reach.of(kind, namespace, name)
	if !known {
		return Reach{}, false
	}
	reached, of := e.Server.Reach(at.step)
	return Reach{ResourceVersion: at.version, Reached: reached[0], Of: of}, true
}

// State is what is known of the mesh; nil before everything was read.
func (e *Engine) State() *resolve.State { return e.state.Load() }

// Problems is what is wrong with users' objects.
func (e *Engine) Problems() []resolve.Problem {
	if state := e.state.Load(); state != nil {
		return append(state.Problems(), state.Analyze()...)
	}
	return nil
}

// Ingresses lists the Ingresses that are served, by namespace and name, and the name of the Service of the gateways that serve them.
func (e *Engine) Ingresses() (service string, ingresses [][2]string) {
	state := e.state.Load()
	if state == nil {
		return "", nil
	}
	return state.World.Config.IngressService, state.Ingresses()
}

// secrets hands the store's material to streams as Envoy's secrets.
type secrets struct{ store *sds.Store }

// Secret returns what the caller may have of a name.
func (s secrets) Secret(ctx context.Context, caller xds.Identity, name string) *envoy.Resource {
	material, ok := s.store.Material(ctx, sds.Caller{Namespace: caller.Namespace, Account: caller.Account}, name)
	switch {
	case !ok:
		return nil
	case len(material.CA) > 0:
		return envoy.Authority(name, material.CA)
	}
	return envoy.Certificate(name, material.Chain, material.Key)
}
