package resolve

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	iradix "github.com/hashicorp/go-immutable-radix/v2"
	"google.golang.org/protobuf/testing/protocmp"
	api "istio.io/api/networking/v1alpha3"
	securityapi "istio.io/api/security/v1beta1"
	telemetryapi "istio.io/api/telemetry/v1alpha1"
	typeapi "istio.io/api/type/v1beta1"
	networking "istio.io/client-go/pkg/apis/networking/v1"
	security "istio.io/client-go/pkg/apis/security/v1"
	telemetry "istio.io/client-go/pkg/apis/telemetry/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
	"github.com/slipway-mesh/slipway/internal/discovery/source"
)

var testOptions = Options{ClusterID: "Kubernetes", Domain: "cluster.local", RootNamespace: "istio-system", MeshConfigMap: "istio"}

// meta gives every object of a name the same age, as the same objects in another order must mean the same.
func meta(namespace, name string, labels map[string]string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: labels, CreationTimestamp: metav1.NewTime(time.Unix(int64(len(name)), 0))}
}

func pick(r *rand.Rand, list ...string) string { return list[r.IntN(len(list))] }

// randomChange makes, changes or removes one of a few objects.
func randomChange(r *rand.Rand) source.Change {
	namespace, n := pick(r, "a", "b", "istio-system"), r.IntN(4)
	name := fmt.Sprintf("o%d", n)
	labels := map[string]string{"app": name, "version": pick(r, "v1", "v2"), labelTLSMode: pick(r, "istio", "")}
	kind := pick(r, "Service", "EndpointSlice", "Pod", "Node", "VirtualService", "DestinationRule", "ServiceEntry", "Gateway", "PeerAuthentication", "ConfigMap", "Sidecar", "WorkloadEntry", "Ingress", "IngressClass", "Telemetry")
	change := source.Change{Kind: kind, Namespace: namespace, Name: name}
	if kind == "ConfigMap" {
		change.Namespace, change.Name = "istio-system", "istio"
	}
	if kind == "Node" || kind == "IngressClass" {
		change.Namespace = ""
	}
	if r.IntN(4) > 0 {
		change.Object = randomObject(r, kind, namespace, name, labels)
	}
	return change
}

func randomObject(r *rand.Rand, kind, namespace, name string, labels map[string]string) any {
	port, portName := int32(80), "http"
	switch kind {
	case "Telemetry":
		object := &telemetry.Telemetry{ObjectMeta: meta(namespace, name, nil)}
		object.Spec.AccessLogging = []*telemetryapi.AccessLogging{{Providers: []*telemetryapi.ProviderRef{{Name: pick(r, "envoy", "nobody")}}}}
		return object
	case "Service":
		if r.IntN(4) == 0 {
			return &corev1.Service{ObjectMeta: meta(namespace, name, nil), Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: pick(r, "o1.a.svc.cluster.local", "o2.b.svc.cluster.local", "x.test")}}
		}
		return &corev1.Service{ObjectMeta: meta(namespace, name, nil), Spec: corev1.ServiceSpec{ClusterIP: pick(r, "10.0.0.1", "None"), Selector: map[string]string{"app": name},
			Ports: []corev1.ServicePort{{Name: pick(r, "http", "tcp", "x"), Port: port}}}}
	case "EndpointSlice":
		ready := r.IntN(3) > 0
		node := pick(r, "o0", "o1")
		return &discoveryv1.EndpointSlice{ObjectMeta: meta(namespace, name, map[string]string{discoveryv1.LabelServiceName: name}),
			Ports: []discoveryv1.EndpointPort{{Name: &portName, Port: &port}}, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{pick(r, "10.1.0.1", "10.1.0.2")},
				Conditions: discoveryv1.EndpointConditions{Ready: &ready}, NodeName: &node, TargetRef: &corev1.ObjectReference{Kind: "Pod", Name: name}}}}
	case "Pod":
		return &corev1.Pod{ObjectMeta: meta(namespace, name, labels), Spec: corev1.PodSpec{ServiceAccountName: pick(r, "x", "y")}, Status: corev1.PodStatus{PodIP: "10.1.0.1", Phase: corev1.PodPhase(pick(r, "Running", "Failed"))}}
	case "Node":
		return &corev1.Node{ObjectMeta: meta("", name, map[string]string{mesh.LabelRegion: pick(r, "east", "west")})}
	case "VirtualService":
		switch r.IntN(4) {
		case 0: // a root
			return &networking.VirtualService{ObjectMeta: meta(namespace, name, nil), Spec: api.VirtualService{Hosts: []string{"root.test"}, Http: []*api.HTTPRoute{{
				Match:    []*api.HTTPMatchRequest{{Uri: &api.StringMatch{MatchType: &api.StringMatch_Prefix{Prefix: pick(r, "/a", "/b")}}}},
				Delegate: &api.Delegate{Name: pick(r, "o0", "o1"), Namespace: pick(r, "a", "")}}}}}
		case 1: // a delegate
			return &networking.VirtualService{ObjectMeta: meta(namespace, name, nil), Spec: api.VirtualService{Http: []*api.HTTPRoute{{
				Match: []*api.HTTPMatchRequest{{Uri: &api.StringMatch{MatchType: &api.StringMatch_Prefix{Prefix: pick(r, "/a/x", "/b/x")}}}},
				Route: []*api.HTTPRouteDestination{{Destination: &api.Destination{Host: "o1"}}}}}}}
		}
		return &networking.VirtualService{ObjectMeta: meta(namespace, name, nil), Spec: api.VirtualService{Hosts: []string{pick(r, "o1", "*.test", "x.test")}, Gateways: []string{pick(r, "mesh", "o1")},
			Http: []*api.HTTPRoute{{Match: []*api.HTTPMatchRequest{{SourceLabels: map[string]string{"app": pick(r, "p", "q")}}}, Route: []*api.HTTPRouteDestination{{Destination: &api.Destination{Host: pick(r, "o1", "")}}}}}}}
	case "DestinationRule":
		if r.IntN(3) == 0 {
			return &networking.DestinationRule{ObjectMeta: meta(namespace, name, nil), Spec: api.DestinationRule{Host: "o1", WorkloadSelector: &typeapi.WorkloadSelector{MatchLabels: map[string]string{"app": pick(r, "p", "q")}},
				TrafficPolicy: &api.TrafficPolicy{OutlierDetection: &api.OutlierDetection{}, LoadBalancer: &api.LoadBalancerSettings{LocalityLbSetting: &api.LocalityLoadBalancerSetting{FailoverPriority: []string{pick(r, "a", "b")}}}}}}
		}
		return &networking.DestinationRule{ObjectMeta: meta(namespace, name, nil), Spec: api.DestinationRule{Host: pick(r, "o1", "x.test"), Subsets: []*api.Subset{{Name: pick(r, "v1", "v2"), Labels: map[string]string{"version": "v1"}}}}}
	case "ServiceEntry": // a host each, since of two objects that claim one the order of their ages decides
		if r.IntN(3) == 0 {
			return &networking.ServiceEntry{ObjectMeta: meta(namespace, name, nil), Spec: api.ServiceEntry{Hosts: []string{name + ".x.test"}, Resolution: api.ServiceEntry_STATIC,
				Ports: []*api.ServicePort{{Number: 80, Name: "http", Protocol: "HTTP"}}, WorkloadSelector: &api.WorkloadSelector{Labels: map[string]string{"app": pick(r, "o0", "o1")}}}}
		}
		return &networking.ServiceEntry{ObjectMeta: meta(namespace, name, nil), Spec: api.ServiceEntry{Hosts: []string{name + "." + pick(r, "x", "y") + ".test"}, Resolution: api.ServiceEntry_STATIC,
			Ports: []*api.ServicePort{{Number: 80, Name: "http", Protocol: "HTTP"}}, Endpoints: []*api.WorkloadEntry{{Address: pick(r, "1.1.1.1", "nonsense")}}}}
	case "Sidecar":
		return &networking.Sidecar{ObjectMeta: meta(namespace, name, nil), Spec: api.Sidecar{Egress: []*api.IstioEgressListener{{Hosts: []string{pick(r, "./*", "*/o1.a.svc.cluster.local", "~/*")}}}}}
	case "Ingress":
		class := pick(r, "istio", "o1", "other")
		return &networkingv1.Ingress{ObjectMeta: meta(namespace, name, nil), Spec: networkingv1.IngressSpec{IngressClassName: &class, Rules: []networkingv1.IngressRule{{Host: pick(r, "", "a.test"), IngressRuleValue: networkingv1.IngressRuleValue{
			HTTP: &networkingv1.HTTPIngressRuleValue{Paths: []networkingv1.HTTPIngressPath{{Path: pick(r, "/", "/a"), Backend: networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{Name: pick(r, "o0", "o1"), Port: networkingv1.ServiceBackendPort{Name: portName}}}}}}}}}}}
	case "IngressClass":
		return &networkingv1.IngressClass{ObjectMeta: meta("", name, nil), Spec: networkingv1.IngressClassSpec{Controller: pick(r, IngressController, "other")}}
	case "WorkloadEntry":
		return &networking.WorkloadEntry{ObjectMeta: meta(namespace, name, nil), Spec: api.WorkloadEntry{Address: pick(r, "10.2.0.1", ""), Labels: map[string]string{"app": pick(r, "o0", "o1", "o2")}, ServiceAccount: pick(r, "x", "")}}
	case "Gateway":
		return &networking.Gateway{ObjectMeta: meta(namespace, name, nil), Spec: api.Gateway{Selector: map[string]string{"istio": "x"}, Servers: []*api.Server{{Port: &api.Port{Number: 80, Protocol: pick(r, "HTTP", "NONSENSE")}, Hosts: []string{"*"}}}}}
	case "PeerAuthentication":
		return &security.PeerAuthentication{ObjectMeta: meta(namespace, name, nil), Spec: securityapi.PeerAuthentication{Selector: &typeapi.WorkloadSelector{MatchLabels: map[string]string{"app": name}},
			Mtls: &securityapi.PeerAuthentication_MutualTLS{Mode: securityapi.PeerAuthentication_MutualTLS_Mode(r.IntN(4))}}}
	case "ConfigMap":
		return &corev1.ConfigMap{ObjectMeta: meta("istio-system", "istio", nil), Data: map[string]string{"mesh": pick(r, "trustDomain: a.test", "trustDomain: b.test\nenableAutoMtls: false", "]")}}
	}
	return nil
}

// flat lists a tree's entries.
func flat[T any](tree *iradix.Tree[T]) map[string]T {
	out := map[string]T{}
	tree.Root().Walk(func(key []byte, value T) bool {
		out[string(key)] = value
		return false
	})
	return out
}

func compare(t *testing.T, what string, got, want any) {
	t.Helper()
	if diff := cmp.Diff(want, got, protocmp.Transform(), cmpopts.EquateEmpty()); diff != "" {
		t.Fatalf("%s differ from a computation from scratch:\n%s", what, diff)
	}
}

// TestNextEqualsFromScratch: over random chains of changes the World is the one that the final objects alone make.
func TestNextEqualsFromScratch(t *testing.T) {
	for seed := range uint64(40) {
		r := rand.New(rand.NewPCG(seed, 7))
		state := Start(testOptions)
		live := map[string]source.Change{}
		lastConfig := source.Change{}
		for range 60 {
			var changes []source.Change
			for range 1 + r.IntN(3) {
				change := randomChange(r)
				changes = append(changes, change)
				key := change.Kind + "/" + change.Namespace + "/" + change.Name
				if delete(live, key); change.Object != nil {
					live[key] = change
				}
				if c, ok := change.Object.(*corev1.ConfigMap); ok && c.Data["mesh"] == "]" { // unreadable: what was read before stands
					if live[key] = lastConfig; lastConfig.Object == nil {
						delete(live, key)
					}
				} else if change.Kind == "ConfigMap" {
					lastConfig = change
				}
			}
			state, _ = Next(state, changes)
		}
		var objects []source.Change
		for _, key := range sortedKeys(live) {
			objects = append(objects, live[key])
		}
		r.Shuffle(len(objects), func(i, j int) { objects[i], objects[j] = objects[j], objects[i] })
		scratch, _ := Next(Start(testOptions), objects)
		got, want := state.World, scratch.World
		compare(t, "configurations", got.Config, want.Config)
		compare(t, "services", flat(got.Services), flat(want.Services))
		compare(t, "endpoints", flat(got.Endpoints), flat(want.Endpoints))
		compare(t, "VirtualServices", flat(got.VirtualServices), flat(want.VirtualServices))
		compare(t, "DestinationRules", flat(got.Rules), flat(want.Rules))
		compare(t, "Gateways", flat(got.Gateways), flat(want.Gateways))
		compare(t, "PeerAuthentications", flat(got.PeerAuthentications), flat(want.PeerAuthentications))
		compare(t, "selecting services", flat(got.Selecting), flat(want.Selecting))
		compare(t, "Sidecars", flat(got.Sidecars), flat(want.Sidecars))
		compare(t, "aliases", flat(got.Aliases), flat(want.Aliases))
		compare(t, "leading VirtualServices", flat(got.Leading), flat(want.Leading))
		compare(t, "place tests", flat(got.PlaceTests), flat(want.PlaceTests))
		compare(t, "nodes", flat(got.Nodes), flat(want.Nodes))
		compare(t, "source tests", flat(got.SourceTests), flat(want.SourceTests))
	}
}

func TestProblems(t *testing.T) {
	for _, c := range []struct {
		name, kind string
		object     any
		field      string
		refuse     bool
	}{
		{"no route", "VirtualService", &networking.VirtualService{Spec: api.VirtualService{Hosts: []string{"a"}, Http: []*api.HTTPRoute{{}}}}, "spec.http[0]", true},
		{"no rule", "VirtualService", &networking.VirtualService{Spec: api.VirtualService{Hosts: []string{"a"}}}, "spec", true},
		{"DNS and a wildcard", "ServiceEntry", &networking.ServiceEntry{Spec: api.ServiceEntry{Hosts: []string{"*.a"}, Resolution: api.ServiceEntry_DNS, Ports: []*api.ServicePort{{Number: 80}}}}, "spec.hosts", true},
		{"no host", "DestinationRule", &networking.DestinationRule{}, "spec.host", true},
		{"unknown protocol", "Gateway", &networking.Gateway{Spec: api.Gateway{Servers: []*api.Server{{Port: &api.Port{Number: 80, Protocol: "X"}, Hosts: []string{"*"}}}}}, "spec.servers[0].port.protocol", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			problems := Check(testOptions, c.kind, "n", "o", c.object)
			if len(problems) != 1 || problems[0].Field != c.field || problems[0].Refuse != c.refuse || problems[0].Message == "" {
				t.Errorf("problems: %+v", problems)
			}
		})
	}
}
