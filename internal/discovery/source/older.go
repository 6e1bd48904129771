package source

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// OlderFields is an annotation that objects have in memory only: the fields that were written as older versions of the API had
// them, with commas between. They have been read as what replaced them.
const OlderFields = "internal.slipway-mesh/older-fields"

// Decode reads an object of a kind that is watched. Today's types do not have what older documents write, so that is put in its
// new place first.
func Decode(kind string, text []byte) (metav1.Object, error) {
	object := NewObject(kind)
	if object == nil {
		return nil, fmt.Errorf("objects of kind %s are not read", kind)
	}
	if kind == "VirtualService" {
		var err error
		if text, err = modern(text); err != nil {
			return nil, err
		}
	}
	return object, json.Unmarshal(text, object)
}

// modern rewrites a VirtualService: fault.abort.percent, which Istio dropped from the API after 1.0, becomes percentage.
func modern(text []byte) ([]byte, error) {
	if !bytes.Contains(text, []byte(`"percent"`)) {
		return text, nil
	}
	var content map[string]any
	if err := json.Unmarshal(text, &content); err != nil {
		return nil, err
	}
	rules, _, err := unstructured.NestedSlice(content, "spec", "http")
	if err != nil {
		return text, nil //nolint:nilerr // decoding it will tell
	}
	var fields []string
	for i, rule := range rules {
		abort, there, err := unstructured.NestedMap(asMap(rule), "fault", "abort")
		percent, old := abort["percent"]
		if err != nil || !there || !old {
			continue
		}
		delete(abort, "percent")
		if _, set := abort["percentage"]; !set {
			abort["percentage"] = map[string]any{"value": percent}
		}
		if err := unstructured.SetNestedMap(asMap(rule), abort, "fault", "abort"); err != nil {
			return nil, err
		}
		fields = append(fields, fmt.Sprintf("spec.http[%d].fault.abort.percent", i))
	}
	if len(fields) == 0 {
		return text, nil
	}
	if err := unstructured.SetNestedSlice(content, rules, "spec", "http"); err != nil {
		return nil, err
	}
	if err := unstructured.SetNestedField(content, strings.Join(fields, ","), "metadata", "annotations", OlderFields); err != nil {
		return nil, err
	}
	return json.Marshal(content)
}

func asMap(value any) map[string]any {
	m, _ := value.(map[string]any)
	return m
}

// typed turns what a dynamic informer reads into the kind's type.
func typed(kind string) func(any) (any, error) {
	return func(object any) (any, error) {
		raw, ok := object.(*unstructured.Unstructured)
		if !ok {
			return object, nil
		}
		text, err := raw.MarshalJSON()
		if err != nil {
			return nil, err
		}
		return Decode(kind, text)
	}
}
