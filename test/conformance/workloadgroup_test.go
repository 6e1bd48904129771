package conformance

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/slipway-mesh/slipway/test/kubetest"
	"github.com/slipway-mesh/slipway/test/nettest"
)

const machineIP = "10.0.0.61"

const machineService = `apiVersion: v1
kind: Service
metadata: {name: machine}
spec: {clusterIP: ` + machineIP + `, selector: {app: machine}, ports: [{name: http, port: 80, targetPort: 8080}]}
`

// workloadGroup is one with labels by which the Service above finds its workloads.
func workloadGroup(spec string) string {
	return "apiVersion: networking.istio.io/v1\nkind: WorkloadGroup\nmetadata: {name: machine, namespace: default}\nspec: " + spec + "\n"
}

// joined is a workload outside Kubernetes, with an agent that was configured by the command for it.
type joined struct {
	pod  *nettest.Pod
	stop func()
}

// join configures a machine as a workload of the group, and starts its agent. env goes before what the command writes.
func (m *mesh) join(t *testing.T, p *nettest.Pod, group string, env ...string) *joined {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "group.yaml")
	if err := os.WriteFile(file, []byte(group), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(filepath.Join(m.bin, "slipway"), "--kubeconfig", m.kube.Kubeconfig, "x", "workload", "entry", "configure", "-f", file, "-o", dir, "--autoregister", "--internalIP", p.Address).CombinedOutput()
	if err != nil {
		t.Fatalf("slipway x workload entry configure: %v\n%s", err, out)
	}
	for from, to := range map[string]string{"istio-token": "/run/secrets/tokens/istio-token", "root-cert.pem": "/run/secrets/istio/root-cert.pem", "mesh.yaml": "/etc/istio/config/mesh"} {
		text, err := os.ReadFile(filepath.Join(dir, from))
		if err != nil {
			t.Fatal(err)
		}
		p.Write(t, to, string(text))
	}
	text, err := os.ReadFile(filepath.Join(dir, "cluster.env"))
	if err != nil {
		t.Fatal(err)
	}
	environment := []string{"POD_NAME=machine", "ENVOY_PATH=" + filepath.Join(p.Dir(), "envoy")}
	for _, line := range strings.Split(string(text), "\n") {
		if name, value, ok := strings.Cut(line, "="); ok && !strings.HasPrefix(line, "#") {
			environment = append(environment, name+"="+strings.Trim(value, "'"))
		}
	}
	stop := p.Start(t, proxyUser, append(environment, env...), filepath.Join(p.Dir(), "slipway-agent"), "proxy", "sidecar", "--concurrency", "1")
	return &joined{p, stop}
}

// entry is the WorkloadEntry of the machine; nil if there is none.
func (m *mesh) entry(t *testing.T, p *nettest.Pod) *unstructured.Unstructured {
	object := &unstructured.Unstructured{}
	object.SetAPIVersion("networking.istio.io/v1")
	object.SetKind("WorkloadEntry")
	if err := m.kube.Client.Get(t.Context(), types.NamespacedName{Namespace: "default", Name: "machine-" + p.Address}, object); err != nil {
		return nil
	}
	return object
}

// TestWorkloadGroup: a machine outside Kubernetes joins the mesh, is called, tells of its health, and is forgotten when it goes.
func TestWorkloadGroup(t *testing.T) {
	t.Setenv("PILOT_WORKLOAD_ENTRY_GRACE_PERIOD", "500ms")
	m := startControlPlane(t)
	build(t, m.bin, "slipway-agent")
	build(t, m.bin, "slipway")
	network := nettest.New(t)
	m.kube.Apply(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: other}\n---\n"+machineService)
	client, vm := network.Pod(t, "client"), network.Pod(t, "machine")
	m.pods = &pods{client: client, plain: vm}
	m.backends = map[string]*backend{"machine": serveAll(t, vm)}
	m.inject(t, client, "default", "{app: client}")
	m.equip(t, vm, "default", "{}")
	vm.Write(t, "/etc/istio/pod/labels", "")
	vm.Run(t, filepath.Join(vm.Dir(), "slipway-agent")+" redirect -p 15001 -z 15006 -u 1337 -m REDIRECT -i * -b * -d 15090,15021,15020")
	m.base = workloadGroup("{metadata: {labels: {app: machine}}, template: {serviceAccount: machine}}")
	m.kube.Apply(t, m.base)
	called := served("machine", machineIP+":80", "machine", "/")
	one := m.join(t, vm, m.base, "ISTIO_METAJSON_LABELS={}")
	kubetest.Eventually(t, 30*time.Second, func() error { return called(m) })
	m.prove(t, groupFeatures(t, vm, called))
	t.Run("a machine that goes is forgotten", func(t *testing.T) {
		one.stop()
		kubetest.Eventually(t, 15*time.Second, func() error { return expect(m.entry(t, vm) == nil, "its entry is still there") })
	})
	m.probes(t, vm, called)
	m.rejections(t)
}

func groupFeatures(t *testing.T, vm *nettest.Pod, called func(*mesh) error) []feature {
	says := func(want string, path ...string) func(*mesh) error {
		return func(m *mesh) error {
			object := m.entry(t, vm)
			if object == nil {
				return fmt.Errorf("there is no entry")
			}
			got, _, err := unstructured.NestedFieldNoCopy(object.Object, path...)
			return orErr(err, expect(fmt.Sprint(got) == want, "%v is %v", path, got))
		}
	}
	const account = "serviceAccount: machine"
	with := func(template string) string {
		return workloadGroup("{metadata: {labels: {app: machine}}, template: {serviceAccount: machine" + template + "}}")
	}
	return []feature{
		{name: "WorkloadGroup metadata.labels", proves: "WorkloadGroup.metadata.labels", with: with(""), without: workloadGroup("{metadata: {labels: {app: none}}, template: {" + account + "}}"), check: called},
		{name: "WorkloadGroup template.labels", proves: "WorkloadGroup.template.labels", with: workloadGroup("{template: {" + account + ", labels: {app: machine}}}"), without: workloadGroup("{template: {" + account + ", labels: {app: none}}}"), check: called},
		{name: "WorkloadGroup metadata.annotations", proves: "WorkloadGroup.metadata.annotations", with: workloadGroup("{metadata: {labels: {app: machine}, annotations: {own: one}}, template: {" + account + "}}"), without: with(""), check: says("one", "metadata", "annotations", "own")},
		{name: "WorkloadGroup template.ports", proves: "WorkloadGroup.template.ports", with: with(", ports: {http: 8081}"), without: with(""), check: func(m *mesh) error {
			_, got, err := m.from(m.pods.client, machineIP+":80", "machine", "/")
			return orErr(err, expect(got.Port == "8081", "port %q answers", got.Port))
		}},
		{name: "WorkloadGroup template.network", proves: "WorkloadGroup.template.network", with: with(", network: far"), without: with(""), check: says("far", "spec", "network")},
		{name: "WorkloadGroup template.locality", proves: "WorkloadGroup.template.locality", with: with(", locality: north/a"), without: with(""), check: says("north/a", "spec", "locality")},
		{name: "WorkloadGroup template.weight", proves: "WorkloadGroup.template.weight", with: with(", weight: 7"), without: with(""), check: says("7", "spec", "weight")},
		{name: "WorkloadGroup template.serviceAccount", proves: "WorkloadGroup.template.serviceAccount", with: workloadGroup("{metadata: {labels: {app: machine}, annotations: {own: two}}, template: {serviceAccount: machine}}"),
			without: workloadGroup("{metadata: {labels: {app: machine}, annotations: {own: three}}, template: {serviceAccount: somebody}}"), check: func(m *mesh) error {
				return expect(says("two", "metadata", "annotations", "own")(m) == nil && called(m) == nil, "it is not taken in")
			}},
	}
}

// probes runs a machine for each way in which it may be asked for its health: one that is well, and one that is not.
func (m *mesh) probes(t *testing.T, vm *nettest.Pod, called func(*mesh) error) {
	answer := vm.Listen(t, "0.0.0.0:8085")
	server := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/well" || r.Header.Get("x-probe") != "yes" {
			http.Error(w, "not well", http.StatusServiceUnavailable)
		}
	})}
	go func() { _ = server.Serve(answer) }()
	t.Cleanup(func() { _ = server.Close() })
	m.healthService(t, vm.Listen(t, "0.0.0.0:8086"))
	const every = "periodSeconds: 1, failureThreshold: 1, "
	web := func(port, path, header, more string) string {
		return every + "httpGet: {port: " + port + ", path: " + path + ", httpHeaders: [{name: x-probe, value: \"" + header + "\"}]" + more + "}"
	}
	for _, p := range []struct{ name, proves, well, ill string }{
		{"httpGet", "httpGet.port httpGet.path httpGet.httpHeaders.name httpGet.httpHeaders.value", web("8085", "/well", "yes", ""), web("8085", "/ill", "yes", "")},
		{"httpGet header", "httpGet.httpHeaders.value", web("8085", "/well", "yes", ""), web("8085", "/well", "no", "")},
		{"httpGet host", "httpGet.host", web("8085", "/well", "yes", ", host: 127.0.0.1"), web("8085", "/well", "yes", ", host: 127.0.0.77.nowhere.test")},
		{"httpGet scheme", "httpGet.scheme", every + "httpGet: {port: 9443, path: /, scheme: HTTPS}", every + "httpGet: {port: 8085, path: /well, scheme: HTTPS}"},
		{"tcpSocket", "tcpSocket.port", every + "tcpSocket: {port: 9002}", every + "tcpSocket: {port: 9}"},
		{"tcpSocket host", "tcpSocket.host", every + "tcpSocket: {port: 9002, host: 127.0.0.1}", every + "tcpSocket: {port: 9002, host: nowhere.test}"},
		{"exec", "exec.command", every + "exec: {command: [/bin/true]}", every + "exec: {command: [/bin/false]}"},
		{"grpc", "grpc.port", every + "grpc: {port: 8086}", every + "grpc: {port: 9}"},
		{"grpc service", "grpc.service", every + "grpc: {port: 8086, service: well}", every + "grpc: {port: 8086, service: ill}"},
		{"initialDelaySeconds", "initialDelaySeconds", every + "initialDelaySeconds: 1, tcpSocket: {port: 9002}", every + "initialDelaySeconds: 600, tcpSocket: {port: 9002}"},
		{"periodSeconds", "periodSeconds", "periodSeconds: 1, successThreshold: 3, tcpSocket: {port: 9002}", "periodSeconds: 600, successThreshold: 3, tcpSocket: {port: 9002}"},
		{"successThreshold", "successThreshold", every + "tcpSocket: {port: 9002}", every + "successThreshold: 600, tcpSocket: {port: 9002}"},
		{"timeoutSeconds", "timeoutSeconds", every + "timeoutSeconds: 3, exec: {command: [/bin/sleep, \"1.5\"]}", every + "timeoutSeconds: 1, exec: {command: [/bin/sleep, \"1.5\"]}"},
	} {
		f := feature{name: "WorkloadGroup probe " + p.name}
		for _, field := range strings.Fields(p.proves) {
			f.proves += "WorkloadGroup.probe." + field + " "
		}
		if field := f.unknown(); field != "" {
			t.Fatalf("%s says that it proves %s, which is no field", f.name, field)
		}
		t.Run(f.name, func(t *testing.T) {
			m.withProbe(t, vm, p.well, func() { kubetest.Eventually(t, 20*time.Second, func() error { return called(m) }) })
			m.withProbe(t, vm, p.ill, func() {
				kubetest.Eventually(t, 20*time.Second, func() error { return expect(m.entry(t, vm) != nil, "it has not joined") })
				time.Sleep(3 * time.Second) // it would have been well by now
				if called(m) == nil {
					t.Error("it is called")
				}
			})
			f.passed()
		})
	}
	t.Run("WorkloadGroup probe failureThreshold", func(t *testing.T) {
		f := feature{name: "WorkloadGroup probe failureThreshold", proves: "WorkloadGroup.probe.failureThreshold"}
		for _, c := range []struct {
			threshold int
			kept      bool
		}{{600, true}, {1, false}} {
			vm.Write(t, "/run/well", "")
			probe := fmt.Sprintf("periodSeconds: 1, failureThreshold: %d, exec: {command: [/bin/sh, -c, \"test -e /run/well\"]}", c.threshold)
			m.withProbe(t, vm, probe, func() {
				kubetest.Eventually(t, 20*time.Second, func() error { return called(m) })
				vm.Run(t, "rm /run/well")
				time.Sleep(3 * time.Second)
				if got := called(m) == nil; got != c.kept {
					t.Errorf("with a threshold of %d it is called: %t", c.threshold, got)
				}
			})
		}
		f.passed()
	})
}

// withProbe runs the machine's agent with a probe for a while.
func (m *mesh) withProbe(t *testing.T, vm *nettest.Pod, probe string, while func()) {
	t.Helper()
	group := workloadGroup("{metadata: {labels: {app: machine}}, template: {serviceAccount: machine}, probe: {" + probe + "}}")
	m.kube.Apply(t, group)
	one := m.join(t, vm, group)
	defer func() {
		one.stop()
		kubetest.Eventually(t, 15*time.Second, func() error { return expect(m.entry(t, vm) == nil, "its entry is still there") })
	}()
	while()
}

// healthService speaks gRPC's health protocol: one service is well, another is not.
func (m *mesh) healthService(t *testing.T, listener net.Listener) {
	server := grpc.NewServer()
	states := health.NewServer()
	states.SetServingStatus("well", healthv1.HealthCheckResponse_SERVING)
	states.SetServingStatus("ill", healthv1.HealthCheckResponse_NOT_SERVING)
	healthv1.RegisterHealthServer(server, states)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
}
