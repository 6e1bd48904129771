package inject

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"text/template"

	"github.com/Masterminds/sprig/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// data is what a template sees. The names are those that Istio's templates use, as far as they exist.
type data struct {
	TypeMeta                         metav1.TypeMeta
	DeploymentMeta, ObjectMeta       metav1.ObjectMeta
	Spec                             corev1.PodSpec
	ProxyConfig, ProxyConfigDiff     map[string]any
	MeshConfig, Values               map[string]any
	Revision, Owner                  string
	NativeSidecars, Native, Hold     bool
	ProxyImage, ProxyInitImage       string
	ProxyUID, ProxyGID               int64
	Resources                        corev1.ResourceRequirements
	PodPorts                         []corev1.ContainerPort
	AppContainers, AppContainer      string
	CanonicalName, CanonicalRevision string
	Capture                          string // REDIRECT, TPROXY or NONE
}

// render executes a template and reads the pod that it writes.
func render(name, text string, d data) (map[string]any, error) {
	parsed := template.New(name)
	functions := sprig.TxtFuncMap()
	delete(functions, "env") // the environment is the control plane's, and no pod's business
	delete(functions, "expandenv")
	own := template.FuncMap{
		"annotation": annotation, "toJSON": toJSON, "toYaml": toYAML, "indent": indent,
		"include": func(name string, d any) (string, error) {
			var out bytes.Buffer
			err := parsed.ExecuteTemplate(&out, name, d)
			return out.String(), err
		},
		"withNative": func(d data, native bool) data { d.Native = native; return d },
	}
	for name, f := range own {
		functions[name] = f
	}
	if _, err := parsed.Funcs(functions).Parse(text); err != nil {
		return nil, fmt.Errorf("template %s: %w", name, err)
	}
	var out bytes.Buffer
	if err := parsed.Execute(&out, d); err != nil {
		return nil, fmt.Errorf("template %s: %w", name, err)
	}
	var pod map[string]any
	if err := yaml.Unmarshal(out.Bytes(), &pod); err != nil {
		return nil, fmt.Errorf("template %s: what it writes is not YAML: %w", name, err)
	}
	return pod, nil
}

// annotation is the pod's annotation, or else the given value.
func annotation(meta metav1.ObjectMeta, name string, otherwise any) string {
	if value, ok := meta.Annotations[name]; ok {
		return value
	}
	if otherwise == nil {
		return ""
	}
	return fmt.Sprint(otherwise)
}

func toJSON(v any) (string, error) {
	text, err := json.Marshal(v)
	return string(text), err
}

func toYAML(v any) (string, error) {
	text, err := yaml.Marshal(v)
	return strings.TrimSuffix(string(text), "\n"), err
}

func indent(spaces int, text string) string {
	pad := strings.Repeat(" ", spaces)
	return pad + strings.ReplaceAll(text, "\n", "\n"+pad)
}
