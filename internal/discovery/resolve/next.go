// Package resolve turns Kubernetes and Istio objects into a World. Kubernetes types end here. It is pure: the same
// objects in whatever order make the same World, and it never fails: a user's mistake is a Problem, and stops only
// what it makes impossible.
package resolve

import (
	"crypto/sha256"
	"encoding/hex"
	"sort"

	iradix "github.com/hashicorp/go-immutable-radix/v2"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	meshapi "istio.io/api/mesh/v1alpha1"
	api "istio.io/api/networking/v1alpha3"
	networking "istio.io/client-go/pkg/apis/networking/v1"
	filter "istio.io/client-go/pkg/apis/networking/v1alpha3"
	security "istio.io/client-go/pkg/apis/security/v1"
	telemetry "istio.io/client-go/pkg/apis/telemetry/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/slipway-mesh/slipway/internal/compliance"
	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
	"github.com/slipway-mesh/slipway/internal/discovery/source"
	"github.com/slipway-mesh/slipway/internal/discovery/world"
)

// Options are what a control plane knows before it reads anything.
type Options struct {
	ClusterID     string
	Domain        string // cluster.local
	RootNamespace string
	Compliance    compliance.Policy
	MeshConfigMap string // name of the ConfigMap with the mesh's configuration, in RootNamespace
	// Patches says what Envoy's types do not have of an EnvoyFilter; they are not known here. Nil says nothing.
	Patches func(*api.EnvoyFilter) []PatchMistake
}

// State is a World with the objects that it was made of. It is immutable.
type State struct {
	World *world.World

	options        Options
	base           *mesh.Config                             // as MeshConfig says
	watched        *mesh.Config                             // base as it was when World.Config was made of it
	aliased        *iradix.Tree[string]                     // what an ExternalName Service names, by namespace NUL name
	slices         *iradix.Tree[*discoveryv1.EndpointSlice] // by namespace NUL service NUL name
	pods           *iradix.Tree[*corev1.Pod]                // by namespace NUL name
	services       *iradix.Tree[*corev1.Service]            // by namespace NUL name
	entries        *iradix.Tree[*networking.ServiceEntry]   // by namespace NUL name
	workloads      *iradix.Tree[*networking.WorkloadEntry]  // by namespace NUL name
	ingresses      *iradix.Tree[*networkingv1.Ingress]      // by namespace NUL name
	hostsOfIngress *iradix.Tree[[]string]                   // by namespace NUL name
	ingressClasses *iradix.Tree[string]                     // controllers, by name
	virtual        *iradix.Tree[*mesh.VirtualService]       // by namespace NUL name
	routes         *iradix.Tree[*networking.VirtualService] // by namespace NUL name
	roots          *iradix.Tree[rootOf]                     // by a delegate's namespace NUL name NUL its root's
	ruleHosts      *iradix.Tree[string]                     // host of each DestinationRule, by namespace NUL name
	problems       *iradix.Tree[[]Problem]                  // by kind NUL namespace NUL name
	namespaces     *iradix.Tree[labels.Set]                 // by name
	visibility     *meshapi.ServiceEntryVisibility          // nil where MeshConfig says nothing of it
}

// Start is a State without objects.
func Start(options Options) *State {
	config := defaultConfig(options)
	return &State{
		World: world.New(config), options: options, base: config, watched: config,
		aliased: iradix.New[string](), slices: iradix.New[*discoveryv1.EndpointSlice](), pods: iradix.New[*corev1.Pod](),
		services: iradix.New[*corev1.Service](), entries: iradix.New[*networking.ServiceEntry](), workloads: iradix.New[*networking.WorkloadEntry](),
		ingresses: iradix.New[*networkingv1.Ingress](), hostsOfIngress: iradix.New[[]string](), ingressClasses: iradix.New[string](),
		virtual: iradix.New[*mesh.VirtualService](), routes: iradix.New[*networking.VirtualService](), roots: iradix.New[rootOf](), ruleHosts: iradix.New[string](), problems: iradix.New[[]Problem](), namespaces: iradix.New[labels.Set](),
	}
}

// HasPod says whether a pod is there.
func (s *State) HasPod(namespace, name, uid string) bool {
	pod, there := s.pods.Get(world.Key(namespace, name))
	return there && string(pod.UID) == uid
}

// Problems returns what is wrong with users' objects, in the order of kind, namespace and name.
func (s *State) Problems() []Problem {
	var all []Problem
	s.problems.Root().Walk(func(_ []byte, list []Problem) bool {
		all = append(all, list...)
		return false
	})
	return all
}

// Next applies changes and says what they made dirty. The State before is not touched.
func Next(previous *State, changes []source.Change) (*State, world.Dirty) {
	s := *previous
	w := *previous.World
	s.World = &w
	step := &step{State: &s, dirty: world.NewDirty(), stale: map[string]staleService{}, staleEntries: map[staleEntry]bool{}}
	for _, change := range changes {
		step.apply(change)
	}
	step.refreshEndpoints()
	if known := step.watchesHost(); step.rewatch || known {
		step.watch()
		step.dirty.All = step.dirty.All || known && step.World.Telemetries.Len() > 0
	}
	return step.State, step.dirty
}

// KeySet is the kind of a change that tells of keys; its name is their source.
const KeySet = "KeySet"

// step is one Next on its way.
type step struct {
	*State
	dirty world.Dirty
	// stale are the hosts whose endpoints must be computed anew, once for all changes.
	stale map[string]staleService
	// staleEntries are hosts of ServiceEntries that select what changed.
	staleEntries map[staleEntry]bool
	// rewatch says that what is told of all calls may be something else.
	rewatch bool
}

type staleService struct{ namespace, name string }

type staleEntry struct{ host, namespace string }

// apply hands a change to its kind. The cast of a missing object gives nil, which means gone.
func (s *step) apply(change source.Change) {
	switch change.Kind {
	case "ConfigMap":
		object, _ := change.Object.(*corev1.ConfigMap)
		s.meshConfig(change.Name, object)
	case "Namespace":
		object, _ := change.Object.(*corev1.Namespace)
		s.namespace(change.Name, object)
	case "Node":
		object, _ := change.Object.(*corev1.Node)
		s.node(change.Name, object)
	case "Service":
		object, _ := change.Object.(*corev1.Service)
		s.service(change.Namespace, change.Name, object)
	case "EndpointSlice":
		object, _ := change.Object.(*discoveryv1.EndpointSlice)
		s.endpointSlice(change.Namespace, change.Name, object)
	case "Pod":
		object, _ := change.Object.(*corev1.Pod)
		s.pod(change.Namespace, change.Name, object)
	case "VirtualService":
		object, _ := change.Object.(*networking.VirtualService)
		s.virtualService(change.Namespace, change.Name, object)
	case "DestinationRule":
		object, _ := change.Object.(*networking.DestinationRule)
		s.destinationRule(change.Namespace, change.Name, object)
	case "ServiceEntry":
		object, _ := change.Object.(*networking.ServiceEntry)
		s.serviceEntry(change.Namespace, change.Name, object)
	case "Gateway":
		object, _ := change.Object.(*networking.Gateway)
		s.gateway(change.Namespace, change.Name, object)
	case "AuthorizationPolicy":
		object, _ := change.Object.(*security.AuthorizationPolicy)
		s.authorizationPolicy(change.Namespace, change.Name, object)
	case "RequestAuthentication":
		object, _ := change.Object.(*security.RequestAuthentication)
		s.requestAuthentication(change.Namespace, change.Name, object)
	case KeySet:
		object, _ := change.Object.(*mesh.KeySet)
		s.keySet(change.Name, object)
	case "Ingress":
		object, _ := change.Object.(*networkingv1.Ingress)
		s.ingress(change.Namespace, change.Name, object)
	case "IngressClass":
		object, _ := change.Object.(*networkingv1.IngressClass)
		s.ingressClass(change.Name, object)
	case "WorkloadEntry":
		object, _ := change.Object.(*networking.WorkloadEntry)
		s.workloadEntry(change.Namespace, change.Name, object)
	case "Sidecar":
		object, _ := change.Object.(*networking.Sidecar)
		s.sidecar(change.Namespace, change.Name, object)
	case "EnvoyFilter":
		object, _ := change.Object.(*filter.EnvoyFilter)
		s.envoyFilter(change.Namespace, change.Name, object)
	case "Telemetry":
		object, _ := change.Object.(*telemetry.Telemetry)
		s.telemetry(change.Namespace, change.Name, object)
	case "PeerAuthentication":
		object, _ := change.Object.(*security.PeerAuthentication)
		s.peerAuthentication(change.Namespace, change.Name, object)
	}
}

// put returns the tree with the value at the key, or without the key.
func put[T any](tree *iradix.Tree[T], key []byte, value T, there bool) *iradix.Tree[T] {
	if there {
		tree, _, _ = tree.Insert(key, value)
	} else {
		tree, _, _ = tree.Delete(key)
	}
	return tree
}

// form is a text that is equal for equal messages.
func form(message proto.Message) string {
	text, err := proto.MarshalOptions{Deterministic: true}.Marshal(message)
	if err != nil { // invalid UTF-8, which the API server does not let through
		text = []byte(prototext.Format(message))
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	return keys
}
