package manifest

import (
	"errors"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func merged(t *testing.T, layers ...Layer) Merged {
	t.Helper()
	m, err := Merge(layers...)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// randomSpec makes a spec of maps, scalars, plain lists, and a keyed list of gateways.
func randomSpec(r *rand.Rand, depth int) map[string]any {
	m := map[string]any{}
	for i := range 1 + r.IntN(4) {
		name := string(rune('a' + i))
		switch r.IntN(5) {
		case 0:
			m[name] = float64(r.IntN(3))
		case 1:
			m[name] = r.IntN(2) == 0
		case 2:
			m[name] = []any{"x", float64(r.IntN(3))}
		case 3:
			m[name] = ""
		default:
			if depth > 0 {
				m[name] = randomSpec(r, depth-1)
			}
		}
	}
	return m
}

func randomLayer(r *rand.Rand, name string) Layer {
	spec := map[string]any{"values": randomSpec(r, 3)}
	var gateways []any
	for i := range r.IntN(4) {
		gateways = append(gateways, map[string]any{"name": "g" + strconv.Itoa((i+r.IntN(3))%5+i*5), "enabled": r.IntN(2) == 0})
	}
	if gateways != nil {
		spec["components"] = map[string]any{"ingressGateways": gateways}
	}
	return Layer{Name: name, Spec: spec}
}

// The laws of merging: identity, idempotence, layers fold from the left, and no layer is changed by it.
func TestMergeLaws(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	empty := Layer{Name: "empty", Spec: map[string]any{}}
	for range 300 {
		a, b, c := randomLayer(r, "a"), randomLayer(r, "b"), randomLayer(r, "c")
		before := copyValue(a.Spec)
		ab := merged(t, a, b)
		for name, pair := range map[string][2]map[string]any{
			"identity on the left":  {merged(t, empty, a).Spec, merged(t, a).Spec},
			"identity on the right": {merged(t, a, empty).Spec, merged(t, a).Spec},
			"idempotence":           {merged(t, a, b, b).Spec, ab.Spec},
			"fold from the left":    {merged(t, Layer{"ab", ab.Spec}, c).Spec, merged(t, a, b, c).Spec},
			"layers are not shared": {a.Spec, before.(map[string]any)},
		} {
			if diff := cmp.Diff(pair[1], pair[0]); diff != "" {
				t.Fatalf("%s does not hold:\n%s", name, diff)
			}
		}
	}
}

// Origin names, for each effective leaf and no other, the last layer that set it.
func TestMergeOrigin(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 200 {
		layers := []Layer{randomLayer(r, "a"), randomLayer(r, "b"), randomLayer(r, "c")}
		m := merged(t, layers...)
		leaves := 0
		walkLeaves("", m.Spec, func(path string, _ any) {
			leaves++
			if m.Origin[path] == "" {
				t.Errorf("no origin for %s", path)
			}
		})
		if leaves != len(m.Origin) {
			t.Errorf("%d leaves and %d origins", leaves, len(m.Origin))
		}
	}
}

func TestMergeCases(t *testing.T) {
	for _, c := range []struct{ name, base, over, want string }{
		{"false and 0 override", "values: {a: true, n: 3}", "values: {a: false, n: 0}", "values: {a: false, n: 0}"},
		{"null deletes", "values: {a: 1, b: {c: 2, d: 3}}", "values: {a: null, b: {c: null}}", "values: {b: {d: 3}}"},
		{"gateways by name, new ones last", "components: {ingressGateways: [{name: a, enabled: true}, {name: b}]}",
			"components: {ingressGateways: [{name: new}, {name: a, enabled: false}]}",
			"components: {ingressGateways: [{name: a, enabled: false}, {name: b}, {name: new}]}"},
		{"ports in values by name", "values: {g: {ports: [{name: http, port: 80}]}}", "values: {g: {ports: [{name: tls, port: 443}]}}",
			"values: {g: {ports: [{name: http, port: 80}, {name: tls, port: 443}]}}"},
		{"other lists replace", "values: {l: [1, 2]}", "values: {l: [3]}", "values: {l: [3]}"},
		{"an empty list replaces", "values: {l: [1, 2]}", "values: {l: []}", "values: {l: []}"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := merged(t, layer(t, c.base), layer(t, c.over)).Spec
			if diff := cmp.Diff(layer(t, c.want).Spec, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestProfileDumpRendersTheSame(t *testing.T) {
	for _, profile := range []string{"default", "demo", "minimal", "empty"} {
		direct := render(t, "profile: "+profile)
		resolved, err := Resolve(testOptions, layer(t, "profile: "+profile))
		if err != nil {
			t.Fatal(err)
		}
		pasted, err := Render(testOptions, Layer{Name: "pasted", Spec: resolved.Spec})
		if err != nil {
			t.Fatal(err)
		}
		a, err := YAML(direct.Objects())
		if err != nil {
			t.Fatal(err)
		}
		b, err := YAML(pasted.Objects())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(a), string(b)); diff != "" {
			t.Errorf("profile %s pasted renders otherwise:\n%s", profile, diff)
		}
	}
}

func TestErrorsNameTheField(t *testing.T) {
	for _, c := range []struct{ name, spec, want string }{
		{"unknown field", "profil: demo", "spec.profil"},
		{"unknown nested field", "components: {pilot: {k8s: {replica: 1}}}", "spec.components.pilot.k8s.replica"},
		{"wrong type", "components: {pilot: {enabled: maybe}}", "components.pilot.enabled"},
		{"unknown profile", "profile: nosuch", "spec.profile"},
		{"gateway without a name", "components: {ingressGateways: [{enabled: true}]}", "components.ingressGateways[0].name"},
		{"CIDR", "values: {global: {proxy: {excludeIPRanges: 1.2.3}}}", "spec.values.global.proxy.excludeIPRanges"},
		{"part that is not there", "components: {cni: {enabled: true}}", "spec.components.cni.enabled"},
		{"privileged port", "components: {ingressGateways: [{name: g, k8s: {service: {ports: [{port: 80}]}}}]}", "targetPort"},
		{"overlay without a match", "components: {pilot: {k8s: {overlays: [{kind: Deployment, name: x}]}}}", "spec.components.pilot.k8s.overlays[0]"},
		{"addon", "addonComponents: {kiali: {enabled: true}}", "spec.addonComponents.kiali.enabled"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Render(testOptions, layer(t, c.spec))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("the error is %v; it should name %s", err, c.want)
			}
		})
	}
	var named *Error
	if _, err := Render(testOptions, layer(t, "profile: nosuch")); !errors.As(err, &named) {
		t.Errorf("%v is no *Error", err)
	}
}
