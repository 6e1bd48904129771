package manifest

import (
	"encoding/json"
	"errors"
	"fmt"
	"sort"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/slipway-mesh/slipway/api/v1alpha1"
)

// applyOverlays applies the component's overlays in order, each upon what the last one left. An overlay that matches
// no object is an error that lists those that exist.
func applyOverlays(objects []Object, c component) error {
	if c.k8s == nil {
		return nil
	}
	for i, overlay := range c.k8s.Overlays {
		path := fmt.Sprintf("%s.k8s.overlays[%d]", c.path, i)
		object, err := overlayTarget(objects, overlay)
		if err != nil {
			return &Error{Path: path, Err: err}
		}
		for j, patch := range overlay.Patches {
			value, remove, err := patchValue(patch)
			if err == nil {
				err = setPath(object.Object, patch.Path, value, remove)
			}
			if err != nil {
				return &Error{Path: fmt.Sprintf("%s.patches[%d]", path, j), Err: fmt.Errorf("path %s: %w", patch.Path, err)}
			}
		}
	}
	return nil
}

func overlayTarget(objects []Object, overlay v1alpha1.Overlay) (Object, error) {
	var names []string
	for _, object := range objects {
		if object.GetKind() == overlay.Kind && object.GetName() == overlay.Name &&
			(overlay.APIVersion == "" || object.GetAPIVersion() == overlay.APIVersion) {
			return object, nil
		}
		names = append(names, object.GetKind()+"/"+object.GetName())
	}
	sort.Strings(names)
	return nil, fmt.Errorf("no %s named %s; the component has %s", overlay.Kind, overlay.Name, strings.Join(names, ", "))
}

// patchValue reads a patch's value; none means removal. A string that is a YAML map or list stands for that.
func patchValue(patch v1alpha1.Patch) (value any, remove bool, err error) {
	if patch.Value == nil || len(patch.Value.Raw) == 0 || string(patch.Value.Raw) == "null" {
		return nil, true, nil
	}
	if err := json.Unmarshal(patch.Value.Raw, &value); err != nil {
		return nil, false, err
	}
	text, ok := value.(string)
	if !ok {
		return value, false, nil
	}
	var parsed any
	if err := yaml.Unmarshal([]byte(text), &parsed); err == nil {
		switch parsed.(type) {
		case map[string]any, []any:
			return parsed, false, nil
		}
	}
	return value, false, nil
}

// setPath sets or removes what is at a path such as a.b.[name:x].c or a.[2] or a.[-1]. Maps on the way are made; list
// elements are not.
func setPath(root map[string]any, path string, value any, remove bool) error {
	steps, err := splitPath(path)
	if err != nil {
		return err
	}
	_, err = setSteps(root, steps, value, remove)
	return err
}

// setSteps returns what must stand in node's place.
func setSteps(node any, steps []string, value any, remove bool) (any, error) {
	step := steps[0]
	if isElement(step) {
		return setElement(node, steps, value, remove)
	}
	m, ok := node.(map[string]any)
	if !ok {
		if node != nil {
			return nil, fmt.Errorf("%s: its parent is not an object", step)
		}
		if remove {
			return nil, nil
		}
		m = map[string]any{}
	}
	if len(steps) == 1 {
		if remove {
			delete(m, step)
		} else {
			m[step] = value
		}
		return m, nil
	}
	child, err := setSteps(m[step], steps[1:], value, remove)
	if err != nil {
		return nil, err
	}
	if child != nil {
		m[step] = child
	}
	return m, nil
}

func setElement(node any, steps []string, value any, remove bool) (any, error) {
	list, ok := node.([]any)
	if !ok && node != nil {
		return nil, fmt.Errorf("%s: its parent is not a list", steps[0])
	}
	i, err := findElement(list, steps[0])
	if err != nil {
		return nil, err
	}
	last := len(steps) == 1
	switch {
	case i == len(list) && !last:
		return nil, fmt.Errorf("element %s not found", steps[0])
	case i == len(list) && remove:
		return list, nil
	case i == len(list):
		return append(list, value), nil
	case last && remove:
		return append(append([]any{}, list[:i]...), list[i+1:]...), nil
	case last:
		list[i] = value
		return list, nil
	}
	child, err := setSteps(list[i], steps[1:], value, remove)
	list[i] = child
	return list, err
}

// splitPath splits at dots; a dot inside brackets or behind a backslash does not split.
func splitPath(path string) ([]string, error) {
	var steps []string
	var step strings.Builder
	depth := 0
	for i := 0; i < len(path); i++ {
		switch ch := path[i]; {
		case ch == '\\' && i+1 < len(path):
			i++
			if depth > 0 && path[i] != '.' {
				step.WriteByte('\\') // findElement takes \: apart
			}
			step.WriteByte(path[i])
		case ch == '[' && depth == 0:
			if step.Len() > 0 {
				steps = append(steps, step.String())
				step.Reset()
			}
			depth++
			step.WriteByte(ch)
		case ch == ']' && depth == 1:
			depth--
			step.WriteByte(ch)
			steps = append(steps, step.String())
			step.Reset()
		case ch == '.' && depth == 0:
			if step.Len() > 0 {
				steps = append(steps, step.String())
				step.Reset()
			}
		default:
			step.WriteByte(ch)
		}
	}
	if depth > 0 {
		return nil, errors.New("a bracket is not closed")
	}
	if step.Len() > 0 {
		steps = append(steps, step.String())
	}
	if len(steps) == 0 {
		return nil, errors.New("the path is empty")
	}
	return steps, nil
}

func isElement(step string) bool { return strings.HasPrefix(step, "[") && strings.HasSuffix(step, "]") }
