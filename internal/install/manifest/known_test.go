package manifest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// samples are values of each type that are not the default ones.
var samples = map[string][]any{
	"string": {"sample"}, "scalar": {"7"}, "bool": {true, false}, "int": {float64(7)}, "number": {42.5}, "map": {map[string]any{"sample": "text"}, map[string]any{"accessLogFile": "sample"}},
	"list": {[]any{"sample"}, []any{map[string]any{"name": "sample", "port": float64(77), "secretName": "sample", "mountPath": "/sample"}}},
}

// TestKnownValues changes each known value alone: one that has an effect changes what is rendered, or is read by the
// injector; one that is said to have none does neither.
func TestKnownValues(t *testing.T) {
	tree, err := known()
	if err != nil {
		t.Fatal(err)
	}
	injector := readers(t)
	bases := []string{"profile: demo", "profile: default\nvalues: {pilot: {autoscaleMin: 2}}\ncomponents: {egressGateways: [{name: istio-egressgateway, enabled: true}]}"}
	before := []string{visible(t, bases[0], nil), visible(t, bases[1], nil)}
	var leaves int
	each(tree, nil, func(path []string, kind string) {
		leaves++
		name := strings.Join(path, ".")
		want := !strings.HasSuffix(kind, noEffect)
		got := strings.Contains(injector, name)
		for _, value := range samples[strings.TrimSuffix(kind, noEffect)] {
			for k, base := range bases {
				with := visible(t, base, nested(path, value))
				got = got || with != "" && with != before[k]
			}
		}
		if got != want {
			t.Errorf("values.%s: an effect is %v; known.yaml says %v", name, got, want)
		}
	})
	t.Logf("%d values", leaves)
}

func each(tree map[string]any, path []string, visit func(path []string, kind string)) {
	for name, node := range tree {
		below := append(append([]string{}, path...), name)
		switch n := node.(type) {
		case string:
			visit(below, n)
		case map[string]any:
			each(n, below, visit)
		}
	}
}

func nested(path []string, value any) map[string]any {
	for i := len(path) - 1; i >= 0; i-- {
		value = map[string]any{path[i]: value}
	}
	return value.(map[string]any)
}

// visible is what is rendered, without the values that the injector's ConfigMap repeats as they are; nothing if the values
// cannot be rendered.
func visible(t *testing.T, spec string, values map[string]any) string {
	t.Helper()
	layers := []Layer{layer(t, spec)}
	if values != nil {
		layers = append(layers, Layer{Name: "sample", Spec: map[string]any{"values": values}})
	}
	m, err := Render(testOptions, layers...)
	if err != nil {
		return ""
	}
	for _, object := range m.Objects() {
		if data, ok := object.Object["data"].(map[string]any); ok {
			delete(data, "values")
		}
	}
	var objects []Object
	for _, object := range m.Objects() {
		if object.GetKind() != "CustomResourceDefinition" {
			objects = append(objects, object)
		}
	}
	text, err := YAML(objects)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// readers is what reads the values in the injector's ConfigMap, with paths written as global.proxy.image.
func readers(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	files, err := filepath.Glob("../../sidecar/inject/*.go")
	if err != nil || len(files) == 0 {
		t.Fatal("no injector", err)
	}
	for _, file := range append(files, "../../../charts/istiod/files/proxy.yaml", "../../../charts/istiod/files/sidecar.yaml", "../../../charts/istiod/files/gateway.yaml") {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all.WriteString(strings.NewReplacer(`", "`, ".", `"global", root, "image"`, "global.proxy_init.image", "$c.", "global.proxy.").Replace(string(text)))
	}
	return all.String()
}

func TestValuesAreStrict(t *testing.T) {
	for _, c := range []struct{ name, spec, want string }{
		{"unknown", "values: {global: {proxy: {logLevl: debug}}}", "spec.values.global.proxy.logLevl: unknown field; did you mean logLevel?"},
		{"unknown at the top", "values: {globals: {}}", "spec.values.globals: unknown field; did you mean global?"},
		{"wrong type", "values: {pilot: {autoscaleEnabled: 'yes'}}", `spec.values.pilot.autoscaleEnabled: is the text "yes"; it must be of type bool`},
		{"no map", "values: {pilot: 3}", "spec.values.pilot: is 3; it must be of type map"},
		{"mesh", "meshConfig: {acessLogFile: x}", "spec.meshConfig.acessLogFile: unknown field"},
		{"mesh, deeper", "meshConfig: {extensionProviders: [{name: a, zipkin: {srvice: b}}]}", "spec.meshConfig.extensionProviders[0].zipkin.srvice: unknown field"},
		{"mesh, wrong type", "meshConfig: {enableTracing: 3}", "spec.meshConfig: "},
		{"mesh in values", "values: {meshConfig: {nosuch: 1}}", "spec.values.meshConfig.nosuch: unknown field"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Render(testOptions, layer(t, c.spec))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
	for _, spec := range []string{
		"values: {global: {proxy: {logLevel: debug}}, pilot: {traceSampling: 3}}", "unvalidatedValues: {nosuch: {a: 1}}",
		"meshConfig: {defaultConfig: {proxyMetadata: {ANY: thing}, drainDuration: 3s}, trustDomainAliases: [a]}",
	} {
		if _, err := Render(testOptions, layer(t, spec)); err != nil {
			t.Errorf("%s: %v", spec, err)
		}
	}
}
