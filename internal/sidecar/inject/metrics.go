package inject

import (
	"cmp"
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Prometheus finds a pod's metrics by annotations, which can name one place only. The agent's has the proxy's metrics and, by a variable
// that says where those of the application are, them as well.
// https://istio.io/latest/docs/ops/integrations/prometheus/#metrics-merging

// scrapeVariable tells the agent where the application's metrics are.
const scrapeVariable = "ISTIO_PROMETHEUS_ANNOTATIONS"

// mergeAnnotation switches it for a pod.
const mergeAnnotation = "prometheus.istio.io/merge-metrics"

// agentMetrics is where the agent has them.
const agentMetrics = "/stats/prometheus"

// scrape is what the annotations say.
type scrape struct {
	Scrape string `json:"scrape"`
	Path   string `json:"path"`
	Port   string `json:"port"`
}

// reservedPorts are the proxy's and the agent's own.
var reservedPorts = []string{"15000", "15001", "15004", "15006", "15008", "15020", "15021", "15053", "15090"}

// scrapeKeys are the annotations by what they say. They are written with dots, dashes and slashes in many ways.
func scrapeKeys(annotations map[string]string) map[string]string {
	keys := map[string]string{}
	for key := range annotations {
		switch plain := strings.NewReplacer("/", "_", ".", "_", "-", "_").Replace(key); plain {
		case "prometheus_io_scrape", "prometheus_io_port", "prometheus_io_path":
			keys[strings.TrimPrefix(plain, "prometheus_io_")] = key
		}
	}
	return keys
}

// metricsAnnotations lead Prometheus to the agent, and the agent to what they led to before. A pod that says it has no metrics, or that
// they are not to be merged, stays as it is.
func metricsAnnotations(pod *corev1.Pod, config *Config, port int32) {
	if merge, ok := at(config.Mesh, "enablePrometheusMerge").(bool); ok && !merge {
		return
	}
	if own, ok := pod.Annotations[mergeAnnotation]; ok && !isTrue(own) {
		return
	}
	keys := scrapeKeys(pod.Annotations)
	if key, own := keys["scrape"]; own {
		wanted, _ := strconv.ParseBool(pod.Annotations[key])
		was := scrape{Scrape: "true", Path: pod.Annotations[keys["path"]], Port: pod.Annotations[keys["port"]]}
		if !wanted || slices.Contains(reservedPorts, was.Port) {
			return
		}
		text, _ := json.Marshal(was) // three texts can always be written
		setVariable(pod, scrapeVariable, string(text))
		for _, key := range keys {
			delete(pod.Annotations, key)
		}
	}
	setAnnotation(pod, "prometheus.io/scrape", "true")
	setAnnotation(pod, "prometheus.io/port", strconv.Itoa(int(cmp.Or(port, defaultStatusPort))))
	setAnnotation(pod, "prometheus.io/path", agentMetrics)
}

// setVariable sets one of the proxy's environment, wherever its container is.
func setVariable(pod *corev1.Pod, name, value string) {
	for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			if list[i].Name == proxyName {
				list[i].Env = append(list[i].Env, corev1.EnvVar{Name: name, Value: value})
			}
		}
	}
}

// restoreScrape puts the annotations back that an earlier injection took away.
func restoreScrape(pod *corev1.Pod) {
	if pod.Annotations["prometheus.io/path"] != agentMetrics {
		return
	}
	for _, name := range []string{"scrape", "port", "path"} {
		delete(pod.Annotations, "prometheus.io/"+name)
	}
	for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for _, c := range list {
			for _, variable := range c.Env {
				var was scrape
				if c.Name != proxyName || variable.Name != scrapeVariable || json.Unmarshal([]byte(variable.Value), &was) != nil {
					continue
				}
				for name, value := range map[string]string{"scrape": was.Scrape, "port": was.Port, "path": was.Path} {
					if value != "" {
						setAnnotation(pod, "prometheus.io/"+name, value)
					}
				}
			}
		}
	}
}
