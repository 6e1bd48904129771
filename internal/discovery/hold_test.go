package discovery

import (
	"slices"
	"testing"
	"time"

	api "istio.io/api/networking/v1alpha3"
	networking "istio.io/client-go/pkg/apis/networking/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/slipway-mesh/slipway/internal/discovery/resolve"
	"github.com/slipway-mesh/slipway/internal/discovery/source"
)

func change(kind, name string, object any) source.Change {
	return source.Change{Kind: kind, Namespace: "default", Name: name, Object: object}
}

func service(name string) source.Change {
	return change("Service", name, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.ServiceSpec{ClusterIP: "10.0.0.1", Ports: []corev1.ServicePort{{Name: "http", Port: 80}}}})
}

func route(subset string) source.Change {
	return change("VirtualService", "s", &networking.VirtualService{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "s"}, Spec: api.VirtualService{
		Hosts: []string{"s"}, Http: []*api.HTTPRoute{{Route: []*api.HTTPRouteDestination{{Destination: &api.Destination{Host: "s", Subset: subset}}}}}}})
}

func rule(subset string) source.Change {
	return change("DestinationRule", "s", &networking.DestinationRule{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "s"}, Spec: api.DestinationRule{Host: "s", Subsets: []*api.Subset{{Name: subset}}}})
}

// TestHold gives changes in the order in which watches may bring them, and sees which are taken in at what time.
func TestHold(t *testing.T) {
	type step struct {
		after time.Duration
		come  []source.Change
		taken []string // kinds
	}
	for name, steps := range map[string][]step{
		"both at once":                       {{0, []source.Change{route("v2"), rule("v2")}, []string{"VirtualService", "DestinationRule"}}},
		"the route first":                    {{0, []source.Change{service("t"), route("v2")}, []string{"Service"}}, {100 * time.Millisecond, []source.Change{rule("v2")}, []string{"VirtualService", "DestinationRule"}}},
		"the rule first":                     {{0, []source.Change{rule("v2")}, nil}, {100 * time.Millisecond, []source.Change{route("v2")}, []string{"DestinationRule", "VirtualService"}}},
		"one half for ever":                  {{0, []source.Change{route("v2")}, nil}, {grace - 1, []source.Change{service("t")}, []string{"Service"}}, {1, nil, []string{"VirtualService"}}},
		"changed again, and again too early": {{0, []source.Change{route("v2")}, nil}, {grace / 2, []source.Change{route("v3")}, nil}, {grace / 2, nil, []string{"VirtualService"}}},
		"taken back":                         {{0, []source.Change{route("v2")}, nil}, {100 * time.Millisecond, []source.Change{route("v1")}, []string{"VirtualService"}}, {grace, nil, nil}},
		"two, of which the first is too early without the second": {{0, []source.Change{rule("v2"), route("v3")}, nil}, {grace, nil, []string{"VirtualService", "DestinationRule"}}},
		"a second time": {{0, []source.Change{route("v2")}, nil}, {grace, nil, []string{"VirtualService"}}, {grace, []source.Change{route("v3")}, nil}, {grace, nil, []string{"VirtualService"}}},
	} {
		t.Run(name, func(t *testing.T) {
			state, _ := resolve.Next(resolve.Start(resolve.Options{Domain: "cluster.local", RootNamespace: "istio-system"}), []source.Change{service("s"), rule("v1"), route("v1")})
			h, now := hold{}, time.Now()
			for i, s := range steps {
				now = now.Add(s.after)
				next, _, changes := h.next(state, s.come, now)
				state = next
				var taken []string
				for _, c := range changes {
					taken = append(taken, c.Kind)
				}
				if !slices.Equal(taken, s.taken) {
					t.Fatalf("step %d takes in %v, want %v", i, taken, s.taken)
				}
			}
			if h.over() != nil {
				t.Error("something is held still")
			}
		})
	}
}
