// Package manifest turns an IstioOperator into Kubernetes objects. It is pure: a spec and files go in, objects come
// out. It must not know a cluster, a clock or the network.
package manifest

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/slipway-mesh/slipway/profiles"
)

// A Layer is one source of settings: a spec as plain maps, and a name that a person knows it by.
type Layer struct {
	Name string
	Spec map[string]any
}

// profileLayers returns the layers of a profile: the default one and, where another is asked for, that one.
// A name with a path separator is a file. The user's own come first; dir, if not nil, holds profiles in place of the
// built-in ones.
func profileLayers(own map[string][]byte, dir fs.FS, name string) ([]Layer, error) {
	if name == "" {
		name = profiles.Default
	}
	base, err := loadProfile(nil, dir, profiles.Default)
	if err != nil || name == profiles.Default {
		return []Layer{base}, err
	}
	chosen, err := loadProfile(own, dir, name)
	if err != nil {
		return nil, &Error{Path: "spec.profile", Err: err}
	}
	return []Layer{base, chosen}, nil
}

func loadProfile(own map[string][]byte, dir fs.FS, name string) (Layer, error) {
	text, ours := own[name]
	var err error
	switch {
	case ours:
	case strings.ContainsRune(name, filepath.Separator):
		text, err = os.ReadFile(name)
	case dir != nil:
		text, err = profiles.LoadFrom(dir, name)
	default:
		text, err = profiles.Load(name)
	}
	if err != nil {
		return Layer{}, err
	}
	layer, err := ParseLayer("profile "+name, text)
	if err != nil {
		return Layer{}, err
	}
	delete(layer.Spec, "profile") // a profile stands on the default one only
	return layer, nil
}

// ParseLayer reads one IstioOperator document. A missing or null spec is an empty layer.
func ParseLayer(name string, text []byte) (Layer, error) {
	var document map[string]any
	if err := yaml.UnmarshalStrict(text, &document); err != nil {
		return Layer{}, fmt.Errorf("read %s: %w", name, err)
	}
	if kind := document["kind"]; kind != "IstioOperator" {
		return Layer{}, fmt.Errorf("read %s: kind is %v; it must be IstioOperator", name, kind)
	}
	spec, ok := document["spec"].(map[string]any)
	if document["spec"] != nil && !ok {
		return Layer{}, fmt.Errorf("read %s: spec must be an object", name)
	}
	if spec == nil {
		spec = map[string]any{}
	}
	return Layer{Name: name, Spec: spec}, nil
}

// Error is a mistake in an IstioOperator: where it is, as a person would write the path, and what is wrong.
type Error struct {
	Path string
	Err  error
}

func (e *Error) Error() string { return e.Path + ": " + e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }
