// Package inject adds the proxy to pods. A pod and a configuration enter, a pod leaves; the webhook and kube-inject call
// the same function. It must not know xDS.
package inject

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// Config is the ConfigMap istio-sidecar-injector and the mesh's configuration.
type Config struct {
	Policy              string                 `json:"policy"` // enabled or disabled: what undecided pods get
	DefaultTemplates    []string               `json:"defaultTemplates"`
	Templates           map[string]Template    `json:"templates"`
	Aliases             map[string][]string    `json:"aliases"`
	NeverInject         []metav1.LabelSelector `json:"neverInjectSelector"`
	AlwaysInject        []metav1.LabelSelector `json:"alwaysInjectSelector"`
	InjectedAnnotations map[string]string      `json:"injectedAnnotations"`
	// Values are the chart's, for the templates.
	Values map[string]any `json:"-"`
	// Mesh is MeshConfig as it is written.
	Mesh map[string]any `json:"-"`
	// Version identifies config and values: a pod whose status has another one was injected by an older configuration.
	// It is the first 16 digits of the SHA-256 of both texts with a newline between.
	Version string `json:"-"`

	rootNamespace string
	proxyConfigs  []ProxyConfig // the oldest first
}

// ParseConfig reads the ConfigMaps' texts.
func ParseConfig(config, values, mesh string) (*Config, error) {
	sum := sha256.Sum256([]byte(config + "\n" + values))
	out := &Config{Version: hex.EncodeToString(sum[:8])}
	if err := yaml.Unmarshal([]byte(config), out); err != nil {
		return nil, fmt.Errorf("read the injector's config: %w", err)
	}
	if len(out.Templates) == 0 {
		return nil, fmt.Errorf("read the injector's config: it has no templates")
	}
	if err := json.Unmarshal([]byte(values), &out.Values); err != nil {
		return nil, fmt.Errorf("read the injector's values: %w", err)
	}
	if err := yaml.Unmarshal([]byte(mesh), &out.Mesh); err != nil {
		return nil, fmt.Errorf("read the mesh's config: %w", err)
	}
	return out, nil
}

// at reads a text from nested maps.
func at(m map[string]any, path ...string) any {
	var value any = m
	for _, name := range path {
		child, ok := value.(map[string]any)
		if !ok {
			return nil
		}
		value = child[name]
	}
	return value
}

func textAt(m map[string]any, path ...string) string {
	text, _ := at(m, path...).(string)
	return text
}
