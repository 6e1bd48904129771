package manifest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// Object is one rendered Kubernetes object.
type Object = *unstructured.Unstructured

// Parse reads a stream of YAML documents; empty ones are dropped. A document that is JSON on one line, as the CRDs
// are, is read as JSON: it is many times faster than YAML.
func Parse(source, stream string) ([]Object, error) {
	var objects []Object
	for _, document := range strings.Split("\n"+stream, "\n---") {
		text := []byte(strings.TrimSpace(strings.TrimPrefix(document, "\n")))
		if len(text) == 0 {
			continue
		}
		if text[0] != '{' || bytes.ContainsRune(text, '\n') {
			converted, err := yaml.YAMLToJSONStrict(text)
			if err != nil {
				return nil, fmt.Errorf("parse %s: %w", source, err)
			}
			text = converted
		}
		var content map[string]any
		if err := json.Unmarshal(text, &content); err != nil {
			return nil, fmt.Errorf("parse %s: %w", source, err)
		}
		if len(content) == 0 {
			continue // only comments
		}
		object := &unstructured.Unstructured{Object: content}
		if object.GetKind() == "" || object.GetName() == "" {
			return nil, fmt.Errorf("parse %s: an object has no kind or no name", source)
		}
		objects = append(objects, object)
	}
	return objects, nil
}

func toYAML(v any) ([]byte, error) { return yaml.Marshal(v) }

// YAML writes objects as one stream of documents. CRDs are written as JSON, which is YAML as well: nobody reads
// their schemas here, and to write them as YAML takes longer than all the rest.
func YAML(objects []Object) ([]byte, error) {
	var out bytes.Buffer
	for _, object := range objects {
		encode := toYAML
		if object.GetKind() == "CustomResourceDefinition" {
			encode = json.Marshal
		}
		text, err := encode(object.Object)
		if err != nil {
			return nil, fmt.Errorf("write %s %s: %w", object.GetKind(), object.GetName(), err)
		}
		out.WriteString("---\n")
		out.Write(bytes.TrimRight(text, "\n"))
		out.WriteByte('\n')
	}
	return out.Bytes(), nil
}
