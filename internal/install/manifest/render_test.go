package manifest

import (
	"bytes"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

var testOptions = Options{Hub: "docker.io/slipway", Tag: "1.0", Version: "1.0"}

func layer(t *testing.T, spec string) Layer {
	t.Helper()
	text := "  " + strings.ReplaceAll(strings.TrimSpace(spec), "\n", "\n  ")
	l, err := ParseLayer("test", []byte("apiVersion: install.istio.io/v1alpha1\nkind: IstioOperator\nspec:\n"+text))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func render(t *testing.T, specs ...string) *Manifests {
	t.Helper()
	var layers []Layer
	for _, s := range specs {
		layers = append(layers, layer(t, s))
	}
	m, err := Render(testOptions, layers...)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func find(t *testing.T, m *Manifests, kind, name string) Object {
	t.Helper()
	for _, o := range m.Objects() {
		if o.GetKind() == kind && o.GetName() == name {
			return o
		}
	}
	t.Fatalf("no %s named %s", kind, name)
	return nil
}

func TestRenderProfiles(t *testing.T) {
	for profile, want := range map[string]string{
		"default": "Base Pilot IngressGateways", "demo": "Base Pilot IngressGateways EgressGateways", "minimal": "Base Pilot", "empty": "",
	} {
		var names []string
		for _, c := range render(t, "profile: "+profile).Components {
			names = append(names, c.Name)
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("profile %s has %q, not %q", profile, got, want)
		}
	}
}

func TestRenderIsDeterministic(t *testing.T) {
	var first []byte
	for range 5 {
		text, err := YAML(render(t, "profile: demo").Objects())
		if err != nil {
			t.Fatal(err)
		}
		if first != nil && !bytes.Equal(first, text) {
			t.Fatal("two renderings differ")
		}
		first = text
	}
}

func TestSettings(t *testing.T) {
	m := render(t, `profile: demo
components:
  pilot:
    k8s:
      replicaCount: 3
      env: [{name: X, value: "1"}]
      nodeSelector: {disk: ssd}
      volumes: [{name: v, emptyDir: {}}]
      volumeMounts: [{name: v, mountPath: /v}]
  ingressGateways:
  - name: istio-ingressgateway
    k8s:
      resources: {requests: {cpu: 100m, memory: 400Mi}}
      serviceAnnotations: {a: b}
      overlays:
      - kind: Deployment
        name: istio-ingressgateway
        patches:
        - {path: "spec.template.spec.containers.[name:istio-proxy].args.[-1]", value: --extra}
        - {path: spec.template.metadata.labels.added, value: "yes"}
  - name: second
    enabled: true`)
	pilot := find(t, m, "Deployment", "istiod").Object
	container := at(t, pilot, "spec", "template", "spec", "containers", 0)
	for what, got := range map[string]any{
		"replicas": at(t, pilot, "spec", "replicas"), "selector": at(t, pilot, "spec", "template", "spec", "nodeSelector", "disk"),
	} {
		if got != float64(3) && got != "ssd" {
			t.Errorf("%s is %v", what, got)
		}
	}
	if !named(at(t, container, "env"), "X") || !named(at(t, container, "volumeMounts"), "v") || !named(at(t, pilot, "spec", "template", "spec", "volumes"), "v") {
		t.Errorf("env, volumes or volumeMounts are missing: %v", container)
	}
	gateway := find(t, m, "Deployment", "istio-ingressgateway").Object
	container = at(t, gateway, "spec", "template", "spec", "containers", 0)
	if at(t, container, "resources", "requests", "cpu") != "100m" || at(t, container, "resources", "limits", "cpu") != "2000m" {
		t.Errorf("resources: %v", at(t, container, "resources"))
	}
	args := at(t, container, "args").([]any)
	if args[len(args)-1] != "--extra" || at(t, gateway, "spec", "template", "metadata", "labels", "added") != "yes" {
		t.Errorf("overlays had no effect: %v", args)
	}
	if find(t, m, "Service", "istio-ingressgateway").GetAnnotations()["a"] != "b" {
		t.Error("serviceAnnotations had no effect")
	}
	second := find(t, m, "Deployment", "second").Object
	if at(t, second, "spec", "selector", "matchLabels", "istio") == at(t, gateway, "spec", "selector", "matchLabels", "istio") {
		t.Error("the second gateway is selected by what selects the first")
	}
}

func TestServicePortsReplaceTheProfiles(t *testing.T) {
	m := render(t, "components: {ingressGateways: [{name: istio-ingressgateway, k8s: {service: {ports: [{name: a, port: 8000, targetPort: 8000}]}}}]}")
	ports, _, _ := unstructured.NestedSlice(find(t, m, "Service", "istio-ingressgateway").Object, "spec", "ports")
	if len(ports) != 1 {
		t.Errorf("ports: %v", ports)
	}
}

func TestNoDisruptionBudgetForOneReplica(t *testing.T) {
	for spec, want := range map[string]bool{"profile: default": false, "values: {pilot: {autoscaleMin: 2}}": true} {
		got := false
		for _, o := range render(t, spec).Objects() {
			got = got || o.GetKind() == "PodDisruptionBudget" && o.GetName() == "istiod"
		}
		if got != want {
			t.Errorf("%s: a PodDisruptionBudget: %v", spec, got)
		}
	}
}

func at(t *testing.T, value any, path ...any) any {
	t.Helper()
	for _, step := range path {
		switch s := step.(type) {
		case string:
			m, ok := value.(map[string]any)
			if !ok {
				t.Fatalf("nothing at %v", path)
			}
			value = m[s]
		case int:
			list, ok := value.([]any)
			if !ok || len(list) <= s {
				t.Fatalf("nothing at %v", path)
			}
			value = list[s]
		}
	}
	return value
}

func named(list any, name string) bool {
	elements, _ := list.([]any)
	for _, e := range elements {
		if m, ok := e.(map[string]any); ok && m["name"] == name {
			return true
		}
	}
	return false
}

func FuzzSetPath(f *testing.F) {
	for _, path := range []string{"a.b", "a.[0].b", "a[name:x].c", `a\.b.[:re.*]`, "[", "a.[-1]"} {
		f.Add(path)
	}
	f.Fuzz(func(_ *testing.T, path string) {
		root := map[string]any{"a": []any{map[string]any{"name": "x"}, "s"}, "b": map[string]any{"c": 1.0}}
		_ = setPath(root, path, "v", false)
		_ = setPath(root, path, nil, true)
	})
}

func FuzzParseSet(f *testing.F) {
	for _, set := range []string{"profile=demo", "components.ingressGateways.[name:a].enabled=true", "a.[0].b=1", "=", "x"} {
		f.Add(set)
	}
	base := map[string]any{"a": []any{map[string]any{"b": 1.0}}}
	f.Fuzz(func(_ *testing.T, set string) { _, _ = ParseSet(base, set) })
}

func BenchmarkRenderDefault(b *testing.B) {
	for b.Loop() {
		m, err := Render(testOptions, Layer{Name: "b", Spec: map[string]any{}})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := YAML(m.Objects()); err != nil {
			b.Fatal(err)
		}
	}
}
