package manifest

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"
	mesh "istio.io/api/mesh/v1alpha1"
)

// checkMeshConfig checks a mesh configuration against Istio's MeshConfig: every unknown field is reported with its path,
// and then the first value of a wrong type.
func checkMeshConfig(path string, config map[string]any) error {
	message := (&mesh.MeshConfig{}).ProtoReflect()
	var all []error
	findUnknown(path, config, message.Descriptor(), func(at string) {
		all = append(all, &Error{Path: at, Err: errors.New("unknown field; MeshConfig has none of that name")})
	})
	if len(all) > 0 {
		return errors.Join(all...)
	}
	text, err := json.Marshal(config)
	if err != nil {
		return err
	}
	if err := protojson.Unmarshal(text, message.Interface()); err != nil {
		return &Error{Path: path, Err: err}
	}
	return nil
}

// findUnknown visits the fields that a message does not have. Messages with a JSON form of their own are left to the
// decoder.
func findUnknown(path string, value any, descriptor protoreflect.MessageDescriptor, visit func(path string)) {
	object, ok := value.(map[string]any)
	if !ok || descriptor.ParentFile().Package() == "google.protobuf" {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(object)) {
		field := descriptor.Fields().ByJSONName(name)
		if field == nil {
			field = descriptor.Fields().ByName(protoreflect.Name(name))
		}
		at := path + "." + name
		switch {
		case field == nil:
			visit(at)
		case field.IsMap():
			if child := field.MapValue().Message(); child != nil {
				entries, _ := object[name].(map[string]any)
				for _, key := range slices.Sorted(maps.Keys(entries)) {
					findUnknown(at+"."+key, entries[key], child, visit)
				}
			}
		case field.Message() != nil && field.IsList():
			list, _ := object[name].([]any)
			for i, element := range list {
				findUnknown(fmt.Sprintf("%s[%d]", at, i), element, field.Message(), visit)
			}
		case field.Message() != nil:
			findUnknown(at, object[name], field.Message(), visit)
		}
	}
}
