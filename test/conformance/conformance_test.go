// Package conformance proves each traffic feature from outside: objects go to a real API server, slipwayd tells a real
// Envoy by way of the real agent, and real requests are routed as the configuration says. Each case also runs with its
// rule taken away, and must then fail.
package conformance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/slipway-mesh/slipway/internal/identity"
	"github.com/slipway-mesh/slipway/internal/sidecar/agent"
	"github.com/slipway-mesh/slipway/test/envoytest"
	"github.com/slipway-mesh/slipway/test/kubetest"
)

// mesh is a running control plane with one gateway proxy.
type mesh struct {
	kube     *kubetest.Server
	gateway  string // URL
	debug    string // of slipwayd
	secure   string // address of slipwayd's xDS over TLS
	plain    string // and of that in plain text
	metrics  string // URL of slipwayd's metrics
	hooks    string // address of its webhooks
	bin      string // folder of the programs that are tested
	base     string // objects that stand before and after each case
	backends map[string]*backend
	pods     *pods // nil where the test has gateways only
	// restart kills slipwayd, and starts it again at the same addresses.
	restart func()
}

// backend is an application of one version. It says who it is and what it got.
type backend struct {
	name  string
	port  int
	fail  atomic.Int64 // how many of the next requests fail with 503
	delay atomic.Int64 // in milliseconds
	hits  atomic.Int64
}

// answer is what a backend got.
type answer struct {
	Version, Path, Host string
	From                string // address of the caller
	Port                string // that answered
	ServerName          string // that the caller asked for, where the application itself ended TLS
	Client              string // DNS name in the certificate of the caller, where the application itself asked for one
	Headers             http.Header
	text                string // the answer where it is no application's
}

func newBackend(t testing.TB, name string) *backend {
	t.Helper()
	b := &backend{name: name}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b.port = listener.Addr().(*net.TCPAddr).Port
	b.serve(t, listener)
	return b
}

// serve answers requests on a listener until the test ends.
func (b *backend) serve(t testing.TB, listener net.Listener) {
	protocols := &http.Protocols{}
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{ReadHeaderTimeout: time.Second, Protocols: protocols, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.hits.Add(1)
		time.Sleep(time.Duration(b.delay.Load()) * time.Millisecond)
		if b.fail.Add(-1) >= 0 {
			http.Error(w, "told to fail", http.StatusServiceUnavailable)
			return
		}
		if r.URL.Path == "/grpc" { // as a service says that all is well before it has said anything
			w.Header().Set("Content-Type", "application/grpc")
			w.Header().Set("Grpc-Status", "0")
		}
		_ = json.NewEncoder(w).Encode(answer{Version: b.name, Path: r.URL.RequestURI(), Host: r.Host, From: r.RemoteAddr, Port: localPort(r), ServerName: serverName(r), Client: clientName(r), Headers: r.Header})
	})}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
}

func localPort(r *http.Request) string {
	address, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	_, port, _ := net.SplitHostPort(address.String())
	return port
}

func serverName(r *http.Request) string {
	if r.TLS == nil {
		return ""
	}
	return r.TLS.ServerName
}

func clientName(r *http.Request) string {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return ""
	}
	return r.TLS.PeerCertificates[0].DNSNames[0]
}

const gatewayPort = 18080

func services(backends map[string]*backend) string {
	endpoint := func(name string) string {
		return fmt.Sprintf("  - {address: 127.0.0.1, ports: {http: %d}, labels: {version: %s}}\n", backends[name].port, name)
	}
	return `apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: reviews}
spec:
  hosts: [reviews.test]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}]
  endpoints:
` + endpoint("v1") + endpoint("v2") + `---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec:
  host: reviews.test
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: gateway}
spec:
  selector: {istio: conformance}
  servers:
  - port: {number: ` + fmt.Sprint(gatewayPort) + `, name: http, protocol: HTTP}
    hosts: ["*"]
`
}

// start brings up the API server, slipwayd, and an agent with Envoy as a gateway.
func start(t *testing.T) *mesh {
	t.Helper()
	m := startControlPlane(t)
	m.gateway = fmt.Sprintf("http://127.0.0.1:%d", gatewayPort)
	m.backends = map[string]*backend{"v1": newBackend(t, "v1"), "v2": newBackend(t, "v2")}
	m.kube.Apply(t, services(m.backends))
	_, port, err := net.SplitHostPort(m.secure)
	if err != nil {
		t.Fatal(err)
	}
	m.startGateway(t, "localhost:"+port)
	return m
}

// startControlPlane brings up the API server and slipwayd, with more flags than it has by itself.
func startControlPlane(t *testing.T, flags ...string) *mesh {
	t.Helper()
	root := kubetest.Root(t)
	m := &mesh{kube: kubetest.Start(t), bin: t.TempDir()}
	crds, err := os.ReadFile(filepath.Join(root, "charts/base/crds/crd-all.gen.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	m.kube.Apply(t, string(crds))
	m.kube.Apply(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: istio-system}\n")
	m.configure(t)
	build(t, m.bin, "slipwayd")
	at := func() string { return fmt.Sprintf("127.0.0.1:%d", kubetest.FreePort(t)) }
	m.secure, m.plain = at(), at()
	monitoring := at()
	m.metrics = "http://" + monitoring + "/metrics"
	debug := at()
	m.hooks = at()
	run := func() (kill func()) {
		args := []string{"--kubeconfig", m.kube.Kubeconfig, "--grpcAddr", m.plain, "--secureGRPCAddr", m.secure, "--httpAddr", debug, "--monitoringAddr", monitoring, "--httpsAddr", m.hooks}
		return kubetest.Process(t, m.bin, "slipwayd", filepath.Join(m.bin, "slipwayd"), append(args, flags...)...)
	}
	kill := run()
	m.restart = func() {
		kill()
		kill = run()
	}
	m.debug = "http://" + debug
	kubetest.Eventually(t, 30*time.Second, func() error { return ok(m.debug + "/ready") })
	return m
}

// configure applies the ConfigMaps that an installation has, with settings of the IstioOperator's.
func (m *mesh) configure(t *testing.T, settings ...string) {
	t.Helper()
	args := []string{"run", filepath.Join(kubetest.Root(t), "cmd/slipway"), "manifest", "generate", "--set", "profile=minimal"}
	for _, s := range settings {
		args = append(args, "--set", s)
	}
	rendered, err := exec.Command("go", args...).Output()
	if err != nil {
		t.Fatalf("slipway manifest generate: %v", err)
	}
	for _, object := range kubetest.Objects(t, string(rendered)) {
		if object.GetKind() == "ConfigMap" {
			text, _ := json.Marshal(object.Object)
			m.kube.Apply(t, string(text))
		}
	}
}

// build puts a program of ours into a folder, as the images have it.
func build(t *testing.T, dir, program string) {
	t.Helper()
	build := exec.Command("go", "build", "-tags", "grpcnotrace", "-o", filepath.Join(dir, program), "./cmd/"+program)
	build.Dir, build.Env = kubetest.Root(t), append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", program, err, out)
	}
}

// credentials makes a service account and returns a token of its for the mesh, and the mesh's root certificate.
func (m *mesh) credentials(t *testing.T, namespace, account string) (token, root string) {
	t.Helper()
	clients, err := kubernetes.NewForConfig(m.kube.Config)
	if err != nil {
		t.Fatal(err)
	}
	m.kube.Apply(t, fmt.Sprintf("apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: %s, namespace: %s}\n", account, namespace))
	request := &authv1.TokenRequest{Spec: authv1.TokenRequestSpec{Audiences: []string{identity.Audience}}}
	answer, err := clients.CoreV1().ServiceAccounts(namespace).CreateToken(t.Context(), account, request, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	kubetest.Eventually(t, 20*time.Second, func() error {
		configMap, err := clients.CoreV1().ConfigMaps(namespace).Get(t.Context(), "istio-ca-root-cert", metav1.GetOptions{})
		if err == nil {
			root = configMap.Data["root-cert.pem"]
		}
		return err
	})
	return answer.Status.Token, root
}

func ok(url string) error {
	response, err := http.Get(url) //nolint:gosec // a test's own server
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(response.Body)
		return fmt.Errorf("%s: %s", response.Status, body)
	}
	return nil
}

// startGateway runs the agent with the token of a real service account.
func (m *mesh) startGateway(t *testing.T, discovery string) {
	dir := t.TempDir()
	token, root := m.credentials(t, "default", "gateway")
	for name, text := range map[string]string{"token": token, "root.pem": root, "labels": "istio=\"conformance\"\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- agent.Run(ctx, agent.Options{
			Kind: "router", Domain: "default.svc.cluster.local", ConfigDir: filepath.Join(dir, "proxy"), SDSSocket: filepath.Join(dir, "sds"),
			TokenFile: filepath.Join(dir, "token"), RootFile: filepath.Join(dir, "root.pem"), Discovery: discovery, CA: discovery, Envoy: envoytest.Binary(t),
			Concurrency: 1, LogLevel: "warning", ComponentLogLevel: "misc:error", StatusPort: 15020, TerminationDrain: 100 * time.Millisecond, PodInfo: dir,
			ID:          identity.ID{TrustDomain: "cluster.local", Namespace: "default", Account: "gateway"},
			Environment: map[string]string{"POD_NAME": "gateway", "POD_NAMESPACE": "default", "INSTANCE_IP": "127.0.0.1", "SERVICE_ACCOUNT": "gateway"},
		})
	}()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("the agent ended: %v", err)
		}
	})
	kubetest.Eventually(t, 30*time.Second, func() error { return ok("http://127.0.0.1:15021/healthz/ready") })
}

// get asks the gateway for a path of a host.
func (m *mesh) get(host, path string, headers ...string) (*http.Response, answer, error) {
	return ask(&http.Client{Timeout: 10 * time.Second}, m.gateway+path, host, headers...)
}

// ask sends a request and reads what the backend says it got. Redirects are not followed.
func ask(client *http.Client, url, host string, headers ...string) (*http.Response, answer, error) {
	request, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return nil, answer{}, err
	}
	request.Host = host
	for i := 0; i+1 < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	response, err := client.Do(request)
	if err != nil {
		return nil, answer{}, err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	var got answer
	if json.Unmarshal(body, &got) != nil || got.Version == "" {
		got.text = string(body)
	}
	return response, got, err
}

// rejections lists what the proxies refused.
func (m *mesh) rejections(t *testing.T) {
	t.Helper()
	for _, p := range m.connected(t) {
		for name, state := range p.Types {
			if state.Rejected > 0 {
				t.Errorf("%s rejected %s: %s", p.ID, name, state.Error)
			}
		}
	}
}

// connectedProxy is what slipwayd says of one.
type connectedProxy struct {
	ID    string
	Types map[string]struct {
		Rejected int
		Error    string
	}
}

func (m *mesh) connected(t *testing.T) []connectedProxy {
	t.Helper()
	response, err := http.Get(m.debug + "/debug/syncz")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	var proxies []connectedProxy
	if err := json.NewDecoder(response.Body).Decode(&proxies); err != nil || len(proxies) == 0 {
		t.Fatalf("syncz: %v, %d proxies", err, len(proxies))
	}
	return proxies
}

// virtualService is one for reviews.test on the gateway, with the rules given.
func virtualService(rules string) string {
	return "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: case}\nspec:\n  hosts: [reviews.test]\n  gateways: [gateway]\n  http:\n" +
		"  " + strings.ReplaceAll(strings.TrimSpace(rules), "\n", "\n  ") + "\n"
}
