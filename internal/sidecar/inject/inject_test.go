package inject

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	admission "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func testConfig(t testing.TB) *Config {
	t.Helper()
	files := "../../../charts/istiod/files/"
	shared, err := os.ReadFile(files + "proxy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	values := `{"global": {"hub": "hub", "tag": "tag", "logging": {"level": "info"}, "multiCluster": {}, "proxy": {"clusterDomain": "cluster.local", "logLevel": "warning",
		"componentLogLevel": "misc:error", "includeIPRanges": "*", "includeInboundPorts": "*", "startupProbe": {"enabled": true, "failureThreshold": 600},
		"readinessPeriodSeconds": 15, "readinessFailureThreshold": 4, "readinessInitialDelaySeconds": 0, "resources": {"requests": {"cpu": "10m"}}}, "proxy_init": {"resources": {}}}}`
	config, err := ParseConfig("policy: enabled\ndefaultTemplates: [sidecar]\ntemplates: {sidecar: x}", values, "defaultConfig: {discoveryAddress: \"istiod.istio-system.svc:15012\"}")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"sidecar", "gateway", "grpc-agent", "grpc-simple"} {
		template, err := os.ReadFile(files + name + ".yaml")
		if err != nil {
			t.Fatal(err)
		}
		config.Templates[name] = NewTemplate(string(shared) + string(template))
	}
	return config
}

func pods() map[string]*corev1.Pod {
	app := corev1.Container{Name: "app", Image: "app", Ports: []corev1.ContainerPort{{ContainerPort: 80}}}
	return map[string]*corev1.Pod{
		"plain":     {ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{Containers: []corev1.Container{app}}},
		"init":      {ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{InitContainers: []corev1.Container{{Name: "first"}}, Containers: []corev1.Container{app}}},
		"volumes":   {ObjectMeta: metav1.ObjectMeta{Name: "p", Labels: map[string]string{"app": "x"}}, Spec: corev1.PodSpec{Containers: []corev1.Container{app}, Volumes: []corev1.Volume{{Name: "own"}}}},
		"scraped":   {ObjectMeta: metav1.ObjectMeta{Name: "p", Annotations: map[string]string{"prometheus.io/scrape": "true", "prometheus.io/port": "9102", "prometheus.io/path": "/m"}}, Spec: corev1.PodSpec{Containers: []corev1.Container{app}}},
		"annotated": {ObjectMeta: metav1.ObjectMeta{Name: "p", Annotations: map[string]string{"traffic.sidecar.istio.io/excludeOutboundPorts": "5432", "prometheus.io/scrape": "false"}}, Spec: corev1.PodSpec{Containers: []corev1.Container{app}}},
		"probed":    {ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{Containers: []corev1.Container{probed()}}},
		"two apps":  {ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{Containers: []corev1.Container{app, {Name: "other"}}}},
		"gateway": {ObjectMeta: metav1.ObjectMeta{Name: "p", Labels: map[string]string{"istio": "edge"}, Annotations: map[string]string{keyTemplates: "gateway"}}, Spec: corev1.PodSpec{
			Containers: []corev1.Container{{Name: proxyName, Image: "auto", ImagePullPolicy: corev1.PullAlways, Ports: []corev1.ContainerPort{{ContainerPort: 8443}}, Env: []corev1.EnvVar{{Name: "OWN", Value: "x"}}}}}},
		"grpc":       {ObjectMeta: metav1.ObjectMeta{Name: "p", Annotations: map[string]string{keyTemplates: "grpc-agent"}}, Spec: corev1.PodSpec{Containers: []corev1.Container{app, {Name: "other", Env: []corev1.EnvVar{{Name: "OWN", Value: "x"}}}}}},
		"own proxy":  {ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{Containers: []corev1.Container{app, {Name: proxyName, Image: "own/proxy", Env: []corev1.EnvVar{{Name: "OWN", Value: "x"}}}}}},
		"deployment": {ObjectMeta: metav1.ObjectMeta{GenerateName: "d-5d4-", Labels: map[string]string{"pod-template-hash": "5d4"}}, Spec: corev1.PodSpec{Containers: []corev1.Container{app}}},
	}
}

// probed is a container with a question of each kind.
func probed() corev1.Container {
	get := func(port intstr.IntOrString, headers ...corev1.HTTPHeader) corev1.ProbeHandler {
		return corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/health", Port: port, HTTPHeaders: headers}}
	}
	return corev1.Container{Name: "app", Image: "app", Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: 80}},
		ReadinessProbe: &corev1.Probe{ProbeHandler: get(intstr.FromString("web"), corev1.HTTPHeader{Name: "a", Value: "b"}), TimeoutSeconds: 3},
		LivenessProbe:  &corev1.Probe{ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(81)}}},
		StartupProbe:   &corev1.Probe{ProbeHandler: corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: 82}}},
		Lifecycle: &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/stop", Port: intstr.FromInt32(80)}},
			PostStart: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"true"}}}}}
}

// TestProbes: the kubelet's questions lead to the agent, which is told what they were. A command stays one, and so does
// everything where the pod says so.
func TestProbes(t *testing.T) {
	config := testConfig(t)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{Containers: []corev1.Container{probed()}}}
	injected, err := Pod(config, Request{Pod: pod, Namespace: "n"})
	if err != nil {
		t.Fatal(err)
	}
	app := container(injected, "app")
	for path, got := range map[string]*corev1.HTTPGetAction{"/app-health/app/readyz": app.ReadinessProbe.HTTPGet, "/app-health/app/livez": app.LivenessProbe.HTTPGet,
		"/app-health/app/startupz": app.StartupProbe.HTTPGet, "/app-lifecycle/app/prestopz": app.Lifecycle.PreStop.HTTPGet} {
		if got == nil || got.Path != path || got.Port.IntVal != 15020 {
			t.Errorf("%s: %+v", path, got)
		}
	}
	if app.Lifecycle.PostStart.Exec == nil || app.LivenessProbe.TCPSocket != nil || app.StartupProbe.GRPC != nil {
		t.Errorf("what is left: %+v", app)
	}
	want := `{"/app-health/app/livez":{"tcpSocket":{"port":81}},"/app-health/app/readyz":{"httpGet":{"path":"/health","port":80,"httpHeaders":[{"name":"a","value":"b"}]},"timeoutSeconds":3},` +
		`"/app-health/app/startupz":{"grpc":{"port":82,"service":null}},"/app-lifecycle/app/prestopz":{"httpGet":{"path":"/stop","port":80}}}`
	found := ""
	for _, variable := range container(injected, proxyName).Env {
		if variable.Name == probersVariable {
			found = variable.Value
		}
	}
	if diff := cmp.Diff(want, found); diff != "" {
		t.Error(diff)
	}
	pod.Annotations = map[string]string{rewriteAnnotation: "false"}
	left, err := Pod(config, Request{Pod: pod, Namespace: "n"})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(probed(), *container(left, "app")); diff != "" {
		t.Errorf("a pod that does not want it:\n%s", diff)
	}
}

func container(pod *corev1.Pod, name string) *corev1.Container {
	for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return &corev1.Container{}
}

// TestInjectTwice: injecting what is injected changes nothing, natively and classically, and from one to the other.
func TestInjectTwice(t *testing.T) {
	config := testConfig(t)
	for name, pod := range pods() {
		for _, native := range []bool{false, true} {
			original := pod.DeepCopy()
			once, err := Pod(config, Request{Pod: pod, Namespace: "n", Native: native})
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if diff := cmp.Diff(original, pod); diff != "" {
				t.Errorf("%s: the given pod was changed:\n%s", name, diff)
			}
			twice, err := Pod(config, Request{Pod: once, Namespace: "n", Native: native})
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if diff := cmp.Diff(once, twice); diff != "" {
				t.Errorf("%s, native %v: injecting twice differs:\n%s", name, native, diff)
			}
			other, err := Pod(config, Request{Pod: once, Namespace: "n", Native: !native})
			if err != nil {
				t.Fatal(err)
			}
			back, err := Pod(config, Request{Pod: other, Namespace: "n", Native: native})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(once, back); diff != "" {
				t.Errorf("%s, native %v: there and back differs:\n%s", name, native, diff)
			}
		}
	}
}

func TestShape(t *testing.T) {
	config := testConfig(t)
	for _, native := range []bool{false, true} {
		pod, err := Pod(config, Request{Pod: pods()["init"], Namespace: "n", Native: native})
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, c := range pod.Spec.InitContainers {
			names = append(names, c.Name)
		}
		names = append(names, "|")
		for _, c := range pod.Spec.Containers {
			names = append(names, c.Name)
		}
		want := map[bool]string{false: "first istio-init | app istio-proxy", true: "istio-init istio-proxy first | app"}[native]
		if got := strings.Join(names, " "); got != want {
			t.Errorf("native %v: containers are %q, not %q", native, got, want)
		}
		var status struct{ InitContainers, Containers []string }
		if err := json.Unmarshal([]byte(pod.Annotations[keyStatus]), &status); err != nil || len(status.InitContainers)+len(status.Containers) != 2 {
			t.Errorf("status annotation %s (%v)", pod.Annotations[keyStatus], err)
		}
	}
}

func TestWanted(t *testing.T) {
	config := testConfig(t)
	for _, c := range []struct {
		name      string
		pod       corev1.Pod
		namespace string
		want      bool
	}{
		{"undecided", corev1.Pod{}, "n", true},
		{"host network", corev1.Pod{Spec: corev1.PodSpec{HostNetwork: true}}, "n", false},
		{"system namespace", corev1.Pod{}, "kube-system", false},
		{"label false", corev1.Pod{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{keyInject: "false"}}}, "n", false},
		{"annotation false", corev1.Pod{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{keyInject: "false"}}}, "n", false},
		{"label before annotation", corev1.Pod{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{keyInject: "true"}, Annotations: map[string]string{keyInject: "false"}}}, "n", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got, why := Wanted(config, &c.pod, c.namespace); got != c.want || !got && why == "" {
				t.Errorf("wanted: %v (%s)", got, why)
			}
		})
	}
}

func TestStreamPassesOtherDocuments(t *testing.T) {
	in := "apiVersion: v1\nkind: Service\nmetadata:\n  name:   odd   # comment\n---\napiVersion: extensions/v1beta1\nkind: Deployment\nmetadata: {name: d}\nspec:\n  template:\n    spec:\n      containers: [{name: a, image: b}]\n"
	var out, warnings bytes.Buffer
	if err := Stream(testConfig(t), Request{}, strings.NewReader(in), &out, &warnings); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(out.String(), "apiVersion: v1\nkind: Service\nmetadata:\n  name:   odd   # comment\n---\n") {
		t.Errorf("the Service did not pass as it was:\n%s", out.String())
	}
	if !strings.Contains(out.String(), "name: istio-proxy") {
		t.Errorf("the Deployment was not injected:\n%s", out.String())
	}
}

// TestGateway: the container that a gateway's Deployment leaves to be filled in becomes a proxy, and what it says itself stays.
func TestGateway(t *testing.T) {
	injected, err := Pod(testConfig(t), Request{Pod: pods()["gateway"], Namespace: "n"})
	if err != nil {
		t.Fatal(err)
	}
	if len(injected.Spec.Containers) != 1 || len(injected.Spec.InitContainers) != 0 {
		t.Fatalf("%d containers and %d that capture", len(injected.Spec.Containers), len(injected.Spec.InitContainers))
	}
	proxy := injected.Spec.Containers[0]
	variables := map[string]string{}
	for _, v := range proxy.Env {
		variables[v.Name] = v.Value
	}
	if proxy.Image != "hub/proxyv2:tag" || proxy.ImagePullPolicy != "" || proxy.Args[1] != "router" || len(proxy.Ports) != 2 || variables["OWN"] != "x" || variables["CA_ADDR"] == "" || len(proxy.VolumeMounts) == 0 {
		t.Errorf("the proxy is %+v", proxy)
	}
	if injected.Labels["istio"] != "edge" || injected.Annotations["prometheus.io/port"] != "15020" || len(injected.Spec.SecurityContext.Sysctls) != 1 {
		t.Errorf("the pod is %+v, %+v", injected.ObjectMeta, injected.Spec.SecurityContext)
	}
}

// TestGRPC: each application is told where its xDS is, waits for the agent, and nothing is captured.
func TestGRPC(t *testing.T) {
	for _, native := range []bool{false, true} {
		injected, err := Pod(testConfig(t), Request{Pod: pods()["grpc"], Namespace: "n", Native: native})
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"app", "other"} {
			told := false
			for _, v := range container(injected, name).Env {
				told = told || v.Name == "GRPC_XDS_BOOTSTRAP" && v.Value == "/etc/istio/proxy/grpc-bootstrap.json"
			}
			if !told || len(container(injected, name).VolumeMounts) != 2 {
				t.Errorf("native %t: %s is %+v", native, name, container(injected, name))
			}
		}
		first := injected.Spec.Containers[0].Name == proxyName && injected.Spec.Containers[0].Lifecycle.PostStart != nil
		if native {
			first = len(injected.Spec.InitContainers) == 1 && injected.Spec.InitContainers[0].RestartPolicy != nil
		}
		if !first || container(injected, initName).Name != "" {
			t.Errorf("native %t: %+v", native, injected.Spec)
		}
	}
}

// TestOwnProxy: what a pod says of its sidecar goes before the template, wherever the template has it.
func TestOwnProxy(t *testing.T) {
	for _, native := range []bool{false, true} {
		injected, err := Pod(testConfig(t), Request{Pod: pods()["own proxy"], Namespace: "n", Native: native})
		if err != nil {
			t.Fatal(err)
		}
		proxy := container(injected, proxyName)
		if proxy.Image != "own/proxy" || len(proxy.Args) == 0 || (proxy.RestartPolicy != nil) != native {
			t.Errorf("native %t: the proxy is %+v", native, proxy)
		}
		if n := len(injected.Spec.Containers) + len(injected.Spec.InitContainers); n != 3 {
			t.Errorf("native %t: %d containers", native, n)
		}
	}
}

func podReview(uid, namespace, app string) string {
	return fmt.Sprintf(`{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{"uid":%q,"namespace":%q,"object":{"metadata":{"generateName":"%[3]s-","labels":{"app":%[3]q,"sidecar.istio.io/inject":"true"}},`+
		`"spec":{"containers":[{"name":"app","image":"app","ports":[{"containerPort":8080}],"readinessProbe":{"httpGet":{"path":"/","port":8080}}}]}}}}`, uid, namespace, app)
}

func answerTo(t testing.TB, webhook *Webhook, review string) *admission.AdmissionResponse {
	t.Helper()
	request, recorder := httptest.NewRequest(http.MethodPost, "/inject", strings.NewReader(review)), httptest.NewRecorder()
	request.Header.Set("Content-Type", "application/json")
	webhook.ServeHTTP(recorder, request)
	var answer admission.AdmissionReview
	if err := json.Unmarshal(recorder.Body.Bytes(), &answer); err != nil || answer.Response == nil || len(answer.Response.Patch) == 0 {
		t.Fatalf("answered %s (%v)", recorder.Body, err)
	}
	return answer.Response
}

// inOrder is a patch whose operations stand in an order of their own.
func inOrder(t *testing.T, patch []byte) string {
	t.Helper()
	var operations []json.RawMessage
	if err := json.Unmarshal(patch, &operations); err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(operations, func(a, b json.RawMessage) int { return bytes.Compare(a, b) })
	return fmt.Sprintf("%s", operations)
}

// TestAnswersAgain: a pod that was seen before is answered as it would be if it was not, whatever changed since.
func TestAnswersAgain(t *testing.T) {
	config, other, native := testConfig(t), testConfig(t), true
	other.Values["global"].(map[string]any)["hub"] = "another"
	current := config
	webhook := NewWebhook(func() *Config { return current }, func() bool { return native }, prometheus.NewRegistry())
	alone := func(uid, namespace, app string) *admission.AdmissionResponse {
		c, n := current, native
		return answerTo(t, NewWebhook(func() *Config { return c }, func() bool { return n }, prometheus.NewRegistry()), podReview(uid, namespace, app))
	}
	seen := map[string]bool{}
	for i, step := range []struct {
		namespace, app string
		change         func()
	}{
		{"n", "a", nil}, {"n", "a", nil}, {"n", "b", nil}, {"m", "a", nil}, {"n", "a", func() { current = other }}, {"n", "a", func() { native = false }}, {"n", "a", func() { current = config }}, {"n", "b", nil},
	} {
		if step.change != nil {
			step.change()
		}
		uid := fmt.Sprint("uid-", i)
		got := answerTo(t, webhook, podReview(uid, step.namespace, step.app))
		patch := inOrder(t, got.Patch)
		if want := alone(uid, step.namespace, step.app); got.UID != want.UID || patch != inOrder(t, want.Patch) {
			t.Errorf("step %d: %s is answered %s, and alone %s", i, got.UID, got.Patch, want.Patch)
		}
		seen[patch] = true
	}
	if len(seen) < 6 {
		t.Errorf("only %d answers differ", len(seen))
	}
}

// BenchmarkInject answers reviews: of pods of one workload, and of the first pod of a workload each time.
func BenchmarkInject(b *testing.B) {
	config := testConfig(b)
	webhook := NewWebhook(func() *Config { return config }, func() bool { return true }, prometheus.NewRegistry())
	for name, pick := range map[string]func(i int) int{"again": func(int) int { return 0 }, "first": func(i int) int { return i }} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				answerTo(b, webhook, podReview("1", "n", fmt.Sprint("web-", pick(i))))
			}
		})
	}
}
