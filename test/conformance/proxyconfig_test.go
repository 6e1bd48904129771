package conformance

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/slipway-mesh/slipway/test/kubetest"
	"github.com/slipway-mesh/slipway/test/nettest"
)

const edgeGateway = `apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge}
spec: {selector: {istio: edge}, servers: [{port: {number: 8090, name: http, protocol: HTTP}, hosts: ['*']}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: edge}
spec: {hosts: ['*'], gateways: [edge], http: [{match: [{uri: {exact: /v2}}], route: [{destination: {host: reviews, subset: v2, port: {number: 80}}}]},
  {rewrite: {authority: other.test}, route: [{destination: {host: reviews, subset: v1, port: {number: 80}}}]}]}
`

// literally answers requests with their headers as they were written, and one of its own.
func literally(listener net.Listener) {
	eachConnection(listener, func(c net.Conn) {
		got, reader := "", bufio.NewReader(c)
		for !strings.HasSuffix(got, "\r\n\r\n") {
			line, err := reader.ReadString('\n')
			if err != nil {
				return
			}
			got += line
		}
		_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nX-aNsWeR: yes\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(got), got)
	})
}

// exchangedLiterally sends a request from a pod and returns what comes back, as it is written.
func exchangedLiterally(t *testing.T, from *nettest.Pod, address, request string) (string, error) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	c, err := from.Dial(ctx, "tcp", address)
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.WriteString(c, request); err != nil {
		return "", err
	}
	got, err := io.ReadAll(c)
	return string(got), err
}

// TestProxyConfig: what a proxy's own ProxyConfig says is followed by it and by no other: how many proxies before a gateway are believed,
// the PROXY protocol, and what sidecars add to requests and answers. ProxyConfig objects reach the pods that they are for.
func TestProxyConfig(t *testing.T) {
	t.Parallel() // its ports are its own
	m, network := startNetwork(t)
	m.pods = &pods{v1: network.Pod(t, "v1"), v2: network.Pod(t, "v2"), outside: network.Pod(t, "outside")}
	m.backends = map[string]*backend{"v1": serveAll(t, m.pods.v1), "v2": serveAll(t, m.pods.v2)}
	m.injectWith(t, m.pods.v1, "default", `{app: reviews, version: v1}`, []string{`PROXY_CONFIG={"proxyHeaders":{"server":{"value":"mine"},"requestId":{"disabled":true},"forwardedClientCert":"ALWAYS_FORWARD_ONLY","preserveHttp1HeaderCase":true,"envoyDebugHeaders":{"disabled":true}}}`})
	m.injectWith(t, m.pods.v2, "default", `{app: reviews, version: v2}`, []string{`PROXY_CONFIG={"proxyHeaders":{"setCurrentClientCertDetails":{"cert":true,"subject":false}}}`})
	m.endpoints(t, "reviews", m.pods.v1, m.pods.v2)
	edge := func(name, config string) *nettest.Pod {
		p := network.Pod(t, name)
		m.startEdge(t, p, "PROXY_CONFIG="+config)
		return p
	}
	literally(m.pods.v1.Listen(t, "0.0.0.0:9010"))
	literally(m.pods.v2.Listen(t, "0.0.0.0:9010"))
	quiet := edge("quiet", `{"proxyHeaders":{"attemptCount":{"disabled":true},"xForwardedHost":{"enabled":true},"xForwardedPort":{"enabled":true}}}`)
	plain, behind, told := edge("plain-edge", "{}"), edge("behind", `{"gatewayTopology":{"numTrustedProxies":1}}`), edge("told", `{"gatewayTopology":{"proxyProtocol":{}}}`)
	m.kube.Apply(t, edgeGateway)
	outside := m.pods.outside
	through := func(p *nettest.Pod, want string) func() error {
		return func() error {
			response, got, err := m.from(outside, fmt.Sprintf("%s:%d", p.Address, edgePort), "reviews.test", "/", "X-Forwarded-For", "9.9.9.9")
			if err != nil {
				return err
			}
			seen := got.Headers.Get("X-Envoy-External-Address")
			return expect(seen == want, "%s: answered %s; the caller is %q, not %q", p.Name, response.Status, seen, want)
		}
	}
	carried := func(p *nettest.Pod, attempts, host, port string) func() error {
		return func() error {
			_, got, err := m.from(outside, fmt.Sprintf("%s:%d", p.Address, edgePort), "reviews.test", "/")
			return orErr(err, expect(got.Host == "other.test" && got.Headers.Get("X-Envoy-Attempt-Count") == attempts && got.Headers.Get("X-Forwarded-Host") == host && got.Headers.Get("X-Forwarded-Port") == port, "%s: %s saw %v", p.Name, got.Host, got.Headers))
		}
	}
	literal := func(p *nettest.Pod, asked, answered string) func() error {
		return func() error {
			got, err := exchangedLiterally(t, outside, p.Address+":9010", "GET / HTTP/1.1\r\nHost: reviews\r\nX-mIxEd: yes\r\nConnection: close\r\n\r\n")
			return orErr(err, expect(strings.Contains(got, "\n"+asked+": yes") && strings.Contains(got, "\n"+answered+": yes"), "%s: the application is asked and answers: %s", p.Name, got))
		}
	}
	direct := func(p *nettest.Pod, check func(response *http.Response, got answer) error) func() error {
		return func() error {
			response, got, err := m.from(outside, p.Address+":8080", "reviews", "/", "X-Forwarded-Client-Cert", "Hash=forged")
			if err != nil {
				return err
			}
			return check(response, got)
		}
	}
	for name, check := range map[string]func() error{
		"a proxy before the gateway is believed": through(behind, "9.9.9.9"),
		"and otherwise nobody is":                through(plain, outside.Address),
		"the PROXY protocol": func() error {
			text, err := exchangedLiterally(t, outside, fmt.Sprintf("%s:%d", told.Address, edgePort), "PROXY TCP4 8.8.4.4 10.0.0.1 4711 80\r\nGET / HTTP/1.1\r\nHost: reviews.test\r\nConnection: close\r\n\r\n")
			if err != nil {
				return err
			}
			response, err := http.ReadResponse(bufio.NewReader(strings.NewReader(text)), nil)
			if err != nil {
				return err
			}
			defer func() { _ = response.Body.Close() }()
			var got answer
			if err := json.NewDecoder(response.Body).Decode(&got); err != nil {
				return err
			}
			return expect(strings.HasPrefix(got.Headers.Get("X-Forwarded-For"), "8.8.4.4"), "the caller is %q", got.Headers.Get("X-Forwarded-For"))
		},
		"routes that tell other headers":     carried(quiet, "", "reviews.test", strconv.Itoa(edgePort)),
		"and otherwise those that Istio has": carried(plain, "1", "", ""),
		"what is told of a caller's certificate": func() error {
			_, got, err := m.from(outside, fmt.Sprintf("%s:%d", plain.Address, edgePort), "reviews.test", "/v2")
			seen := got.Headers.Get("X-Forwarded-Client-Cert")
			return orErr(err, expect(strings.Contains(seen, ";Cert=") && !strings.Contains(seen, ";Subject=") && strings.Contains(seen, ";URI="), "%s saw %q", got.Version, seen))
		},
		"headers that keep their case":       literal(m.pods.v1, "X-mIxEd", "X-aNsWeR"),
		"and that do not, as nobody says so": literal(m.pods.v2, "x-mixed", "x-answer"),
		"headers of one": direct(m.pods.v1, func(response *http.Response, got answer) error {
			return expect(response.Header.Get("Server") == "mine" && response.Header.Get("X-Envoy-Upstream-Service-Time") == "" && got.Headers.Get("X-Request-Id") == "" && got.Headers.Get("X-Forwarded-Client-Cert") == "Hash=forged",
				"the answer's headers are %v, the request's %v", response.Header, got.Headers)
		}),
		"headers of another": direct(m.pods.v2, func(response *http.Response, got answer) error {
			return expect(response.Header.Get("Server") == "istio-envoy" && response.Header.Get("X-Envoy-Upstream-Service-Time") != "" && got.Headers.Get("X-Request-Id") != "" && got.Headers.Get("X-Forwarded-Client-Cert") == "",
				"the answer's headers are %v, the request's %v", response.Header, got.Headers)
		}),
	} {
		t.Run(name, func(t *testing.T) { kubetest.Eventually(t, 30*time.Second, check) })
	}
	t.Run("objects", func(t *testing.T) {
		const object = "apiVersion: networking.istio.io/v1beta1\nkind: ProxyConfig\nmetadata: {name: case}\nspec: {selector: {matchLabels: {app: web}}, concurrency: 3, environmentVariables: {FROM_OBJECT: \"yes\"}}\n"
		m.kube.Apply(t, object)
		kubetest.Eventually(t, 10*time.Second, func() error {
			patch, err := m.review("web")
			return orErr(err, expect(strings.Contains(patch, "FROM_OBJECT") && strings.Contains(patch, `"--concurrency","3"`), "the patch is %s", patch))
		})
		patch, err := m.review("other")
		if err != nil || strings.Contains(patch, "FROM_OBJECT") {
			t.Errorf("another pod's patch is %s (%v)", patch, err)
		}
		m.kube.Delete(t, object)
		kubetest.Eventually(t, 10*time.Second, func() error {
			patch, err := m.review("web")
			return orErr(err, expect(!strings.Contains(patch, "FROM_OBJECT"), "the object is gone, and the patch is %s", patch))
		})
	})
	injects := func(want string) func(*mesh) error {
		return func(m *mesh) error {
			patch, err := m.review("web")
			return orErr(err, expect(strings.Contains(patch, want), "the patch is %s", patch))
		}
	}
	m.base = meshConfig("{}")
	m.prove(t, []feature{
		{name: "MeshConfig defaultConfig", proves: "MeshConfig.defaultConfig", with: meshConfig("{defaultConfig: {concurrency: 5}}"), without: meshConfig("{}"), check: injects(`"--concurrency","5"`)},
		{name: "MeshConfig enablePrometheusMerge", proves: "MeshConfig.enablePrometheusMerge", with: meshConfig("{}"), without: meshConfig("{enablePrometheusMerge: false}"), check: injects("/stats/prometheus")},
	})
	t.Run("EnvoyFilter BOOTSTRAP", func(t *testing.T) {
		m.kube.Apply(t, envoyFilter("workloadSelector: {labels: {app: patched}}\nconfigPatches: [{applyTo: BOOTSTRAP, patch: {operation: MERGE, value: {stats_flush_interval: 17s, node: {metadata: {added: true}}}}}]"))
		for name, want := range map[string]bool{"patched": true, "unasked": false} {
			p := network.Pod(t, name)
			environment := []string{"BOOTSTRAP_XDS_AGENT=true"}
			if !want {
				environment = nil
			}
			m.injectWith(t, p, "default", "{app: patched}", environment)
			kubetest.Eventually(t, 30*time.Second, func() error {
				response, got, err := m.from(p, "127.0.0.1:15000", "localhost", "/config_dump")
				if err != nil {
					return err
				}
				has := strings.Contains(got.text, `"stats_flush_interval": "17s"`)
				return expect(has == want && strings.Contains(got.text, "15000"), "%s: answered %s; the interval is there: %t", name, response.Status, has)
			})
		}
		feature{name: "EnvoyFilter BOOTSTRAP", proves: "EnvoyFilter.configPatches.applyTo"}.passed()
	})
	t.Run("discoverySelectors follow a namespace's labels", func(t *testing.T) {
		namespace := func(mesh string) {
			m.kube.Apply(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: default, labels: {mesh: "+mesh+"}}\n")
		}
		namespace("out")
		m.kube.Apply(t, meshConfig("{discoverySelectors: [{matchLabels: {mesh: in}}]}"))
		for _, mesh := range []string{"out", "in", "out", "in"} {
			namespace(mesh)
			kubetest.Eventually(t, 20*time.Second, func() error {
				err := through(plain, outside.Address)()
				return expect((err == nil) == (mesh == "in"), "namespace %s: the gateway is called with %v", mesh, err)
			})
		}
	})
	m.rejections(t)
}

// review asks the webhook for the patch of an application's pod.
func (m *mesh) review(app string) (patch string, err error) {
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} //nolint:gosec // whose certificate it is, is not asked here
	review := fmt.Sprintf(`{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{"uid":"1","namespace":"default","object":{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","labels":{"app":%q,"sidecar.istio.io/inject":"true"}},"spec":{"containers":[{"name":"app","image":"app"}]}}}}`, app)
	response, err := client.Post("https://"+m.hooks+"/inject", "application/json", strings.NewReader(review))
	if err != nil {
		return "", err
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return "", err
	}
	var got struct{ Response struct{ Patch string } }
	if err := json.Unmarshal(text, &got); err != nil {
		return "", err
	}
	decoded, err := base64.StdEncoding.DecodeString(got.Response.Patch)
	if err == nil && len(decoded) == 0 {
		err = fmt.Errorf("nothing is injected: %s", text)
	}
	return string(decoded), err
}

// TestCompliance: under a policy the control plane, its agents and the proxies between them speak as it says, and with nobody else.
func TestCompliance(t *testing.T) {
	t.Setenv("COMPLIANCE_POLICY", "fips-140-2")
	m, network := startNetwork(t)
	m.pods = &pods{client: network.Pod(t, "client"), v1: network.Pod(t, "v1"), plain: network.Pod(t, "plain")}
	m.backends = map[string]*backend{"v1": serveAll(t, m.pods.v1)}
	for _, p := range []*nettest.Pod{m.pods.client, m.pods.v1} {
		labels := map[string]string{"client": `{app: client}`, "v1": `{app: reviews, version: v1}`}[p.Name]
		m.injectWith(t, p, "default", labels, []string{"COMPLIANCE_POLICY=fips-140-2"})
	}
	m.endpoints(t, "reviews", m.pods.v1)
	m.kube.Apply(t, peerAuthentication("{mtls: {mode: STRICT}}"))
	kubetest.Eventually(t, 30*time.Second, func() error { return servedFrom(m, m.pods.client, "v1", reviewsIP+":80", "reviews", "/") })
	inPod := func(config *tls.Config) error {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		c, err := m.pods.plain.Dial(ctx, "tcp", m.pods.v1.Address+":8080")
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		return tls.Client(c, config).HandshakeContext(ctx)
	}
	toPlane := func(config *tls.Config) error {
		c, err := tls.Dial("tcp", m.secure, config)
		if err == nil {
			_ = c.Close()
		}
		return err
	}
	for name, dial := range map[string]func(*tls.Config) error{"a sidecar": inPod, "the control plane": toPlane} {
		// A caller without a certificate is turned away once both have agreed on how to speak, when the server has shown its own.
		agrees := func(config *tls.Config) (agreed bool, err error) {
			config.InsecureSkipVerify = true
			config.VerifyPeerCertificate = func([][]byte, [][]*x509.Certificate) error { agreed = true; return nil }
			err = dial(config)
			return agreed, err
		}
		if agreed, err := agrees(&tls.Config{MaxVersion: tls.VersionTLS12}); !agreed {
			t.Errorf("%s does not speak what the policy allows: %v", name, err)
		}
		for what, config := range map[string]*tls.Config{
			"TLS 1.3":        {MinVersion: tls.VersionTLS13},
			"another cipher": {MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256}},
			"another curve":  {MaxVersion: tls.VersionTLS12, CurvePreferences: []tls.CurveID{tls.X25519}},
		} {
			if agreed, err := agrees(config); agreed || err == nil {
				t.Errorf("%s, %s: the handshake ends with %v", name, what, err)
			}
		}
	}
	m.rejections(t)
}
