package main

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/slipway-mesh/slipway/internal/discovery/resolve"
	"github.com/slipway-mesh/slipway/internal/discovery/source"
	"github.com/slipway-mesh/slipway/internal/sidecar/inject"
)

// injector keeps the injection webhook's configuration up to date.
type injector struct {
	kube     kubernetes.Interface
	dynamic  dynamic.Interface
	options  options
	webhook  *inject.Webhook
	config   atomic.Pointer[inject.Config]
	nativeOn atomic.Bool
	taken    string // versions of what was read last
}

func newInjector(kube kubernetes.Interface, anyKind dynamic.Interface, o options, registry prometheus.Registerer) *injector {
	i := &injector{kube: kube, dynamic: anyKind, options: o}
	i.webhook = inject.NewWebhook(i.config.Load, i.nativeOn.Load, registry)
	i.webhook.Revision, i.webhook.Compliance = o.revision, string(o.compliance)
	return i
}

func (i *injector) ready() bool { return i.config.Load() != nil }

// run follows the injector's and the mesh's ConfigMaps, ProxyConfigs, and the nodes, which decide whether sidecars can be native.
func (i *injector) run(ctx context.Context) error {
	factory := informers.NewSharedInformerFactoryWithOptions(i.kube, 0, informers.WithNamespace(i.options.namespace))
	all := informers.NewSharedInformerFactory(i.kube, 0)
	configMaps, nodes := factory.Core().V1().ConfigMaps(), all.Core().V1().Nodes()
	dynamics := dynamicinformer.NewDynamicSharedInformerFactory(i.dynamic, 0)
	proxies := dynamics.ForResource(inject.ProxyConfigs)
	wake := make(chan struct{}, 1)
	poke := func(any) {
		select {
		case wake <- struct{}{}:
		default:
		}
	}
	handler := cache.ResourceEventHandlerFuncs{AddFunc: poke, UpdateFunc: func(_, o any) { poke(o) }, DeleteFunc: poke}
	for _, informer := range []cache.SharedIndexInformer{configMaps.Informer(), nodes.Informer(), proxies.Informer()} {
		if _, err := informer.AddEventHandler(handler); err != nil {
			return err
		}
	}
	factory.Start(ctx.Done())
	all.Start(ctx.Done())
	dynamics.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), configMaps.Informer().HasSynced, nodes.Informer().HasSynced, proxies.Informer().HasSynced) {
		return nil
	}
	poke(nil)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-wake:
		}
		list, err := nodes.Lister().List(labels.Everything())
		if err != nil {
			return err
		}
		i.nativeOn.Store(inject.Native(i.options.native, list))
		objects, err := proxies.Lister().List(labels.Everything())
		if err != nil {
			return err
		}
		i.read(func(name string) (*corev1.ConfigMap, error) {
			return configMaps.Lister().ConfigMaps(i.options.namespace).Get(name)
		}, objects)
	}
}

// read takes the configuration in, if it can be used; otherwise what was in force stays.
func (i *injector) read(get func(name string) (*corev1.ConfigMap, error), proxies []runtime.Object) {
	own, err1 := get("istio-sidecar-injector" + i.options.suffix())
	mesh, err2 := get("istio" + i.options.suffix())
	if err1 != nil || err2 != nil {
		return // they come together with us, but not at the same moment
	}
	versions := versionsOf(own, mesh, proxies)
	if versions == i.taken { // nodes tell of themselves again and again, and what pods became by a configuration is remembered with it
		return
	}
	i.taken = versions
	config, err := inject.ParseConfig(own.Data["config"], own.Data["values"], mesh.Data["mesh"])
	if err != nil {
		slog.Error("inject: the configuration cannot be used; what was in force stays", "error", err)
		return
	}
	ours := source.OfRevision(i.options.revision)
	var read []inject.ProxyConfig
	for _, object := range proxies {
		if one, ok := object.(*unstructured.Unstructured); ok && ours(labels.Set(one.GetLabels())) {
			read = append(read, inject.ReadProxyConfig(one))
		}
	}
	config.SetProxyConfigs(i.options.namespace, read)
	i.config.Store(config)
}

// versionsOf is equal for the same objects.
func versionsOf(own, mesh *corev1.ConfigMap, proxies []runtime.Object) string {
	var of []string
	for _, object := range proxies {
		if one, ok := object.(*unstructured.Unstructured); ok {
			of = append(of, string(one.GetUID())+"/"+one.GetResourceVersion())
		}
	}
	slices.Sort(of)
	return strings.Join(append(of, own.ResourceVersion, mesh.ResourceVersion), " ")
}

// trustDomainOf reads the trust domain that the mesh's ConfigMap says; identities are made with it from the start.
func trustDomainOf(ctx context.Context, kube kubernetes.Interface, o options) (string, error) {
	configMap, err := kube.CoreV1().ConfigMaps(o.namespace).Get(ctx, "istio"+o.suffix(), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return "cluster.local", nil
	}
	if err != nil {
		return "", fmt.Errorf("read the mesh's configuration: %w", err)
	}
	config, err := resolve.ReadMeshConfig(configMap)
	if err != nil || config.TrustDomain == "" {
		return "cluster.local", nil // resolve reports what cannot be read
	}
	return config.TrustDomain, nil
}
