package manifest

import (
	_ "embed"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"
	"sync"

	"sigs.k8s.io/yaml"
)

//go:embed known.yaml
var knownText []byte

var known = sync.OnceValues(func() (map[string]any, error) {
	var tree map[string]any
	return tree, yaml.Unmarshal(knownText, &tree)
})

// noEffect marks the type of a value that is accepted and does nothing.
const noEffect = " -"

// checkValues checks spec.values against what is known, and reports every unknown field and every wrong type. What
// charts of the user's own read is not known here; unvalidatedValues is for that.
func checkValues(values map[string]any) error {
	tree, err := known()
	if err != nil {
		return err
	}
	var all []error
	walkValues("spec.values", values, tree, func(path string, value any, kind string) {
		if kind == "" {
			all = append(all, &Error{Path: path, Err: unknownValue(path, tree)})
		} else if want := strings.TrimSuffix(kind, noEffect); !isOf(value, want) {
			all = append(all, &Error{Path: path, Err: fmt.Errorf("is %s; it must be of type %s", describe(value), want)})
		}
	})
	return errors.Join(all...)
}

// Idle lists the paths of spec.values that are set and have no effect.
func Idle(values map[string]any) []string {
	tree, err := known()
	if err != nil {
		return nil
	}
	var paths []string
	walkValues("spec.values", values, tree, func(path string, _ any, kind string) {
		if strings.HasSuffix(kind, noEffect) {
			paths = append(paths, path)
		}
	})
	return paths
}

// walkValues visits each value for which the tree has a type, and with an empty one each that the tree does not know.
func walkValues(path string, values, tree map[string]any, visit func(path string, value any, kind string)) {
	for _, name := range slices.Sorted(maps.Keys(values)) {
		value, at := values[name], path+"."+name
		switch node := tree[name].(type) {
		case nil:
			visit(at, value, "")
		case string:
			visit(at, value, node)
		case map[string]any:
			if child, ok := value.(map[string]any); ok {
				walkValues(at, child, node, visit)
			} else {
				visit(at, value, "map")
			}
		}
	}
}

func isOf(value any, kind string) bool {
	if value == nil {
		return true
	}
	switch v := value.(type) {
	case string:
		return kind == "string" || kind == "scalar"
	case bool:
		return kind == "bool" || kind == "scalar"
	case float64:
		return kind == "number" || kind == "scalar" || kind == "int" && v == float64(int64(v))
	case int64:
		return kind == "number" || kind == "scalar" || kind == "int"
	case []any:
		return kind == "list"
	case map[string]any:
		return kind == "map"
	}
	return false
}

func describe(value any) string {
	switch value.(type) {
	case []any:
		return "a list"
	case map[string]any:
		return "a map"
	case string:
		return fmt.Sprintf("the text %q", value)
	}
	return fmt.Sprint(value)
}

// unknownValue says that a field is unknown, and which one is nearest in writing.
func unknownValue(path string, tree map[string]any) error {
	names := strings.Split(strings.TrimPrefix(path, "spec.values."), ".")
	for _, name := range names[:len(names)-1] {
		tree, _ = tree[name].(map[string]any)
	}
	last := names[len(names)-1]
	best, distance := "", 3
	candidates := slices.Collect(maps.Keys(tree))
	sort.Strings(candidates)
	for _, name := range candidates {
		if d := editDistance(last, name); d < distance {
			best, distance = name, d
		}
	}
	if best != "" {
		return fmt.Errorf("unknown field; did you mean %s? What only a chart of your own reads belongs in spec.unvalidatedValues", best)
	}
	return errors.New("unknown field; what only a chart of your own reads belongs in spec.unvalidatedValues")
}

// editDistance is Levenshtein's, without regard to case.
func editDistance(a, b string) int {
	a, b = strings.ToLower(a), strings.ToLower(b)
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := diagonal
			if a[i-1] != b[j-1] {
				cost++
			}
			diagonal = row[j]
			row[j] = min(cost, row[j]+1, row[j-1]+1)
		}
	}
	return row[len(b)]
}
