package conformance

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/slipway-mesh/slipway/test/envoytest"
	"github.com/slipway-mesh/slipway/test/kubetest"
	"github.com/slipway-mesh/slipway/test/nettest"
)

// pods are the workloads of a small mesh, and a host outside it.
type pods struct {
	network       *nettest.Network // where a test may have more; nil in most
	client, other *nettest.Pod     // callers with a sidecar; other is in another namespace and has no labels of the client's
	plain         *nettest.Pod     // a caller and server without a sidecar
	v1, v2        *nettest.Pod     // of reviews
	outside       *nettest.Pod
}

// proxyUser is who the proxy runs as: capture lets its connections pass.
const proxyUser = 1337

// The addresses of the Services. kube-proxy is not there: only Envoy leads from them to pods.
const reviewsIP, legacyIP, echoIP = "10.0.0.50", "10.0.0.51", "10.0.0.52"

// podNodes are the nodes that pods say they are on: each has one of its own name.
const podNodes = `apiVersion: v1
kind: Node
metadata: {name: client, labels: {topology.kubernetes.io/region: north, topology.kubernetes.io/zone: a}}
---
apiVersion: v1
kind: Node
metadata: {name: client-twin, labels: {topology.kubernetes.io/region: north, topology.kubernetes.io/zone: b}}
---
apiVersion: v1
kind: Node
metadata: {name: v1, labels: {topology.kubernetes.io/region: east, topology.kubernetes.io/zone: a}}
---
apiVersion: v1
kind: Node
metadata: {name: v2, labels: {topology.kubernetes.io/region: west, topology.kubernetes.io/zone: b}}
---
`

const podServices = `apiVersion: v1
kind: Namespace
metadata: {name: other}
---
` + podNodes + `apiVersion: v1
kind: Service
metadata: {name: echo}
spec:
  clusterIP: ` + echoIP + `
  selector: {app: reviews}
  ports: [{name: tcp, port: 80, targetPort: 9002}]
---
apiVersion: v1
kind: Service
metadata: {name: reviews}
spec:
  clusterIP: ` + reviewsIP + `
  selector: {app: reviews}
  ports:
  - {name: http, port: 80, targetPort: 8080}
  - {name: unnamed, port: 9001, targetPort: 8081}
  - {name: tcp-misnamed, port: 8082, targetPort: 8082, appProtocol: http}
  - {name: tcp-greeting, port: 9000, targetPort: 9000}
  - {name: unnamed-tcp, port: 9002, targetPort: 9002}
  - {name: tcp-echo, port: 9003, targetPort: 9002}
  - {name: https, port: 443, targetPort: 9443}
---
apiVersion: v1
kind: Service
metadata: {name: client}
spec:
  selector: {app: client}
  ports: [{name: http, port: 7070, targetPort: 7070}]
---
apiVersion: v1
kind: Service
metadata: {name: legacy}
spec:
  clusterIP: ` + legacyIP + `
  selector: {app: legacy}
  ports: [{name: http, port: 80, targetPort: 8080}, {name: https, port: 443, targetPort: 9443}, {name: tcp, port: 9100, targetPort: 9000}, {name: http-authz, port: 8007, targetPort: 9007}, {name: grpc-authz, port: 8011, targetPort: 9007}]
---
apiVersion: v1
kind: Service
metadata: {name: headless}
spec:
  clusterIP: None
  selector: {app: reviews}
  ports: [{name: http, port: 8080, targetPort: 8080}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec:
  host: reviews
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
`

// startPods brings up the workloads with real agents, real capture and real Envoys.
func startPods(t *testing.T) *mesh {
	t.Helper()
	m, network := startNetwork(t)
	m.backends = map[string]*backend{}
	m.pods = &pods{
		client: network.Pod(t, "client"), other: network.Pod(t, "other"), plain: network.Pod(t, "plain"),
		v1: network.Pod(t, "v1"), v2: network.Pod(t, "v2"), outside: network.Outside(t, "outside"),
	}
	for _, p := range []*nettest.Pod{m.pods.v1, m.pods.v2, m.pods.plain, m.pods.outside} {
		m.backends[p.Name] = serveAll(t, p)
	}
	m.register(t, m.pods.plain, "default", `{app: legacy, version: plain}`)
	m.injectWith(t, m.pods.client, "default", `{app: client, tier: front, topology.kubernetes.io/region: north, topology.kubernetes.io/zone: a}`, []string{"ENABLE_SELF_DISCOVERY=true"})
	m.inject(t, m.pods.other, "other", `{app: other}`, "-x", m.pods.outside.Address+"/32")
	m.inject(t, m.pods.v1, "default", `{app: reviews, version: v1}`)
	m.inject(t, m.pods.v2, "default", `{app: reviews, version: v2}`)
	m.endpoints(t, "reviews", m.pods.v1, m.pods.v2)
	m.endpoints(t, "headless", m.pods.v1, m.pods.v2)
	m.endpoints(t, "legacy", m.pods.plain)
	m.endpoints(t, "echo", m.pods.v1, m.pods.v2)
	m.endpoints(t, "client", m.pods.client, &nettest.Pod{Name: "client-twin", Address: "10.77.0.99"}) // which is in another zone
	for _, p := range []*nettest.Pod{m.pods.client, m.pods.other, m.pods.v1, m.pods.v2} {
		kubetest.Eventually(t, 30*time.Second, func() error {
			response, _, err := m.from(p, "127.0.0.1:15021", "localhost", "/healthz/ready")
			if err == nil && response.StatusCode != http.StatusOK {
				err = fmt.Errorf("%s is not ready: %s", p.Name, response.Status)
			}
			return err
		})
	}
	return m
}

// serveAll runs the application of a pod: HTTP on 8080 to 8082 and, over its own TLS, on 9443; a greeting on 9000; an
// echo on 9002.
func serveAll(t *testing.T, p *nettest.Pod) *backend {
	b := &backend{name: p.Name}
	for _, port := range []string{"8080", "8081", "8082"} {
		b.serve(t, p.Listen(t, "0.0.0.0:"+port))
	}
	b.serve(t, tls.NewListener(p.Listen(t, "0.0.0.0:9443"), serverTLS(t)))
	answerLines(p.Listen(t, "0.0.0.0:9000"), func(net.Conn) string { return p.Name })
	answerLines(p.Listen(t, "0.0.0.0:9002"), func(c net.Conn) string {
		line, _ := bufio.NewReader(c).ReadString('\n')
		return p.Name + " " + strings.TrimSpace(line)
	})
	first := func(c net.Conn) string { // what a connection begins with
		line, _ := bufio.NewReader(c).ReadString('\n')
		return strings.TrimSpace(line)
	}
	answerLines(p.Listen(t, "0.0.0.0:9005"), first)
	silent(p.Listen(t, "0.0.0.0:9008"))
	tunnels(p.Listen(t, "0.0.0.0:9006"))
	serveAuthz(p.Listen(t, "0.0.0.0:9007"))
	return b
}

// eachConnection serves the connections that come, each by itself, and closes them.
func eachConnection(listener net.Listener, serve func(net.Conn)) {
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return // the test is over
			}
			go func() {
				defer func() { _ = connection.Close() }()
				serve(connection)
			}()
		}
	}()
}

// silent takes connections and says nothing.
func silent(listener net.Listener) {
	eachConnection(listener, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
}

// tunnels answers requests for a tunnel with what it was asked for, inside the tunnel.
func tunnels(listener net.Listener) {
	server := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex() // the tunnel has two directions
		_, _ = fmt.Fprintln(w, r.Method, r.Host)
		_ = http.NewResponseController(w).Flush()
		_, _ = io.Copy(io.Discard, r.Body) // a tunnel is open until its caller closes it: Envoy 1.40 crashes otherwise
	})}
	go func() { _ = server.Serve(listener) }()
}

// answerLines writes one line to each connection.
func answerLines(listener net.Listener, line func(net.Conn) string) {
	eachConnection(listener, func(c net.Conn) { _, _ = fmt.Fprintln(c, line(c)) })
}

// register makes the Pod object of a pod.
func (m *mesh) register(t *testing.T, p *nettest.Pod, namespace, labels string) {
	t.Helper()
	m.kube.Apply(t, fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: %s, namespace: %s, labels: %s}\nspec:\n  serviceAccountName: %s\n  containers: [{name: app, image: app}]\n",
		p.Name, namespace, labels, p.Name))
	clients, err := kubernetes.NewForConfig(m.kube.Config)
	if err != nil {
		t.Fatal(err)
	}
	status, _ := json.Marshal(corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: p.Address, PodIPs: []corev1.PodIP{{IP: p.Address}}}})
	if _, err := clients.CoreV1().Pods(namespace).Patch(t.Context(), p.Name, types.MergePatchType, status, metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
}

// inject does for a pod what injection does: the capture rules, the certificate's token, the agent with Envoy.
func (m *mesh) inject(t *testing.T, p *nettest.Pod, namespace, labels string, redirect ...string) {
	t.Helper()
	m.injectWith(t, p, namespace, labels, nil, redirect...)
}

// injectWith adds to the environment of the agent.
func (m *mesh) injectWith(t *testing.T, p *nettest.Pod, namespace, labels string, more []string, redirect ...string) {
	t.Helper()
	m.register(t, p, namespace, strings.TrimSuffix(labels, "}")+", security.istio.io/tlsMode: istio}")
	agent := m.equip(t, p, namespace, labels)
	p.Run(t, strings.Join(append([]string{agent, "redirect", "-p", "15001", "-z", "15006", "-u", "1337", "-m", "REDIRECT", "-i", "*", "-b", "*", "-d", "15090,15021,15020"}, redirect...), " "))
	user := proxyUser
	if slices.Contains(more, transparentMode) {
		user = 0 // the template says so: only root may call from addresses that are not the pod's
	}
	p.StartAs(t, user, proxyUser, append(environmentOf(p, namespace), more...), agent, "proxy", "sidecar", "--domain", namespace+".svc.cluster.local", "--concurrency", "1")
}

// environmentOf is what injection tells the agent of a pod.
func environmentOf(p *nettest.Pod, namespace string) []string {
	return []string{
		"POD_NAME=" + p.Name, "POD_NAMESPACE=" + namespace, "INSTANCE_IP=" + p.Address, "SERVICE_ACCOUNT=" + p.Name, "ISTIO_META_NODE_NAME=" + p.Name, "ISTIO_META_WORKLOAD_NAME=" + p.Name, "ISTIO_META_NETWORK=home", "ENVOY_PATH=" + filepath.Join(p.Dir(), "envoy"),
	}
}

// transparentMode asks for TPROXY.
const transparentMode = "ISTIO_META_INTERCEPTION_MODE=TPROXY"

// startNetwork brings up a control plane and a network that pods can be put into, with the Services that they are of.
func startNetwork(t *testing.T, flags ...string) (*mesh, *nettest.Network) {
	t.Helper()
	m := startControlPlane(t, flags...)
	build(t, m.bin, "slipway-agent")
	network := nettest.New(t)
	m.kube.Apply(t, podServices)
	return m, network
}

// equip gives a pod what an agent needs: the programs, a token, the mesh's root, and a way to the control plane.
func (m *mesh) equip(t *testing.T, p *nettest.Pod, namespace, labels string) (agent string) {
	t.Helper()
	agent = filepath.Join(p.Dir(), "slipway-agent")
	copyFile(t, filepath.Join(m.bin, "slipway-agent"), agent)
	copyFile(t, envoytest.Binary(t), filepath.Join(p.Dir(), "envoy"))
	token, root := m.credentials(t, namespace, p.Name)
	p.Write(t, "/etc/hosts", "127.0.0.1 localhost istiod.istio-system.svc\n")
	p.Write(t, "/run/secrets/tokens/istio-token", token)
	p.Write(t, "/run/secrets/istio/root-cert.pem", root)
	p.Write(t, "/etc/istio/pod/labels", downward(labels))
	p.Write(t, "/etc/istio/pod/annotations", "sidecar.istio.io/statsInclusionPrefixes=\"cluster.outbound,cluster.inbound,vhost\"\n")
	p.Mkdir(t, "/etc/istio/proxy")
	p.Mkdir(t, "/run/secrets/workload-spiffe-uds")
	forward(p.Listen(t, "127.0.0.1:15012"), m.secure)
	return agent
}

// downward writes labels as the downward API's file has them.
func downward(labels string) string {
	var out strings.Builder
	for _, pair := range strings.Split(strings.Trim(labels, "{}"), ",") {
		name, value, _ := strings.Cut(pair, ":")
		fmt.Fprintf(&out, "%s=%q\n", strings.TrimSpace(name), strings.TrimSpace(value))
	}
	return out.String()
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	if out, err := exec.Command("install", "-m", "0755", from, to).CombinedOutput(); err != nil {
		t.Fatalf("copy %s: %v\n%s", from, err, out)
	}
}

// forward carries connections to an address outside the pod: the pods' network leads nowhere.
func forward(listener net.Listener, address string) {
	eachConnection(listener, func(inside net.Conn) {
		outside, err := net.Dial("tcp", address)
		if err != nil {
			return
		}
		defer func() { _ = outside.Close() }()
		go func() {
			_, _ = io.Copy(outside, inside)
			_ = outside.Close()
		}()
		_, _ = io.Copy(inside, outside)
	})
}

// endpoints writes the EndpointSlice of a Service, which no controller does here.
func (m *mesh) endpoints(t *testing.T, service string, behind ...*nettest.Pod) {
	t.Helper()
	var object corev1.Service
	if err := m.kube.Client.Get(t.Context(), types.NamespacedName{Namespace: "default", Name: service}, &object); err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	fmt.Fprintf(&text, "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: %s-1, labels: {kubernetes.io/service-name: %s}}\naddressType: IPv4\nports:\n", service, service)
	for _, port := range object.Spec.Ports {
		fmt.Fprintf(&text, "- {name: %s, port: %d}\n", port.Name, port.TargetPort.IntVal)
	}
	text.WriteString("endpoints:\n")
	for _, p := range behind {
		fmt.Fprintf(&text, "- {addresses: [%s], conditions: {ready: true}, nodeName: %s, targetRef: {kind: Pod, namespace: default, name: %s}}\n", p.Address, p.Name, p.Name)
	}
	m.kube.Apply(t, text.String())
}

// from sends a request from inside a pod to an address, on a connection of its own. What goes where nobody is, as before a rule is there, is
// given up soon.
func (m *mesh) from(p *nettest.Pod, address, host, path string, headers ...string) (*http.Response, answer, error) {
	return m.fromWithin(5*time.Second, p, address, host, path, headers...)
}

func (m *mesh) fromWithin(limit time.Duration, p *nettest.Pod, address, host, path string, headers ...string) (*http.Response, answer, error) {
	client := &http.Client{Timeout: limit, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return p.Dial(ctx, network, address)
	}}}
	return ask(client, "http://"+address+path, host, headers...)
}

// tcpFrom sends a line from inside a pod, unless it is empty, and returns the line that comes back.
func (m *mesh) tcpFrom(p *nettest.Pod, address, line string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	connection, err := p.Dial(ctx, "tcp", address)
	if err != nil {
		return "", err
	}
	defer func() { _ = connection.Close() }()
	return exchange(connection, line)
}

func exchange(connection net.Conn, line string) (string, error) {
	if err := connection.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return "", err
	}
	if line != "" {
		if _, err := fmt.Fprintln(connection, line); err != nil {
			return "", err
		}
	}
	back, err := bufio.NewReader(connection).ReadString('\n')
	return strings.TrimSpace(back), err
}
