package manifest

import "strings"

const operatorChart = "operator"

// OperatorOptions is where the operator itself is installed, and what it watches.
type OperatorOptions struct {
	Hub, Tag          string
	Namespace         string
	WatchedNamespaces []string // none means all
	ImagePullSecrets  []string
	// PackagePath is a folder with charts/operator in place of the built-in chart; empty is that.
	PackagePath string
}

// RenderOperator returns the operator's own objects: what `operator init` applies and `operator dump` prints.
func RenderOperator(options OperatorOptions) ([]Object, error) {
	secrets := make([]any, 0, len(options.ImagePullSecrets))
	for _, secret := range options.ImagePullSecrets {
		secrets = append(secrets, secret)
	}
	values := map[string]any{
		"hub": options.Hub, "tag": options.Tag, "operatorNamespace": options.Namespace, "createNamespaces": true,
		"watchedNamespaces": strings.Join(options.WatchedNamespaces, ","), "imagePullSecrets": secrets,
	}
	objects, err := renderChart(options.PackagePath, operatorChart, options.Namespace, values)
	if err != nil {
		return nil, err
	}
	sortObjects(objects)
	return objects, nil
}

// CRDs returns the CRDs that users' objects are of: what stays when an installation is removed.
func CRDs() ([]Object, error) {
	all, err := builtIn()
	if err != nil {
		return nil, err
	}
	var objects []Object
	for _, chart := range []string{kindBase.chart, operatorChart} {
		for _, crd := range all[chart].CRDObjects() {
			parsed, err := Parse(crd.Filename, string(crd.File.Data))
			if err != nil {
				return nil, err
			}
			objects = append(objects, parsed...)
		}
	}
	return objects, nil
}
