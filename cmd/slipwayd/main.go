// Command slipwayd is the control plane: discovery, injection and validation webhooks, and the certificate authority.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	networking "istio.io/client-go/pkg/apis/networking/v1"
	istio "istio.io/client-go/pkg/clientset/versioned"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/slipway-mesh/slipway/internal/discovery"
	"github.com/slipway-mesh/slipway/internal/discovery/enroll"
	"github.com/slipway-mesh/slipway/internal/discovery/leader"
	"github.com/slipway-mesh/slipway/internal/discovery/report"
	"github.com/slipway-mesh/slipway/internal/discovery/resolve"
	"github.com/slipway-mesh/slipway/internal/discovery/source"
	"github.com/slipway-mesh/slipway/internal/discovery/traffic"
	"github.com/slipway-mesh/slipway/internal/identity"
	"github.com/slipway-mesh/slipway/internal/identity/ca"
)

func main() {
	collectSeldom()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		slog.Error("slipwayd stopped", "error", err)
		os.Exit(1)
	}
}

// run starts everything in its order: the authority, the serving certificate, discovery; then, when it answers, the
// webhooks are closed by the leader.
func run(ctx context.Context, args []string) error {
	o, err := parseOptions(args)
	if err != nil {
		return err
	}
	if o.logJSON {
		slog.SetDefault(slog.New(slog.NewJSONHandler(os.Stderr, nil)))
	}
	config, err := clientcmd.BuildConfigFromFlags("", o.kubeconfig)
	if err != nil {
		return fmt.Errorf("find the cluster: %w", err)
	}
	config.QPS, config.Burst = 200, 400
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	p := &plane{options: o, kube: kube, registry: prometheus.NewRegistry()}
	if err := p.prepare(ctx, config); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return p.engine.Run(ctx) })
	group.Go(func() error { return p.injector.run(ctx) })
	for _, serve := range []func(context.Context) error{p.servePlain, p.serveSecure, p.serveHTTP, p.serveMetrics, p.serveWebhooks} {
		group.Go(func() error { return serve(ctx) })
	}
	group.Go(func() error { return p.store.Follow(ctx, p.authority) })
	group.Go(func() error {
		p.tellRoots(ctx)
		return nil
	})
	group.Go(func() error { return p.lead(ctx) })
	group.Go(func() error {
		p.reporter.Run(ctx)
		return nil
	})
	group.Go(func() error {
		p.registrar.Run(ctx)
		return nil
	})
	return group.Wait()
}

// plane is the running control plane.
type plane struct {
	options   options
	kube      kubernetes.Interface
	registry  *prometheus.Registry
	store     ca.Store
	authority *ca.Keeper
	callers   *ca.Callers
	serving   *ca.Serving
	engine    *discovery.Engine
	reporter  *report.Reporter
	registrar *enroll.Registrar
	injector  *injector
	resolve   resolve.Options
	peers     *http.Client // asks other replicas
	installed dynamic.Interface
	traffic   traffic.Collector
	drainOnce sync.Once
}

func (p *plane) prepare(ctx context.Context, config *rest.Config) error {
	o := p.options
	trustDomain, err := trustDomainOf(ctx, p.kube, o)
	if err != nil {
		return err
	}
	p.store = ca.Store{Kube: p.kube, Namespace: o.namespace, TrustDomain: trustDomain, Folder: o.caDir}
	loaded, err := p.store.Load(ctx)
	if err != nil {
		return err
	}
	p.authority = ca.NewKeeper(loaded)
	reviewer := ca.NewReviewer(p.kube, trustDomain)
	reviewer.Alive = func(namespace, name, uid string) bool {
		state := p.engine.State()
		return state != nil && state.HasPod(namespace, name, uid)
	}
	p.callers = &ca.Callers{Authorities: p.authority, Reviewer: reviewer, TrustDomain: trustDomain}
	p.serving = &ca.Serving{Authorities: p.authority, Names: o.dnsNames(), ID: identity.ID{TrustDomain: trustDomain, Namespace: o.namespace, Account: o.service}}
	if _, err := p.serving.Certificate(nil); err != nil {
		return err
	}
	mesh, err := istio.NewForConfig(config)
	if err != nil {
		return err
	}
	anyKind, err := dynamic.NewForConfig(config)
	if err != nil {
		return err
	}
	instance, err := os.Hostname()
	if err != nil {
		return err
	}
	p.reporter = &report.Reporter{Dynamic: anyKind, Kube: p.kube, Instance: instance, List: p.rejections}
	p.resolve = resolve.Options{ClusterID: o.cluster, Domain: o.domain, RootNamespace: o.namespace, Compliance: o.compliance, MeshConfigMap: "istio" + o.suffix(), Patches: discovery.PatchMistakes}
	watch := source.Options{Kube: p.kube, Istio: mesh, Dynamic: anyKind, Revision: o.revision, Namespace: o.namespace, MeshConfig: p.resolve.MeshConfigMap}
	if p.engine, err = discovery.NewEngine(watch, p.resolve, p.registry); err != nil {
		return err
	}
	p.registrar = enroll.New(mesh, instance, o.entryGrace)
	p.engine.Server.Registrar = p.registrar
	p.injector = newInjector(p.kube, anyKind, o, p.registry)
	p.peers, p.installed = p.peerClient(), anyKind
	return nil
}

// lead waits until this replica answers and is elected, and then does what one replica does for all.
func (p *plane) lead(ctx context.Context) error {
	for !p.ready() {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(50 * time.Millisecond):
		}
	}
	return elect(ctx, p.kube, p.options, func(ctx context.Context) {
		group, ctx := errgroup.WithContext(ctx)
		group.Go(func() error { return leader.KeepRoots(ctx, p.kube, p.bundle) })
		group.Go(func() error { return leader.CloseWebhooks(ctx, p.kube, p.options.revision, p.bundle) })
		group.Go(func() error {
			ca.Rotation{Store: p.store, Keeper: p.authority, Settle: p.options.rootSettle, Followed: p.rootsFollowed}.Run(ctx)
			return nil
		})
		group.Go(func() error {
			leader.WriteIngressStatus(ctx, p.kube, p.servedIngresses)
			return nil
		})
		group.Go(func() error {
			p.registrar.Sweep(ctx, p.enrolled, p.isReplica)
			return nil
		})
		if p.options.tellStatus {
			group.Go(func() error {
				p.progress().Run(ctx)
				return nil
			})
		}
		if p.options.allocate {
			group.Go(func() error {
				leader.WriteEntryAddresses(ctx, p.reporter.Dynamic, p.entries, p.unaddressed)
				return nil
			})
		}
		if err := group.Wait(); err != nil {
			slog.Error("leader: stopped", "error", err)
		}
	})
}

// rejections are what the proxies of this replica do not take.
func (p *plane) rejections() []report.Rejection {
	var out []report.Rejection
	for _, one := range p.engine.Server.Quarantine.List() {
		out = append(out, report.Rejection{Owner: one.Owner, Type: one.Type, Name: one.Name, Build: one.Build, Error: one.Error})
	}
	return out
}

func (p *plane) ready() bool { return p.engine.Server.Ready() && p.injector.ready() }

// entries is another value whenever some ServiceEntry is another one.
func (p *plane) entries() any { return p.engine.State().Entries() }

// unaddressed are the ServiceEntries whose status says other addresses than the mesh gives them.
func (p *plane) unaddressed() []leader.EntryAddresses {
	var out []leader.EntryAddresses
	for _, entry := range p.engine.State().Allocate() {
		to := leader.EntryAddresses{Entry: types.NamespacedName{Namespace: entry.Namespace, Name: entry.Name}}
		for _, address := range entry.Addresses {
			to.Addresses = append(to.Addresses, map[string]string{"host": address.Host, "value": address.Value})
		}
		out = append(out, to)
	}
	return out
}

func (p *plane) enrolled() []*networking.WorkloadEntry { return p.engine.State().Enrolled() }

// isReplica says whether a replica of the control plane is there. Outside a cluster none is known, and any may be.
func (p *plane) isReplica(instance string) bool {
	replicas := p.engine.State().Replicas()
	return len(replicas) == 0 || slices.ContainsFunc(replicas, func(r resolve.Replica) bool { return r.Name == instance })
}

// servedIngresses are those that this mesh's gateways serve.
func (p *plane) servedIngresses() leader.ServedIngresses {
	service, ingresses := p.engine.Ingresses()
	out := leader.ServedIngresses{Service: types.NamespacedName{Namespace: p.options.namespace, Name: service}}
	for _, ingress := range ingresses {
		out.Ingresses = append(out.Ingresses, types.NamespacedName{Namespace: ingress[0], Name: ingress[1]})
	}
	return out
}
