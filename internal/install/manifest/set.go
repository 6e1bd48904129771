package manifest

import (
	"fmt"
	"strconv"
	"strings"
)

// ParseSet reads one --set value, PATH=VALUE, into a layer. base is what the layers before it say: a list element named
// by [N] or [key:value] is looked up there, and the layer then holds the whole list.
func ParseSet(base map[string]any, text string) (Layer, error) {
	path, value, ok := strings.Cut(text, "=")
	if !ok || path == "" {
		return Layer{}, fmt.Errorf("--set %s: it must be PATH=VALUE", text)
	}
	path = strings.TrimPrefix(path, "spec.")
	steps, err := splitPath(path)
	if err != nil {
		return Layer{}, fmt.Errorf("--set %s: %w", text, err)
	}
	layer := Layer{Name: "--set " + path, Spec: map[string]any{}}
	takeList(layer.Spec, base, steps)
	if _, err := setSteps(layer.Spec, steps, parseValue(path, value), false); err != nil {
		return Layer{}, fmt.Errorf("--set %s: %w", text, err)
	}
	return layer, nil
}

// takeList copies from base the first list that the steps go into, so that one element of it can be set.
func takeList(spec, base map[string]any, steps []string) {
	for i := 0; i+1 < len(steps); i++ {
		if isElement(steps[i+1]) {
			if list, ok := base[steps[i]].([]any); ok {
				spec[steps[i]] = copyValue(list)
			}
			return
		}
		next, ok := base[steps[i]].(map[string]any)
		if !ok {
			return
		}
		child := map[string]any{}
		spec[steps[i]] = child
		spec, base = child, next
	}
}

// alwaysText are the paths whose value stays text however it looks.
var alwaysText = []string{"tag", "values.global.tag", "hub", "revision", "compatibilityVersion", "meshConfig.defaultConfig.proxyMetadata."}

// parseValue reads a number, a boolean, null or text.
func parseValue(path, text string) any {
	text = strings.ReplaceAll(text, `\,`, ",")
	for _, prefix := range alwaysText {
		if path == prefix || strings.HasSuffix(prefix, ".") && strings.HasPrefix(path, prefix) {
			return text
		}
	}
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return float64(n)
	}
	if f, err := strconv.ParseFloat(text, 64); err == nil {
		return f
	}
	switch text {
	case "true":
		return true
	case "false":
		return false
	case "null":
		return nil
	}
	return text
}
