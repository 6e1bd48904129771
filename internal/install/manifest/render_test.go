package manifest

import (
	"strings"
	"testing"
	"time"
)

var testOptions = Options{Hub: "docker.io/slipway", Tag: "1.0", Version: "1.0"}

func layer(t *testing.T, spec string) Layer {
	t.Helper()
	l, err := ParseLayer("test", []byte("apiVersion: install.istio.io/v1alpha1\nkind: IstioOperator\nspec:\n"+indent(spec)))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func indent(text string) string {
	return "  " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n  ")
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
	for profile, want := range map[string]int{"default": 0, "demo": 0, "minimal": 0, "empty": 0} {
		began := time.Now()
		m := render(t, "profile: "+profile)
		out, err := YAML(m.Objects())
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %d objects, %d bytes, %s (%d)", profile, len(m.Objects()), len(out), time.Since(began), want)
	}
}
