package inject

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// annotated is the plain pod with annotations, NAME VALUE NAME VALUE.
func annotated(pairs ...string) *corev1.Pod {
	pod := pods()["plain"].DeepCopy()
	for i := 0; i+1 < len(pairs); i += 2 {
		setAnnotation(pod, pairs[i], pairs[i+1])
	}
	return pod
}

// TestAnnotationsAreChecked: a pod with a value that cannot be meant is refused, and the error names it; others are injected.
func TestAnnotationsAreChecked(t *testing.T) {
	config := testConfig(t)
	for name, values := range map[string][2]string{ // one that is taken, and one that is not
		"sidecar.istio.io/interceptionMode":                {"TPROXY", "tproxy"},
		keyImageType:                                       {"distroless", "small"},
		keyNative:                                          {"true", "sometimes"},
		rewriteAnnotation:                                  {"False", "no"},
		mergeAnnotation:                                    {"0", "none"},
		"sidecar.istio.io/capNetBindService":               {"true", "yes"},
		"sidecar.istio.io/statsCompression":                {"gzip", "lzma"},
		"sidecar.istio.io/proxyCPU":                        {"100m", "much"},
		"sidecar.istio.io/proxyMemoryLimit":                {"1Gi", "1GB?"},
		keyProxy:                                           {"concurrency: 2", "concurrency: many"},
		"sidecar.istio.io/userVolume":                      {`{"v": {"emptyDir": {}}}`, "[v]"},
		"sidecar.istio.io/statsHistogramBuckets":           {`{"istiocustom": [1, 5]}`, `{"istiocustom": 5}`},
		"sidecar.istio.io/statsHistogramBins":              {"50", "-1"},
		"sidecar.istio.io/statsEvictionInterval":           {"30s", "30"},
		statusPortAnnotation:                               {"15099", "70000"},
		"readiness.status.sidecar.istio.io/periodSeconds":  {"3", "3s"},
		"traffic.sidecar.istio.io/includeOutboundIPRanges": {"*", "10.0.0.0/33"},
		"traffic.sidecar.istio.io/excludeOutboundIPRanges": {"10.0.0.0/8, fd00::1", "*"},
		"traffic.sidecar.istio.io/includeInboundPorts":     {"", "http"},
		"traffic.sidecar.istio.io/excludeOutboundPorts":    {"80,443", "*"},
	} {
		if _, err := Pod(config, Request{Pod: annotated(name, values[0]), Namespace: "n"}); err != nil {
			t.Errorf("%s: %q is refused: %v", name, values[0], err)
		}
		_, err := Pod(config, Request{Pod: annotated(name, values[1]), Namespace: "n"})
		if err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "use ") && !strings.Contains(err.Error(), "is to be") {
			t.Errorf("%s: %q ends with %v", name, values[1], err)
		}
	}
}

// variables of the proxy.
func variables(pod *corev1.Pod) map[string]string {
	out := map[string]string{}
	for _, v := range container(pod, proxyName).Env {
		out[v.Name] = v.Value
	}
	return out
}

// TestImages: the type ends the tag.
func TestImages(t *testing.T) {
	config := testConfig(t)
	for _, c := range []struct {
		name, tag, want string
		pod             *corev1.Pod
	}{
		{"none", "1.0", "hub/proxyv2:1.0", annotated()},
		{"a type", "1.0", "hub/proxyv2:1.0-distroless", annotated(keyImageType, "distroless")},
		{"another than the tag's", "1.0-distroless", "hub/proxyv2:1.0-debug", annotated(keyImageType, "debug")},
		{"the default's", "1.0-distroless", "hub/proxyv2:1.0", annotated(keyImageType, "default")},
		{"of the ProxyConfig", "1.0", "hub/proxyv2:1.0-debug", annotated(keyProxy, "image: {imageType: debug}")},
		{"a whole reference", "1.0", "own/proxy:2", annotated(keyImage, "own/proxy:2", keyImageType, "debug")},
	} {
		config.Values["global"].(map[string]any)["tag"] = c.tag
		pod, err := Pod(config, Request{Pod: c.pod, Namespace: "n"})
		if err != nil {
			t.Fatal(err)
		}
		if got := container(pod, proxyName).Image; got != c.want {
			t.Errorf("%s: the image is %s, not %s", c.name, got, c.want)
		}
	}
}

// object is a ProxyConfig of so many hours ago.
func object(namespace, name string, hours int, spec map[string]any) ProxyConfig {
	u := &unstructured.Unstructured{Object: map[string]any{"spec": spec}}
	u.SetNamespace(namespace)
	u.SetName(name)
	out := ReadProxyConfig(u)
	out.Created = time.Unix(0, 0).Add(-time.Duration(hours) * time.Hour)
	return out
}

// TestProxyConfigLayers: the mesh's, the root namespace's, the namespace's, the workload's, the pod's own: each goes before those above.
func TestProxyConfigLayers(t *testing.T) {
	config := testConfig(t)
	config.Mesh["defaultConfig"].(map[string]any)["proxyMetadata"] = map[string]any{"A": "mesh", "B": "mesh", "C": "mesh", "D": "mesh", "E": "mesh"}
	environment := func(names ...string) map[string]any {
		out := map[string]any{}
		for _, name := range names[1:] {
			out[name] = names[0]
		}
		return out
	}
	selecting := map[string]any{"matchLabels": map[string]any{"app": "x"}}
	config.SetProxyConfigs("istio-system", []ProxyConfig{
		object("istio-system", "root", 1, map[string]any{"environmentVariables": environment("root", "B", "C", "D", "E")}),
		object("n", "younger", 1, map[string]any{"environmentVariables": environment("younger", "C", "D", "E")}),
		object("n", "older", 2, map[string]any{"concurrency": int64(3), "environmentVariables": environment("namespace", "C", "D", "E")}),
		object("n", "workload", 1, map[string]any{"selector": selecting, "environmentVariables": environment("workload", "D", "E")}),
		object("n", "others", 1, map[string]any{"selector": map[string]any{"matchLabels": map[string]any{"app": "y"}}, "environmentVariables": environment("others", "A")}),
		object("elsewhere", "all", 1, map[string]any{"environmentVariables": environment("elsewhere", "A")}),
	})
	pod := annotated(keyProxy, "proxyMetadata: {E: pod}", keyDiscovery, "istiod-blue.istio-system.svc:15012")
	pod.Labels = map[string]string{"app": "x"}
	injected, err := Pod(config, Request{Pod: pod, Namespace: "n"})
	if err != nil {
		t.Fatal(err)
	}
	got := variables(injected)
	for name, want := range map[string]string{"A": "mesh", "B": "root", "C": "namespace", "D": "workload", "E": "pod", "CA_ADDR": "istiod-blue.istio-system.svc:15012"} {
		if got[name] != want {
			t.Errorf("%s is %q, not %q", name, got[name], want)
		}
	}
	args := container(injected, proxyName).Args
	if i := slices.Index(args, "--concurrency"); i < 0 || args[i+1] != "3" {
		t.Errorf("the arguments are %q", args)
	}
	if base := config.Mesh["defaultConfig"].(map[string]any)["proxyMetadata"].(map[string]any); !maps.Equal(base, map[string]any{"A": "mesh", "B": "mesh", "C": "mesh", "D": "mesh", "E": "mesh"}) {
		t.Errorf("the mesh's own are changed: %v", base)
	}
}

// TestStatusPort: all that asks the agent asks it where a pod says that it is.
func TestStatusPort(t *testing.T) {
	config := testConfig(t)
	for _, c := range []struct {
		pod      *corev1.Pod
		port     string
		wantNone bool
	}{{annotated(statusPortAnnotation, "15099"), "15099", false}, {annotated(keyProxy, "statusPort: 15098"), "15098", false}, {annotated(statusPortAnnotation, "0"), "15020", true}} {
		c.pod.Spec.Containers[0] = probed()
		injected, err := Pod(config, Request{Pod: c.pod, Namespace: "n"})
		if err != nil {
			t.Fatal(err)
		}
		probe := container(injected, "app").ReadinessProbe
		asksAgent := probe.HTTPGet != nil && strings.HasPrefix(probe.HTTPGet.Path, "/app-health/")
		if asksAgent == c.wantNone || asksAgent && probe.HTTPGet.Port != intstr.Parse(c.port) {
			t.Errorf("port %s: the application's probe is %+v", c.port, probe.ProbeHandler)
		}
		if proxy := container(injected, proxyName); (proxy.ReadinessProbe == nil) != c.wantNone {
			t.Errorf("port %s: the proxy's probe is %+v", c.port, proxy.ReadinessProbe)
		}
		args := container(injected, initName).Args
		if i := slices.Index(args, "-d"); args[i+1] != "15090,15021,"+c.port {
			t.Errorf("port %s: not captured is %s", c.port, args[i+1])
		}
		if injected.Annotations["prometheus.io/port"] != c.port {
			t.Errorf("port %s: metrics are at %s", c.port, injected.Annotations["prometheus.io/port"])
		}
	}
}

// TestAdded are what annotations and the control plane's environment add to the proxy.
func TestAdded(t *testing.T) {
	config := testConfig(t)
	pod := annotated("sidecar.istio.io/bootstrapOverride", "mine")
	always := corev1.ContainerRestartPolicyAlways
	pod.Spec.InitContainers = []corev1.Container{{Name: "helper", RestartPolicy: &always, Ports: []corev1.ContainerPort{{ContainerPort: 9999}}}}
	injected, err := Pod(config, Request{Pod: pod, Namespace: "n", Compliance: "fips-140-2"})
	if err != nil {
		t.Fatal(err)
	}
	got := variables(injected)
	if got["COMPLIANCE_POLICY"] != "fips-140-2" || got["ISTIO_BOOTSTRAP_OVERRIDE"] != "/etc/istio/custom-bootstrap/custom_bootstrap.json" {
		t.Errorf("the environment is %v", got)
	}
	if !strings.Contains(got["ISTIO_META_POD_PORTS"], "9999") {
		t.Errorf("the ports of a native sidecar are not among %s", got["ISTIO_META_POD_PORTS"])
	}
	i := slices.IndexFunc(injected.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == "custom-bootstrap-volume" })
	if i < 0 || injected.Spec.Volumes[i].ConfigMap.Name != "mine" {
		t.Errorf("the volumes are %+v", injected.Spec.Volumes)
	}
}

// TestWarnings: each mistake is told, and a sound pod has none.
func TestWarnings(t *testing.T) {
	if told := Warnings(pods()["probed"]); len(told) > 0 {
		t.Errorf("a sound pod: %q", told)
	}
	id := int64(proxyUserID)
	for want, change := range map[string]func(*corev1.Pod){
		"dnsPolicy": func(p *corev1.Pod) { p.Spec.DNSPolicy = corev1.DNSDefault },
		"user 1337": func(p *corev1.Pod) { p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: &id} },
		`port "nope"`: func(p *corev1.Pod) {
			p.Spec.Containers[0].ReadinessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Port: intstr.FromString("nope")}}}
		},
	} {
		pod := pods()["plain"].DeepCopy()
		change(pod)
		if told := Warnings(pod); len(told) != 1 || !strings.Contains(told[0], want) {
			t.Errorf("%s: %q", want, told)
		}
	}
}
