// Command gencrds writes the mesh's CRDs from the pinned istio.io/api module: descriptions stripped, a short list of
// schema patches applied for what older documents write, one CRD a line as JSON (which is YAML, and parses fast).
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"sigs.k8s.io/yaml"
)

const (
	output = "charts/base/crds/crd-all.gen.yaml"
	// The operator's own CRD comes from controller-gen; the chart has it as one line, too.
	operatorSource = "config/crd/bases/install.istio.io_istiooperators.yaml"
	operatorOutput = "charts/operator/crds/crd-operator.gen.yaml"
)

// A patch adds a property that Istio's schema has dropped but older documents still write.
type patch struct {
	crd    string
	path   []string // of the object schema that gets the property; "[]" steps into a list's items
	name   string
	schema map[string]any
}

var percent = map[string]any{"type": "integer", "format": "int32", "minimum": 0, "maximum": 100}

var patches = []patch{
	// fault.abort.percent is in documents written for Istio 1.0 and earlier; delay.percent is still in the schema.
	{"virtualservices.networking.istio.io", []string{"spec", "http", "[]", "fault", "abort"}, "percent", percent},
}

func main() {
	if err := run(); err != nil {
		log.Fatal("gencrds: ", err)
	}
}

func run() error {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "istio.io/api").Output()
	if err != nil {
		return fmt.Errorf("find istio.io/api: %w", err)
	}
	source, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "kubernetes", "customresourcedefinitions.gen.yaml"))
	if err != nil {
		return err
	}
	applied := 0
	var out bytes.Buffer
	for _, document := range strings.Split(string(source), "\n---\n") {
		var crd map[string]any
		if err := yaml.Unmarshal([]byte(document), &crd); err != nil {
			return err
		}
		if len(crd) == 0 {
			continue
		}
		n, err := convert(crd)
		if err != nil {
			return err
		}
		applied += n
		line, err := json.Marshal(crd)
		if err != nil {
			return err
		}
		fmt.Fprintf(&out, "---\n%s\n", line)
	}
	if applied == 0 {
		return fmt.Errorf("no schema patch found its place")
	}
	if err := os.WriteFile(output, out.Bytes(), 0o644); err != nil {
		return err
	}
	return compact(operatorSource, operatorOutput)
}

// compact rewrites a YAML document as one line of JSON.
func compact(from, to string) error {
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	line, err := yaml.YAMLToJSON(text)
	if err != nil {
		return err
	}
	return os.WriteFile(to, append(append([]byte("---\n"), line...), '\n'), 0o644)
}

// convert strips and patches one CRD and returns how many patches it took.
func convert(crd map[string]any) (int, error) {
	metadata := crd["metadata"].(map[string]any)
	metadata["labels"] = map[string]any{"app": "istio-pilot"}
	applied := 0
	for _, v := range crd["spec"].(map[string]any)["versions"].([]any) {
		version := v.(map[string]any)
		schema := version["schema"].(map[string]any)["openAPIV3Schema"].(map[string]any)
		strip(version)
		for _, p := range patches {
			if p.crd != metadata["name"] {
				continue
			}
			if err := p.apply(schema); err != nil {
				return 0, fmt.Errorf("%s %s: %w", p.crd, version["name"], err)
			}
			applied++
		}
	}
	return applied, nil
}

func (p patch) apply(schema map[string]any) error {
	for _, step := range p.path {
		var next any
		if step == "[]" {
			next = schema["items"]
		} else if properties, ok := schema["properties"].(map[string]any); ok {
			next = properties[step]
		}
		child, ok := next.(map[string]any)
		if !ok {
			return fmt.Errorf("no schema at %s of %v", step, p.path)
		}
		schema = child
	}
	schema["properties"].(map[string]any)[p.name] = p.schema
	return nil
}

// strip removes descriptions. A property that is itself named description is a map, and stays.
func strip(value any) {
	switch v := value.(type) {
	case map[string]any:
		if _, ok := v["description"].(string); ok {
			delete(v, "description")
		}
		for _, child := range v {
			strip(child)
		}
	case []any:
		for _, child := range v {
			strip(child)
		}
	}
}
