package cli

import (
	"encoding/json"
	"io"

	"sigs.k8s.io/yaml"
)

// printAs writes a value for programs, as json or yaml; false if the form is another one.
func printAs(out io.Writer, value any, form string) (bool, error) {
	switch form {
	case "json":
		encoder := json.NewEncoder(out)
		encoder.SetIndent("", "  ")
		return true, encoder.Encode(value)
	case "yaml":
		text, err := yaml.Marshal(value)
		if err == nil {
			_, err = out.Write(text)
		}
		return true, err
	}
	return false, nil
}
