package manifest

import (
	"fmt"
	"regexp"
	"sort"

	"github.com/imdario/mergo"
)

// Merged is the effective spec, and for each of its leaves the layer that set it.
type Merged struct {
	Spec map[string]any
	// Origin maps a leaf's path, such as components.ingressGateways.[name:x].enabled, to its layer's name.
	Origin map[string]string
}

// Merge folds layers from the left. Maps merge; lists that have a key (see keyed) merge by it, in the order of the
// first layer and then of the later ones; other lists and scalars replace; null deletes.
//
// mergo does the maps. It must see maps only: on structs it drops false and 0. It aliases what it is given, hence the
// copies; it knows no keyed lists, hence fold and unfold; and it stores null, hence prune.
func Merge(layers ...Layer) (Merged, error) {
	merged := Merged{Spec: map[string]any{}, Origin: map[string]string{}}
	for _, layer := range layers {
		folded, err := fold("", copyValue(layer.Spec))
		if err != nil {
			return Merged{}, fmt.Errorf("%s: %w", layer.Name, err)
		}
		keepPlaces(merged.Spec, folded.(map[string]any))
		if err := mergo.Merge(&merged.Spec, folded.(map[string]any), mergo.WithOverride); err != nil {
			return Merged{}, fmt.Errorf("merge %s: %w", layer.Name, err)
		}
		record(merged.Origin, layer.Name, "", folded)
	}
	merged.Spec = unfold(prune(merged.Spec)).(map[string]any)
	keepLeaves(merged)
	return merged, nil
}

// keyed lists the lists that merge by a key. An element of a gateway list is written [name:x] in a path.
var keyed = []struct {
	path *regexp.Regexp
	key  string
}{
	{regexp.MustCompile(`^components\.(ingress|egress)Gateways$`), "name"},
	{regexp.MustCompile(`^components\..*\.k8s\.(env|volumes)$`), "name"},
	{regexp.MustCompile(`^components\..*\.k8s\.volumeMounts$`), "mountPath"},
	{regexp.MustCompile(`^values\..*\.(ports|secretVolumes|configVolumes)$`), "name"},
	{regexp.MustCompile(`^(values\.)?meshConfig\.extensionProviders$`), "name"},
}

func keyOf(path string) string {
	for _, k := range keyed {
		if k.path.MatchString(path) {
			return k.key
		}
	}
	return ""
}

// orderKey and its map stand for a keyed list between fold and unfold. No YAML key has a NUL in it.
const orderKey = "\x00order"

// fold turns keyed lists into maps by key, which remember the order in which keys were first seen.
func fold(path string, value any) (any, error) {
	switch v := value.(type) {
	case map[string]any:
		for name, child := range v {
			folded, err := fold(join(path, name), child)
			if err != nil {
				return nil, err
			}
			v[name] = folded
		}
	case []any:
		key := keyOf(path)
		if key == "" {
			return v, nil
		}
		return foldList(path, key, v)
	}
	return value, nil
}

func foldList(path, key string, list []any) (any, error) {
	folded := map[string]any{}
	order := map[string]any{}
	for i, element := range list {
		m, ok := element.(map[string]any)
		if !ok {
			return nil, &Error{Path: fmt.Sprintf("spec.%s[%d]", path, i), Err: fmt.Errorf("must be an object with a %s", key)}
		}
		name, ok := m[key].(string)
		if !ok || name == "" {
			return nil, &Error{Path: fmt.Sprintf("spec.%s[%d].%s", path, i, key), Err: fmt.Errorf("is required: elements merge by it")}
		}
		child, err := fold(elementPath(path, key, name), m)
		if err != nil {
			return nil, err
		}
		folded[name] = child
		order[name] = float64(i)
	}
	folded[orderKey] = order
	return folded, nil
}

// keepPlaces makes the keys of folded lists in dst keep their places, and puts those that src adds behind them.
func keepPlaces(dst, src map[string]any) {
	for name, child := range src {
		there, ok1 := dst[name].(map[string]any)
		added, ok2 := child.(map[string]any)
		if !ok1 || !ok2 {
			continue
		}
		if name == orderKey {
			last := -1.0
			for _, place := range there {
				last = max(last, place.(float64))
			}
			for key, place := range added {
				added[key] = place.(float64) + last + 1
			}
			for key, place := range there {
				added[key] = place
			}
			continue
		}
		keepPlaces(there, added)
	}
}

// unfold turns folded lists back, in the order of their keys' places.
func unfold(value any) any {
	m, ok := value.(map[string]any)
	if !ok {
		return value
	}
	order, isList := m[orderKey].(map[string]any)
	delete(m, orderKey)
	for name, child := range m {
		m[name] = unfold(child)
	}
	if !isList {
		return m
	}
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	place := func(name string) float64 { f, _ := order[name].(float64); return f }
	sort.Slice(names, func(i, j int) bool {
		if a, b := place(names[i]), place(names[j]); a != b {
			return a < b
		}
		return names[i] < names[j]
	})
	list := make([]any, 0, len(names))
	for _, name := range names {
		list = append(list, m[name])
	}
	return list
}

// prune removes what a null deleted.
func prune(m map[string]any) map[string]any {
	for name, value := range m {
		switch v := value.(type) {
		case nil:
			delete(m, name)
		case map[string]any:
			prune(v)
		}
	}
	return m
}

// record notes which layer set each leaf below value.
func record(origin map[string]string, layer, path string, value any) {
	m, ok := value.(map[string]any)
	if !ok || len(m) == 0 {
		if path != "" {
			origin[path] = layer
		}
		return
	}
	_, isList := m[orderKey]
	for name, child := range m {
		switch {
		case name == orderKey:
		case isList:
			record(origin, layer, elementPath(path, keyOf(path), name), child)
		default:
			record(origin, layer, join(path, name), child)
		}
	}
}

// keepLeaves drops the origin of what a later layer deleted or replaced by something else.
func keepLeaves(merged Merged) {
	leaves := map[string]bool{}
	walkLeaves("", merged.Spec, func(path string, _ any) { leaves[path] = true })
	for path := range merged.Origin {
		if !leaves[path] {
			delete(merged.Origin, path)
		}
	}
}

func walkLeaves(path string, value any, visit func(path string, value any)) {
	switch v := value.(type) {
	case map[string]any:
		for name, child := range v {
			walkLeaves(join(path, name), child, visit)
		}
		if len(v) == 0 {
			visit(path, value)
		}
	case []any:
		key := keyOf(path)
		if key == "" {
			visit(path, value)
			return
		}
		for _, element := range v {
			m := element.(map[string]any)
			walkLeaves(elementPath(path, key, m[key].(string)), m, visit)
		}
	default:
		visit(path, value)
	}
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

func elementPath(path, key, name string) string { return path + ".[" + key + ":" + name + "]" }

// copyValue copies maps and lists, so that no layer shares them with another.
func copyValue(value any) any {
	switch v := value.(type) {
	case map[string]any:
		m := make(map[string]any, len(v))
		for name, child := range v {
			m[name] = copyValue(child)
		}
		return m
	case []any:
		list := make([]any, len(v))
		for i, child := range v {
			list[i] = copyValue(child)
		}
		return list
	}
	return value
}
