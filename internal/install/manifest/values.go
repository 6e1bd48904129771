package manifest

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/imdario/mergo"

	"github.com/slipway-mesh/slipway/api/v1alpha1"
)

// decode reads the effective spec strictly, so that an unknown field or a wrong type is told with its path.
func decode(spec map[string]any) (*v1alpha1.IstioOperatorSpec, error) {
	out := &v1alpha1.IstioOperatorSpec{}
	if err := strictDecode(spec, out); err != nil {
		return nil, err
	}
	var all []error
	if values, ok := spec["values"].(map[string]any); ok {
		all = append(all, checkValues(values))
		if config, ok := values["meshConfig"].(map[string]any); ok {
			all = append(all, checkMeshConfig("spec.values.meshConfig", config))
		}
	}
	if config, ok := spec["meshConfig"].(map[string]any); ok {
		all = append(all, checkMeshConfig("spec.meshConfig", config))
	}
	return out, errors.Join(all...)
}

// helmValues computes what the chart of one component is given. Later lines win:
//
//  1. the spec's values
//  2. hub, tag, revision, namespace and meshConfig of the spec
//  3. hub, tag, name, labels and service ports of the component
//  4. unvalidatedValues
func helmValues(merged map[string]any, spec *v1alpha1.IstioOperatorSpec, c component) (map[string]any, error) {
	values, _ := copyValue(merged["values"]).(map[string]any)
	if values == nil {
		values = map[string]any{}
	}
	set(values, "global.istioNamespace", specNamespace(spec))
	set(values, "revision", spec.RevisionName())
	if spec.Hub != "" {
		set(values, "global.hub", spec.Hub)
	}
	if spec.Tag != nil {
		set(values, "global.tag", spec.Tag.String())
	}
	if mesh, ok := merged["meshConfig"].(map[string]any); ok {
		there, _ := values["meshConfig"].(map[string]any)
		result := copyValue(mesh).(map[string]any)
		if err := mergo.Merge(&result, there, mergo.WithOverride); err != nil {
			return nil, fmt.Errorf("merge values.meshConfig: %w", err)
		}
		values["meshConfig"] = result
	}
	componentValues(values, c)
	if extra, ok := copyValue(merged["unvalidatedValues"]).(map[string]any); ok {
		if err := mergo.Merge(&values, extra, mergo.WithOverride); err != nil {
			return nil, fmt.Errorf("merge unvalidatedValues: %w", err)
		}
	}
	return values, nil
}

func componentValues(values map[string]any, c component) {
	if c.root == "" {
		return
	}
	if c.hub != "" {
		set(values, c.root+".hub", c.hub)
	}
	if c.tag != "" {
		set(values, c.root+".tag", c.tag)
	}
	if c.kind == kindPilot {
		if c.k8s != nil && c.k8s.HpaSpec != nil && c.k8s.HpaSpec.MinReplicas != nil {
			set(values, c.root+".autoscaleMin", float64(*c.k8s.HpaSpec.MinReplicas))
		}
		return
	}
	set(values, c.root+".name", c.instance)
	if len(c.label) > 0 {
		labels := map[string]any{}
		for name, value := range c.label {
			labels[name] = value
		}
		set(values, c.root+".labels", labels)
	} else if c.instance != strings.TrimPrefix(c.root, "gateways.") {
		// A second gateway must not be selected by what selects the first.
		set(values, c.root+".labels", map[string]any{"app": c.instance, "istio": strings.TrimPrefix(c.instance, "istio-")})
	}
	if c.k8s != nil && c.k8s.Service != nil && len(c.k8s.Service.Ports) > 0 {
		if service, err := toMap(c.k8s.Service); err == nil {
			set(values, c.root+".ports", service["ports"])
		}
	}
}

func specNamespace(spec *v1alpha1.IstioOperatorSpec) string {
	if spec.Namespace != "" {
		return spec.Namespace
	}
	return v1alpha1.DefaultNamespace
}

// set puts a value at a dotted path of plain names and makes the maps on the way. A scalar on the way is replaced.
func set(m map[string]any, path string, value any) {
	names := strings.Split(path, ".")
	for _, name := range names[:len(names)-1] {
		child, ok := m[name].(map[string]any)
		if !ok {
			child = map[string]any{}
			m[name] = child
		}
		m = child
	}
	m[names[len(names)-1]] = value
}

// lookup returns what is at a dotted path of plain names.
func lookup(m map[string]any, path string) any {
	var value any = m
	for _, name := range strings.Split(path, ".") {
		child, ok := value.(map[string]any)
		if !ok {
			return nil
		}
		value = child[name]
	}
	return value
}

func toMap(v any) (map[string]any, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	var m map[string]any
	return m, json.Unmarshal(text, &m)
}
