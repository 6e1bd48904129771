package inject

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"sync"
	"text/template"

	"github.com/Masterminds/sprig/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/yaml"
)

// data is what a template sees. The names are those that Istio's templates use, as far as they exist.
type data struct {
	TypeMeta                         metav1.TypeMeta
	DeploymentMeta, ObjectMeta       metav1.ObjectMeta
	Spec                             corev1.PodSpec
	ProxyConfig, MeshConfig, Values  map[string]any
	Revision, Owner                  string
	NativeSidecars, Native, Hold     bool
	ProxyImage, ProxyInitImage       string
	ProxyUID, ProxyGID               int64
	Resources                        corev1.ResourceRequirements
	PodPorts                         []corev1.ContainerPort
	AppContainers, AppContainer      string
	CanonicalName, CanonicalRevision string
	Capture                          string // REDIRECT, TPROXY or NONE
	CompliancePolicy                 string
	StatusPort                       int32 // the agent's; 0 where nobody is to ask it
}

// Template writes a part of a pod. It is parsed when it is first used, so that one with a fault stops only the pods that ask for it.
type Template struct {
	parsed func() (*template.Template, error)
}

// NewTemplate is the template with this text.
func NewTemplate(text string) Template {
	return Template{sync.OnceValues(func() (*template.Template, error) { return parse(text) })}
}

// UnmarshalJSON reads the text.
func (t *Template) UnmarshalJSON(from []byte) error {
	var text string
	if err := json.Unmarshal(from, &text); err != nil {
		return err
	}
	*t = NewTemplate(text)
	return nil
}

// render executes the template, and returns the pod that it writes.
func (t Template) render(d data) (map[string]any, error) {
	parsed, err := t.parsed()
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := parsed.Execute(&out, d); err != nil {
		return nil, err
	}
	text, err := yaml.YAMLToJSON(out.Bytes())
	var pod map[string]any
	if err == nil {
		err = utiljson.Unmarshal(text, &pod) // its numbers are as the merge has them
	}
	if err != nil {
		return nil, fmt.Errorf("what it writes is no pod in YAML: %w", err)
	}
	return pod, nil
}

func parse(text string) (*template.Template, error) {
	parsed := template.New("pod")
	functions := sprig.TxtFuncMap()
	delete(functions, "env") // the environment is the control plane's, and no pod's business
	delete(functions, "expandenv")
	maps.Copy(functions, template.FuncMap{
		"annotation": annotation, "isTrue": isTrue, "toJSON": toJSON, "toYaml": toYAML, "indent": indent,
		"include": func(name string, d any) (string, error) {
			var out bytes.Buffer
			err := parsed.ExecuteTemplate(&out, name, d)
			return out.String(), err
		},
		"withNative": func(d data, native bool) data { d.Native = native; return d },
	})
	return parsed.Funcs(functions).Parse(text)
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
