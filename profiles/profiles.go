// Package profiles holds the built-in profiles: IstioOperator documents, each merged over the one called default.
package profiles

import (
	"embed"
	"fmt"
	"io/fs"
	"sort"
	"strings"
)

// Default is the profile that every other is merged over.
const Default = "default"

// former are the profiles of Istio's past, with what to use in their place.
var former = map[string]string{
	"external": `use "remote"`,
	"sds":      `secrets are always served by SDS now; use "default"`,
}

//go:embed *.yaml
var files embed.FS

// List returns the names of the built-in profiles, sorted.
func List() []string {
	return ListFrom(files)
}

// ListFrom returns the names of the profiles in a folder, sorted.
func ListFrom(dir fs.FS) []string {
	matches, err := fs.Glob(dir, "*.yaml")
	if err != nil {
		panic(err) // the pattern is a constant
	}
	names := make([]string, 0, len(matches))
	for _, file := range matches {
		names = append(names, strings.TrimSuffix(file, ".yaml"))
	}
	sort.Strings(names)
	return names
}

// Load returns the YAML of a built-in profile.
func Load(name string) ([]byte, error) {
	return LoadFrom(files, name)
}

// LoadFrom returns the YAML of a profile in a folder. The error names those that exist.
func LoadFrom(dir fs.FS, name string) ([]byte, error) {
	if instead, was := former[name]; was {
		return nil, fmt.Errorf("the profile %q is no more: %s", name, instead)
	}
	text, err := fs.ReadFile(dir, name+".yaml")
	if err != nil || strings.ContainsAny(name, "/\\") {
		return nil, fmt.Errorf("unknown profile %q: the profiles are %s", name, strings.Join(ListFrom(dir), ", "))
	}
	return text, nil
}
