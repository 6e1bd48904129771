package inject

import (
	"maps"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"
)

// What a proxy starts with is said in layers, of which later ones replace the fields of earlier ones: MeshConfig.defaultConfig,
// ProxyConfig objects of the root namespace, of the pod's, and those that select it, then the pod's annotations. proxyMetadata is laid
// name by name.
// https://istio.io/latest/docs/reference/config/networking/proxy-config/

// keyDiscovery moves the control plane for a pod.
const keyDiscovery = "sidecar.istio.io/discoveryAddress"

// ProxyConfig is an object of that kind.
type ProxyConfig struct {
	Namespace, Name string
	Created         time.Time
	Selector        map[string]string
	// Fields are what it says, as MeshConfig.defaultConfig calls it.
	Fields map[string]any
}

// ProxyConfigs is the kind.
var ProxyConfigs = schema.GroupVersionResource{Group: "networking.istio.io", Version: "v1beta1", Resource: "proxyconfigs"}

// ReadProxyConfig takes an object as the API server has it. environmentVariables are proxyMetadata elsewhere.
func ReadProxyConfig(object *unstructured.Unstructured) ProxyConfig {
	out := ProxyConfig{Namespace: object.GetNamespace(), Name: object.GetName(), Created: object.GetCreationTimestamp().Time, Fields: map[string]any{}}
	spec, _ := object.Object["spec"].(map[string]any)
	selected, _ := at(spec, "selector", "matchLabels").(map[string]any)
	for name, value := range selected {
		if out.Selector == nil {
			out.Selector = map[string]string{}
		}
		out.Selector[name], _ = value.(string)
	}
	for from, to := range map[string]string{"concurrency": "concurrency", "image": "image", "environmentVariables": "proxyMetadata"} {
		if value := spec[from]; value != nil {
			out.Fields[to] = value
		}
	}
	return out
}

// SetProxyConfigs gives the configuration the objects of the cluster. Of several that say of the same pods, the oldest counts.
func (c *Config) SetProxyConfigs(rootNamespace string, objects []ProxyConfig) {
	c.rootNamespace, c.proxyConfigs = rootNamespace, slices.Clone(objects)
	slices.SortFunc(c.proxyConfigs, func(a, b ProxyConfig) int {
		if d := a.Created.Compare(b.Created); d != 0 {
			return d
		}
		return slices.Compare([]string{a.Namespace, a.Name}, []string{b.Namespace, b.Name})
	})
}

// objectsFor are those that say something of a pod, the weakest first.
func (c *Config) objectsFor(namespace string, set map[string]string) []map[string]any {
	var out []map[string]any
	for _, counts := range []func(ProxyConfig) bool{
		func(p ProxyConfig) bool { return p.Namespace == c.rootNamespace && p.Selector == nil },
		func(p ProxyConfig) bool {
			return p.Namespace == namespace && p.Selector == nil && namespace != c.rootNamespace
		},
		func(p ProxyConfig) bool {
			return p.Namespace == namespace && p.Selector != nil && labels.SelectorFromSet(p.Selector).Matches(labels.Set(set))
		},
	} {
		if i := slices.IndexFunc(c.proxyConfigs, counts); i >= 0 {
			out = append(out, c.proxyConfigs[i].Fields)
		}
	}
	return out
}

// proxyConfigOf is all that counts for a pod.
func proxyConfigOf(config *Config, namespace string, pod *corev1.Pod) map[string]any {
	out := map[string]any{}
	base, _ := at(config.Mesh, "defaultConfig").(map[string]any)
	var own map[string]any
	_ = yaml.Unmarshal([]byte(pod.Annotations[keyProxy]), &own) // it was checked
	lay(out, base)
	for _, fields := range append(config.objectsFor(namespace, pod.Labels), own) {
		lay(out, fields)
	}
	if address := pod.Annotations[keyDiscovery]; address != "" {
		out["discoveryAddress"] = address
	}
	if port, err := strconv.ParseFloat(pod.Annotations[statusPortAnnotation], 64); err == nil {
		out["statusPort"] = port
	}
	return out
}

// statusPort is where the agent answers questions about the pod; 0 is nowhere.
func statusPort(config *Config, proxyConfig map[string]any) int32 {
	if port, ok := proxyConfig["statusPort"].(float64); ok {
		return int32(port)
	}
	if port, ok := at(config.Values, "global", "proxy", "statusPort").(float64); ok && port != 0 {
		return int32(port)
	}
	return defaultStatusPort
}

// defaultStatusPort is the agent's where nobody says otherwise.
const defaultStatusPort = 15020

// lay puts the fields of one layer over those of others.
func lay(under, over map[string]any) {
	for name, value := range over {
		if variables, ok := value.(map[string]any); ok && name == "proxyMetadata" {
			all := map[string]any{}
			before, _ := under[name].(map[string]any)
			maps.Copy(all, before)
			maps.Copy(all, variables)
			value = all
		}
		under[name] = value
	}
}
