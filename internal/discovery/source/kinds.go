package source

import (
	networking "istio.io/client-go/pkg/apis/networking/v1"
	istio "istio.io/client-go/pkg/clientset/versioned"
	istioinformers "istio.io/client-go/pkg/informers/externalversions"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// Options says what is watched.
type Options struct {
	Kube  kubernetes.Interface
	Istio istio.Interface
	// Dynamic reads the kinds of which older documents write what their types do not have.
	Dynamic dynamic.Interface
	// Revision is this control plane's; objects labelled with another are not for it.
	Revision string
	// Namespace and MeshConfig name the ConfigMap with the mesh's configuration.
	Namespace, MeshConfig string
	// Selectors reads from that ConfigMap which namespaces are read, by their labels; none is all.
	Selectors func(*corev1.ConfigMap) []labels.Selector
}

// New prepares the watches of all kinds. Nothing is read before Run.
func New(options Options, queue *Queue) (*Source, error) {
	s := &Source{queue: queue, selection: selection{options: options, labels: map[string]labels.Set{}}}
	all := func(labels.Labels) bool { return true }
	ours := OfRevision(options.Revision)
	kube := informers.NewSharedInformerFactory(options.Kube, resync)
	own := informers.NewSharedInformerFactoryWithOptions(options.Kube, resync, informers.WithNamespace(options.Namespace))
	older := dynamicinformer.NewDynamicSharedInformerFactory(options.Dynamic, resync)
	mesh := istioinformers.NewSharedInformerFactory(options.Istio, resync)
	for _, k := range []struct {
		kind     string
		informer cache.SharedIndexInformer
		keep     func(labels.Labels) bool
		slim     func(any)
	}{
		{"ConfigMap", own.Core().V1().ConfigMaps().Informer(), all, slimConfigMap(options.MeshConfig)},
		{"Namespace", kube.Core().V1().Namespaces().Informer(), all, nil},
		{"Node", kube.Core().V1().Nodes().Informer(), all, slimNode},
		{"Service", kube.Core().V1().Services().Informer(), all, nil},
		{"EndpointSlice", kube.Discovery().V1().EndpointSlices().Informer(), all, nil},
		{"Pod", kube.Core().V1().Pods().Informer(), all, slimPod},
		{"Ingress", kube.Networking().V1().Ingresses().Informer(), all, nil},
		{"IngressClass", kube.Networking().V1().IngressClasses().Informer(), all, nil},
		{"Gateway", mesh.Networking().V1().Gateways().Informer(), ours, nil},
		{"VirtualService", older.ForResource(networking.SchemeGroupVersion.WithResource("virtualservices")).Informer(), ours, nil},
		{"DestinationRule", mesh.Networking().V1().DestinationRules().Informer(), ours, nil},
		{"ServiceEntry", mesh.Networking().V1().ServiceEntries().Informer(), ours, nil},
		{"AuthorizationPolicy", mesh.Security().V1().AuthorizationPolicies().Informer(), ours, nil},
		{"RequestAuthentication", mesh.Security().V1().RequestAuthentications().Informer(), ours, nil},
		{"WorkloadEntry", mesh.Networking().V1().WorkloadEntries().Informer(), ours, nil},
		{"Sidecar", mesh.Networking().V1().Sidecars().Informer(), ours, nil},
		{"EnvoyFilter", mesh.Networking().V1alpha3().EnvoyFilters().Informer(), ours, nil},
		{"Telemetry", mesh.Telemetry().V1().Telemetries().Informer(), ours, nil},
		{"PeerAuthentication", mesh.Security().V1().PeerAuthentications().Informer(), ours, nil},
	} {
		if err := s.add(k.kind, k.informer, k.keep, k.slim); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// OfRevision takes objects by their labels: those without a revision, and those of this one.
func OfRevision(revision string) func(labels.Labels) bool {
	if revision == "" {
		revision = "default"
	}
	const label = "istio.io/rev"
	return func(set labels.Labels) bool { return !set.Has(label) || set.Get(label) == revision }
}

// slimConfigMap empties every ConfigMap but the mesh's.
func slimConfigMap(name string) func(any) {
	return func(object any) {
		if c, ok := object.(*corev1.ConfigMap); ok && c.Name != name {
			c.Data, c.BinaryData, c.Annotations = nil, nil, nil
		}
	}
}

func slimNode(object any) {
	if n, ok := object.(*corev1.Node); ok {
		n.Spec, n.Status, n.Annotations = corev1.NodeSpec{}, corev1.NodeStatus{}, nil
	}
}

// slimPod keeps what makes an endpoint: labels, address, account, node, whether it has ended.
func slimPod(object any) {
	p, ok := object.(*corev1.Pod)
	if !ok {
		return
	}
	p.Annotations, p.OwnerReferences = nil, nil
	p.Spec = corev1.PodSpec{ServiceAccountName: p.Spec.ServiceAccountName, NodeName: p.Spec.NodeName, HostNetwork: p.Spec.HostNetwork}
	var ready []corev1.PodCondition
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			ready = []corev1.PodCondition{{Type: c.Type, Status: c.Status}}
		}
	}
	p.Status = corev1.PodStatus{Conditions: ready, Phase: p.Status.Phase, PodIP: p.Status.PodIP, PodIPs: p.Status.PodIPs}
}
