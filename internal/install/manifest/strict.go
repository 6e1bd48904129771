package manifest

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"

	kjson "sigs.k8s.io/json"

	"github.com/slipway-mesh/slipway/api/v1alpha1"
)

// strictDecode decodes a merged spec and reports every unknown field and the first wrong type, each with its path.
func strictDecode(spec map[string]any, out *v1alpha1.IstioOperatorSpec) error {
	text, err := json.Marshal(map[string]any{"spec": spec})
	if err != nil {
		return err
	}
	var document struct {
		Spec *v1alpha1.IstioOperatorSpec `json:"spec"`
	}
	document.Spec = out
	strict, err := kjson.UnmarshalStrict(text, &document)
	if err != nil {
		return typeError(err)
	}
	var all []error
	for _, problem := range strict {
		all = append(all, fieldError(problem))
	}
	return errors.Join(all...)
}

var unknownField = regexp.MustCompile(`^unknown field "(.*)"$`)

func fieldError(err error) error {
	if m := unknownField.FindStringSubmatch(err.Error()); m != nil {
		return &Error{Path: m[1], Err: errors.New("unknown field")}
	}
	return err
}

func typeError(err error) error {
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) {
		return &Error{Path: wrong.Field, Err: fmt.Errorf("is a %s; it must be of type %s", wrong.Value, wrong.Type)}
	}
	const prefix = "json: cannot unmarshal "
	text := strings.TrimPrefix(err.Error(), prefix)
	if value, rest, ok := strings.Cut(text, " into Go struct field "); ok {
		field, kind, _ := strings.Cut(rest, " of type ")
		if _, path, ok := strings.Cut(field, "."); ok {
			return &Error{Path: path, Err: fmt.Errorf("is a %s; it must be of type %s", value, kind)}
		}
	}
	return &Error{Path: "spec", Err: err}
}
