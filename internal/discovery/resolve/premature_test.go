package resolve

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	api "istio.io/api/networking/v1alpha3"
	networking "istio.io/client-go/pkg/apis/networking/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/slipway-mesh/slipway/internal/discovery/source"
)

func serviceChange(name string) source.Change {
	return source.Change{Kind: "Service", Namespace: "a", Name: name, Object: &corev1.Service{ObjectMeta: meta("a", name, nil),
		Spec: corev1.ServiceSpec{ClusterIP: "10.0.0.1", Ports: []corev1.ServicePort{{Name: "http", Port: 80}}}}}
}

func routeChange(name, host, subset string) source.Change {
	return source.Change{Kind: "VirtualService", Namespace: "a", Name: name, Object: &networking.VirtualService{ObjectMeta: meta("a", name, nil),
		Spec: api.VirtualService{Hosts: []string{name}, Http: []*api.HTTPRoute{{Route: []*api.HTTPRouteDestination{{Destination: &api.Destination{Host: host, Subset: subset}}}}}}}}
}

func ruleChange(name, host string, subsets ...string) source.Change {
	object := &networking.DestinationRule{ObjectMeta: meta("a", name, nil), Spec: api.DestinationRule{Host: host}}
	for _, subset := range subsets {
		object.Spec.Subsets = append(object.Spec.Subsets, &api.Subset{Name: subset})
	}
	return source.Change{Kind: "DestinationRule", Namespace: "a", Name: name, Object: object}
}

func gone(c source.Change) source.Change {
	c.Object = nil
	return c
}

func TestPremature(t *testing.T) {
	there := []source.Change{serviceChange("s"), ruleChange("s", "s", "v1", "v2"), routeChange("s", "s", "v1"), routeChange("lost", "s", "none")}
	for name, c := range map[string]struct {
		changes []source.Change
		early   map[int]bool
	}{
		"a route to a subset that is there":                {[]source.Change{routeChange("s", "s", "v2")}, nil},
		"a route to a subset that is not":                  {[]source.Change{serviceChange("t"), routeChange("s", "s", "v3")}, map[int]bool{1: true}},
		"with its subset":                                  {[]source.Change{routeChange("s", "s", "v3"), ruleChange("s", "s", "v1", "v2", "v3")}, nil},
		"a new route to no Service":                        {[]source.Change{routeChange("t", "t", "")}, map[int]bool{0: true}},
		"with its Service":                                 {[]source.Change{routeChange("t", "t", ""), serviceChange("t")}, nil},
		"a route that led nowhere before":                  {[]source.Change{routeChange("lost", "s", "none")}, nil},
		"a subset that goes from under a route":            {[]source.Change{ruleChange("s", "s", "v2")}, map[int]bool{0: true}},
		"a subset that nobody uses":                        {[]source.Change{ruleChange("s", "s", "v1")}, nil},
		"a subset that goes with its route":                {[]source.Change{ruleChange("s", "s", "v2"), routeChange("s", "s", "v2")}, nil},
		"a rule that goes from under a route":              {[]source.Change{gone(ruleChange("s", "s"))}, map[int]bool{0: true}},
		"a rule that goes with its route":                  {[]source.Change{gone(ruleChange("s", "s")), gone(routeChange("s", "s", ""))}, nil},
		"a rule that is for another host now":              {[]source.Change{ruleChange("s", "t", "v1", "v2")}, map[int]bool{0: true}},
		"both that a route needs, and one it does not":     {[]source.Change{ruleChange("s", "s", "v2"), ruleChange("t", "t", "v1"), routeChange("s", "s", "v3")}, map[int]bool{2: true}},
		"a rule of a wildcard that is not the one that is": {[]source.Change{ruleChange("w", "*.a.svc.cluster.local", "v9")}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			before, _ := Next(Start(testOptions), there)
			after, _ := Next(before, c.changes)
			early := Premature(before, after, c.changes)
			if len(early) == 0 {
				early = nil
			}
			if diff := cmp.Diff(c.early, early); diff != "" {
				t.Error(diff)
			}
		})
	}
}
