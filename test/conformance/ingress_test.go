package conformance

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/slipway-mesh/slipway/test/kubetest"
)

// The ports on which the gateway's pod listens for 80 and 443 of its Service.
const ingressHTTP, ingressHTTPS = 18083, 18084

func ingress(spec string) string {
	return "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: case}\nspec: " + spec + "\n"
}

// shop is a Service of which v1 and v2 are the ports.
func (m *mesh) shop() string {
	return "apiVersion: v1\nkind: Service\nmetadata: {name: shop}\nspec: {selector: {app: shop}, ports: [{name: http-one, port: 81}, {name: http-two, port: 82}]}\n---\n" +
		fmt.Sprintf("apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: shop}\nspec: {address: 127.0.0.1, labels: {app: shop}, ports: {http-one: %d, http-two: %d}}\n---\n", m.backends["v1"].port, m.backends["v2"].port) +
		fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {name: gateway}\nspec: {selector: {istio: conformance}, ports: [{name: http, port: 80, targetPort: %d}, {name: https, port: 443, targetPort: %d}]}\n---\n", ingressHTTP, ingressHTTPS)
}

// over80 checks what answers a path at the gateway's port for 80.
func over80(host, path string, status int, version string) func(*mesh) error {
	return func(m *mesh) error {
		response, got, err := m.at(ingressHTTP, host, path)
		return orErr(err, expect(response != nil && response.StatusCode == status && got.Version == version, "%s%s is answered %v by %q", host, path, response, got.Version))
	}
}

func ingresses(t *testing.T) []feature {
	backend := func(port string) string { return "backend: {service: {name: shop, port: {" + port + "}}}" }
	rule := func(class, host, path string) string {
		return ingress("{" + class + "rules: [{" + host + "http: {paths: [" + path + "]}}]}")
	}
	const ours = "ingressClassName: istio, "
	one := func(name, proves, with, without string, check func(*mesh) error) feature {
		return feature{name: "Ingress " + name, proves: proves, with: with, without: without, check: check}
	}
	chain, key := outsideCA(t).issue(t, "a.test")
	return []feature{
		one("Prefix", "Ingress.spec.rules.http.paths.path Ingress.spec.rules.http.paths.pathType", rule(ours, "host: a.test, ", "{path: /a, pathType: Prefix, "+backend("number: 82")+"}"), rule(ours, "host: a.test, ", "{path: /a, pathType: Exact, "+backend("number: 82")+"}"),
			both(over80("a.test", "/a", 200, "v2"), over80("a.test", "/a/b", 200, "v2"), over80("a.test", "/ab", 404, ""))),
		one("Exact", "Ingress.spec.rules.http.paths.pathType", rule(ours, "host: a.test, ", "{path: /a, pathType: Exact, "+backend("number: 82")+"}"), rule(ours, "host: a.test, ", "{path: /a, pathType: Prefix, "+backend("number: 82")+"}"),
			both(over80("a.test", "/a", 200, "v2"), over80("a.test", "/a/b", 404, ""))),
		one("longest path first", "Ingress.spec.rules.http.paths.path", rule(ours, "", "{path: /, pathType: Prefix, "+backend("number: 81")+"}, {path: /a, pathType: Prefix, "+backend("number: 82")+"}"), rule(ours, "", "{path: /, pathType: Prefix, "+backend("number: 81")+"}"),
			both(over80("a.test", "/a", 200, "v2"), over80("a.test", "/b", 200, "v1"))),
		one("host", "Ingress.spec.rules.host", rule(ours, "host: a.test, ", "{path: /, pathType: Prefix, "+backend("number: 82")+"}"), rule(ours, "", "{path: /, pathType: Prefix, "+backend("number: 82")+"}"),
			both(over80("a.test", "/", 200, "v2"), over80("b.test", "/", 404, ""))),
		one("port by name", "Ingress.spec.rules.http.paths.backend", rule(ours, "host: a.test, ", "{path: /, pathType: Prefix, "+backend("name: http-two")+"}"), rule(ours, "host: a.test, ", "{path: /, pathType: Prefix, "+backend("name: http-one")+"}"), over80("a.test", "/", 200, "v2")),
		one("defaultBackend", "Ingress.spec.defaultBackend", ingress("{"+ours+"defaultBackend: {service: {name: shop, port: {number: 82}}}}"), ingress("{"+ours+"defaultBackend: {service: {name: shop, port: {number: 81}}}}"), over80("b.test", "/any", 200, "v2")),
		one("class by annotation", "Ingress.metadata.annotations", strings.Replace(rule("", "host: a.test, ", "{path: /, pathType: Prefix, "+backend("number: 82")+"}"), "{name: case}", "{name: case, annotations: {kubernetes.io/ingress.class: istio}}", 1),
			strings.Replace(rule("", "host: a.test, ", "{path: /, pathType: Prefix, "+backend("number: 82")+"}"), "{name: case}", "{name: case, annotations: {kubernetes.io/ingress.class: other}}", 1), over80("a.test", "/", 200, "v2")),
		one("IngressClass", "Ingress.spec.ingressClassName", "apiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata: {name: edge}\nspec: {controller: istio.io/ingress-controller}\n---\n"+rule("ingressClassName: edge, ", "host: a.test, ", "{path: /, pathType: Prefix, "+backend("number: 82")+"}"),
			rule("ingressClassName: unknown, ", "host: a.test, ", "{path: /, pathType: Prefix, "+backend("number: 82")+"}"), over80("a.test", "/", 200, "v2")),
		one("TLS", "Ingress.spec.tls", secret("edge", map[string]string{"tls.crt": chain, "tls.key": key})+"---\n"+ingress("{"+ours+"tls: [{hosts: [a.test], secretName: edge}], rules: [{host: a.test, http: {paths: [{path: /, pathType: Prefix, "+backend("number: 82")+"}]}}]}"),
			rule(ours, "host: a.test, ", "{path: /, pathType: Prefix, "+backend("number: 82")+"}"), func(m *mesh) error {
				client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{ServerName: "a.test", RootCAs: outsideCA(t).pool(), MinVersion: tls.VersionTLS12},
					DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
						return (&net.Dialer{}).DialContext(ctx, network, fmt.Sprintf("127.0.0.1:%d", ingressHTTPS))
					}}}
				_, got, err := ask(client, "https://a.test/", "a.test")
				return orErr(err, expect(got.Version == "v2", "answered by %q", got.Version))
			}),
	}
}

// TestIngress runs what Kubernetes' own Ingress says, on the mesh's gateway.
func TestIngress(t *testing.T) {
	m := start(t)
	m.base = meshConfig("{ingressSelector: conformance}") + "---\n" + m.shop() + mayListSecrets
	m.kube.Apply(t, m.base)
	m.prove(t, ingresses(t))
	m.balance(t, "istio-ingressgateway", "192.0.2.7")
	m.balance(t, "edge", "192.0.2.8")
	m.prove(t, ingressSettings())
	m.rejections(t)
	t.Run("status", func(t *testing.T) {
		m.kube.Apply(t, ingress("{ingressClassName: istio, defaultBackend: {service: {name: shop, port: {number: 82}}}}"))
		kubetest.Eventually(t, 15*time.Second, func() error {
			got, err := m.ingressAddress()
			return orErr(err, expect(got == "192.0.2.7", "the status is %q", got))
		})
	})
}

// balance makes a Service with an address, as a cloud's load balancer gives it one.
func (m *mesh) balance(t *testing.T, name, address string) {
	t.Helper()
	m.kube.Apply(t, "apiVersion: v1\nkind: Service\nmetadata: {name: "+name+", namespace: istio-system}\nspec: {type: LoadBalancer, ports: [{name: http, port: 80}]}\n")
	var service corev1.Service
	if err := m.kube.Client.Get(t.Context(), types.NamespacedName{Namespace: "istio-system", Name: name}, &service); err != nil {
		t.Fatal(err)
	}
	service.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: address}}
	if err := m.kube.Client.Status().Update(t.Context(), &service); err != nil {
		t.Fatal(err)
	}
}

// ingressAddress is where the case's Ingress says that it is served.
func (m *mesh) ingressAddress() (string, error) {
	var object networkingv1.Ingress
	if err := m.kube.Client.Get(context.Background(), types.NamespacedName{Namespace: "default", Name: "case"}, &object); err != nil {
		return "", err
	}
	var out []string
	for _, at := range object.Status.LoadBalancer.Ingress {
		out = append(out, at.IP)
	}
	return strings.Join(out, " "), nil
}
