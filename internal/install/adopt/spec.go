package adopt

import (
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/slipway-mesh/slipway/internal/install/apply"
	"github.com/slipway-mesh/slipway/internal/install/manifest"
)

// Loss is what of a mesh its IstioOperator does not say.
type Loss struct {
	// Field is where it would be said, or an object.
	Field  string `json:"field"`
	Reason string `json:"reason"`
}

// Spec is what an IstioOperator says that makes the same mesh with Slipway's own parts, and what is lost on the way. It
// renders: what render does not take is left out and is a Loss.
func (m *Mesh) Spec(render func(spec map[string]any) error) (map[string]any, []Loss) {
	spec := m.written()
	if m.Namespace != "istio-system" {
		spec["namespace"] = m.Namespace
	}
	if m.Revision != "" {
		spec["revision"] = m.Revision
	}
	losses := append(images(spec), m.foreignParts()...)
	return spec, append(losses, Fit(spec, render)...)
}

// written is what the mesh's installer was told, as a spec.
func (m *Mesh) written() map[string]any {
	switch {
	case m.Resource != nil:
		spec, _, _ := unstructured.NestedMap(m.Resource.Object, "spec")
		if spec == nil {
			spec = map[string]any{}
		}
		delete(spec, "installPackagePath")
		delete(spec, "lifecycle")
		return spec
	case len(m.releases) > 0:
		return m.fromHelm()
	}
	return m.fromObjects()
}

// pilotRoots are the values at the root of the istiod chart that are of the mesh; others are the control plane's, which
// newer charts take there too.
var pilotRoots = []string{"global", "pilot", "sidecarInjectorWebhook", "meshConfig", "revision", "revisionTags", "defaultRevision", "ownerName", "base",
	"istio_cni", "cni", "telemetry", "profile", "compatibilityVersion", "experimental", "istiodRemote", "platform", "gatewayClasses"}

// fromHelm turns the values of the releases into a spec: those of istiod and base are the spec's values, and gateways are
// read from what their charts made.
func (m *Mesh) fromHelm() map[string]any {
	spec := map[string]any{"profile": "minimal"}
	values := map[string]any{}
	for _, one := range m.releases {
		config := runtime.DeepCopyJSON(one.Config)
		switch charts[one.Chart.Metadata.Name] {
		case "Base", "Pilot":
		default:
			continue
		}
		for name, value := range config {
			switch {
			case name == "meshConfig":
				spec[name] = value
			case name == "profile":
				spec["profile"] = value
			case name == "revision", name == "ownerName", name == "platform":
			case slices.Contains(pilotRoots, name):
				overlay(values, map[string]any{name: value})
			default:
				overlay(values, map[string]any{"pilot": map[string]any{name: value}})
			}
		}
	}
	if len(values) > 0 {
		spec["values"] = values
	}
	m.addGateways(spec)
	return spec
}

// fromObjects reads the settings from what is there: of a mesh that was installed from manifests nobody kept more.
func (m *Mesh) fromObjects() map[string]any {
	spec := map[string]any{"profile": "minimal"}
	for _, object := range m.Objects {
		switch {
		case object.GetKind() == "ConfigMap" && nameOf(object, m.Revision) == "istio":
			text, _, _ := unstructured.NestedString(object.Object, "data", "mesh")
			var mesh map[string]any
			if yaml.Unmarshal([]byte(text), &mesh) == nil && len(mesh) > 0 {
				spec["meshConfig"] = mesh
			}
		case object.GetKind() == "ConfigMap" && nameOf(object, m.Revision) == "istio-sidecar-injector":
			text, _, _ := unstructured.NestedString(object.Object, "data", "values")
			var values map[string]any
			if yaml.Unmarshal([]byte(text), &values) == nil {
				delete(values, "revision")
				spec["values"] = values
			}
		case object.GetKind() == "Deployment" && object.GetLabels()["app"] == "istiod":
			if k8s := m.workload(object, "discovery"); len(k8s) > 0 {
				components(spec)["pilot"] = map[string]any{"k8s": k8s}
			}
		}
	}
	usual(spec)
	m.addGateways(spec)
	return spec
}

// usual takes away what the profile says as well.
func usual(spec map[string]any) {
	profile, err := manifest.Resolve(manifest.Options{}, manifest.Layer{Spec: map[string]any{"profile": spec["profile"]}})
	if err != nil {
		return
	}
	for _, part := range []string{"values", "meshConfig"} {
		mine, _ := spec[part].(map[string]any)
		theirs, _ := profile.Spec[part].(map[string]any)
		subtract(mine, theirs)
		if len(mine) == 0 {
			delete(spec, part)
		}
	}
}

// subtract takes from a what is the same in b, and what is empty: charts print their defaults so.
func subtract(a, b map[string]any) {
	for name, value := range a {
		child, isMap := value.(map[string]any)
		under, _ := b[name].(map[string]any)
		if isMap {
			subtract(child, under)
		}
		if empty(value) || reflect.DeepEqual(value, b[name]) {
			delete(a, name)
		}
	}
}

// nameOf is an object's name without the revision.
func nameOf(object apply.Object, revision string) string {
	if revision == "" {
		return object.GetName()
	}
	return strings.TrimSuffix(object.GetName(), "-"+revision)
}

func components(spec map[string]any) map[string]any {
	all, ok := spec["components"].(map[string]any)
	if !ok {
		all = map[string]any{}
		spec["components"] = all
	}
	return all
}

// overlay merges maps; what is in over wins.
func overlay(under, over map[string]any) {
	for name, value := range over {
		a, mapUnder := under[name].(map[string]any)
		b, mapOver := value.(map[string]any)
		if mapUnder && mapOver {
			overlay(a, b)
			continue
		}
		under[name] = value
	}
}

// images takes the images out: they are of the other installer's parts.
func images(spec map[string]any) []Loss {
	var losses []Loss
	drop := func(path ...string) {
		if _, ok, _ := unstructured.NestedFieldNoCopy(spec, path...); ok {
			unstructured.RemoveNestedField(spec, path...)
			losses = append(losses, Loss{"spec." + strings.Join(path, "."), "the images are Slipway's own"})
		}
	}
	for _, name := range []string{"hub", "tag", "variant"} {
		drop(name)
		for _, root := range []string{"global", "pilot", "cni", "ztunnel"} {
			drop("values", root, name)
		}
		for _, component := range []string{"base", "pilot", "cni"} {
			drop("components", component, name)
		}
	}
	drop("values", "pilot", "image")
	drop("values", "global", "proxy", "image")
	drop("values", "global", "proxy_init", "image")
	for _, list := range []string{"ingressGateways", "egressGateways"} {
		eachMap(spec, func(gateway map[string]any) {
			for _, name := range []string{"hub", "tag"} {
				if _, ok := gateway[name]; ok {
					delete(gateway, name)
					losses = append(losses, Loss{fmt.Sprintf("spec.components.%s.[name:%v].%s", list, gateway["name"], name), "the images are Slipway's own"})
				}
			}
		}, "components", list)
	}
	return losses
}

// foreignParts are those of the mesh that Slipway has no counterpart of. They stay their installer's.
func (m *Mesh) foreignParts() []Loss {
	var losses []Loss
	for _, object := range m.Objects {
		if object.GetKind() == "DaemonSet" {
			losses = append(losses, Loss{apply.RefOf(object).String(), "Slipway has no such part; it stays its installer's"})
		}
	}
	return losses
}

// mistake is how an error of a spec begins: with the path of the field.
var mistake = regexp.MustCompile(`(?m)^(spec(?:\.[^\s:\[]+|\[\d+\]|\.?\[name:[^\]]+\])+): (.*)$`)

// fitLimit is how often a spec is tried: each error names at least one field.
const fitLimit = 100

// Fit leaves out of the spec what does not render, and says what.
func Fit(spec map[string]any, render func(map[string]any) error) []Loss {
	var losses []Loss
	for range fitLimit {
		err := render(spec)
		if err == nil {
			return losses
		}
		found := mistake.FindAllStringSubmatch(err.Error(), -1)
		dropped := false
		for _, one := range found {
			if without(spec, one[1]) {
				dropped = true
				losses = append(losses, Loss{one[1], one[2]})
			}
		}
		if !dropped {
			return append(losses, Loss{"spec", err.Error()})
		}
	}
	return losses
}

var pathStep = regexp.MustCompile(`\[name:[^\]]+\]|\[\d+\]|[^.\[\]]+`)

// without removes the field that a path such as spec.components.ingressGateways.[name:x].k8s leads to, and says whether it
// was there.
func without(spec map[string]any, path string) bool {
	steps := pathStep.FindAllString(strings.TrimPrefix(path, "spec"), -1)
	var at any = spec
	for i, step := range steps {
		switch value := at.(type) {
		case map[string]any:
			child, ok := value[step]
			if !ok {
				return false
			}
			if i == len(steps)-1 {
				delete(value, step)
				return true
			}
			at = child
		case []any:
			index := element(value, step)
			if index < 0 || i == len(steps)-1 {
				return false
			}
			at = value[index]
		default:
			return false
		}
	}
	return false
}

func element(list []any, step string) int {
	step = strings.Trim(step, "[]")
	if name, ok := strings.CutPrefix(step, "name:"); ok {
		return slices.IndexFunc(list, func(e any) bool {
			m, _ := e.(map[string]any)
			return m["name"] == name
		})
	}
	index, err := strconv.Atoi(step)
	if err != nil || index >= len(list) {
		return -1
	}
	return index
}
