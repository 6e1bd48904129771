package conformance

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// caseGateway is a Gateway of the gateway proxy on a port of its own, with a VirtualService that follows it.
func caseGateway(server, routes string) string {
	return "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: case}\nspec: {selector: {istio: conformance}, servers: [" + server + "]}\n---\n" +
		"apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: case-gateway}\nspec: {" + routes + "}\n"
}

const casePort = 18081

// at asks the gateway's other port.
func (m *mesh) at(port int, host, path string, headers ...string) (*http.Response, answer, error) {
	return ask(&http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}, fmt.Sprintf("http://127.0.0.1:%d%s", port, path), host, headers...)
}

// answeredAt checks the status, and who answers.
func answeredAt(host string, status int, version string) func(*mesh) error {
	return func(m *mesh) error {
		response, got, err := m.at(casePort, host, "/")
		return orErr(err, expect(response != nil && response.StatusCode == status && got.Version == version, "%s is answered by %q with %v", host, got.Version, response))
	}
}

// once makes a connection for each request.
var once = &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

// bound checks who answers at an address of the case's port: nobody, where want is empty.
func bound(address, want string) func(*mesh) error {
	return func(*mesh) error {
		_, got, err := ask(once, fmt.Sprintf("http://%s:%d/", address, casePort), "a.test")
		if want == "" {
			return expect(err != nil, "%s is answered by %q", address, got.Version)
		}
		return orErr(err, expect(got.Version == want, "%s is answered by %q", address, got.Version))
	}
}

// adminSays checks that the gateway's Envoy tells of something.
func adminSays(path, want string) func(*mesh) error {
	return func(*mesh) error {
		response, err := http.Get("http://127.0.0.1:15000" + path)
		if err != nil {
			return err
		}
		defer func() { _ = response.Body.Close() }()
		text, err := io.ReadAll(response.Body)
		return orErr(err, expect(strings.Contains(string(text), want), "%s does not tell of %s", path, want))
	}
}

func gatewayFeatures(greeting int) []feature {
	const to = "http: [{route: [{destination: {host: reviews.test, subset: v2}}]}]"
	port := fmt.Sprintf("port: {number: %d, name: http-case, protocol: HTTP}", casePort)
	toV2 := func(server, hosts string) string {
		return caseGateway("{"+port+", "+server+"}", "hosts: "+hosts+", gateways: [case], "+to)
	}
	return []feature{
		{name: "Gateway port and host", proves: "Gateway.servers.port.number Gateway.servers.port.protocol Gateway.servers.hosts Gateway.selector VirtualService.gateways",
			with: toV2(`hosts: ["*.test"]`, "[a.test]"), check: both(answeredAt("a.test", 200, "v2"), answeredAt("b.test", 404, ""))},
		{name: "Gateway selector", proves: "Gateway.selector", with: toV2("hosts: [a.test]", "[a.test]"), without: strings.Replace(toV2("hosts: [a.test]", "[a.test]"), "istio: conformance", "istio: nobody", 1), check: answeredAt("a.test", 200, "v2")},
		{name: "Gateway takes the narrower of two hosts", proves: "Gateway.servers.hosts", with: toV2(`hosts: [a.test]`, `["*.test"]`), check: both(answeredAt("a.test", 200, "v2"), answeredAt("b.test", 404, ""))},
		{name: "Gateway host of a namespace", proves: "Gateway.servers.hosts", with: toV2(`hosts: ["./a.test"]`, "[a.test]"), without: toV2(`hosts: ["elsewhere/a.test"]`, "[a.test]"), check: answeredAt("a.test", 200, "v2")},
		{name: "Gateway httpsRedirect", proves: "Gateway.servers.tls.httpsRedirect", with: toV2(`hosts: [a.test], tls: {httpsRedirect: true}`, "[a.test]"), check: func(m *mesh) error {
			response, _, err := m.at(casePort, "a.test", "/x")
			return orErr(err, expect(response != nil && response.StatusCode == http.StatusMovedPermanently && response.Header.Get("location") == "https://a.test/x", "answered %v", response))
		}},
		{name: "Gateway several servers", proves: "Gateway.servers.port.number", with: caseGateway("{"+port+", hosts: [a.test]}, {port: {number: 18082, name: http-other, protocol: HTTP}, hosts: [b.test]}", `hosts: ["*.test"], gateways: [case], `+to), check: both(answeredAt("a.test", 200, "v2"), func(m *mesh) error {
			_, got, err := m.at(18082, "b.test", "/")
			return orErr(err, expect(got.Version == "v2", "answered by %q", got.Version))
		})},
		{name: "Gateway bind", proves: "Gateway.servers.bind", with: toV2("hosts: [a.test], bind: 127.0.0.5", "[a.test]"), without: toV2("hosts: [a.test], bind: 127.0.0.6", "[a.test]"), check: both(bound("127.0.0.5", "v2"), bound("127.0.0.1", ""))},
		{name: "Gateways of one port bound to two addresses", proves: "Gateway.servers.bind", with: caseGateway("{"+port+", hosts: [a.test], bind: 127.0.0.5}, {"+port+", hosts: [b.test], bind: 127.0.0.6}", `hosts: ["*.test"], gateways: [case], `+to), check: both(bound("127.0.0.5", "v2"), func(m *mesh) error {
			response, _, err := ask(once, fmt.Sprintf("http://127.0.0.6:%d/", casePort), "a.test")
			return orErr(err, expect(response != nil && response.StatusCode == http.StatusNotFound, "a host of the other address is answered %v", response))
		})},
		{name: "Gateway server name", proves: "Gateway.servers.name", with: toV2("hosts: [a.test], name: front-door", "[a.test]"), without: toV2("hosts: [a.test]", "[a.test]"), check: both(answeredAt("a.test", 200, "v2"), adminSays("/config_dump?resource=dynamic_listeners", `"stat_prefix": "front-door"`))},
		{name: "VirtualServices of one host are merged on a gateway", proves: "VirtualService.hosts",
			with: toV2("hosts: [a.test]", "[a.test]") + "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: case-second}\nspec: {hosts: [a.test], gateways: [case], http: [{match: [{uri: {prefix: /tea}}], directResponse: {status: 418}}]}\n",
			check: both(answeredAt("a.test", 200, "v2"), func(m *mesh) error {
				response, _, err := m.at(casePort, "a.test", "/tea")
				return orErr(err, expect(response != nil && response.StatusCode == http.StatusTeapot, "answered %v", response))
			})},
		{name: "rule for one gateway only", proves: "VirtualService.http.match.gateways", with: caseGateway("{"+port+", hosts: [a.test]}", "hosts: [a.test], gateways: [case, gateway], http: [{match: [{gateways: [case]}], directResponse: {status: 418}}, {route: [{destination: {host: reviews.test, subset: v1}}]}]"),
			check: both(answeredAt("a.test", 418, ""), func(m *mesh) error {
				_, got, err := m.get("a.test", "/")
				return orErr(err, expect(got.Version == "v1", "the other gateway answers by %q", got.Version))
			})},
		{name: "Gateway TCP", proves: "Gateway.servers.port.protocol VirtualService.tcp.match.port",
			with: fmt.Sprintf("apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: greeting}\nspec: {hosts: [greeting.test], resolution: STATIC, ports: [{number: 9000, name: tcp, protocol: TCP, targetPort: %d}], endpoints: [{address: 127.0.0.1}]}\n---\n", greeting) +
				caseGateway(fmt.Sprintf(`{port: {number: %d, name: tcp, protocol: TCP}, hosts: ["*"]}`, casePort), fmt.Sprintf(`hosts: ["*"], gateways: [case], tcp: [{match: [{port: %d}], route: [{destination: {host: greeting.test, port: {number: 9000}}}]}]`, casePort)),
			check: func(*mesh) error {
				connection, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", casePort))
				if err != nil {
					return err
				}
				defer func() { _ = connection.Close() }()
				got, err := exchange(connection, "")
				return orErr(err, expect(got == "greeting", "answered %q", got))
			}},
	}
}

// TestGateway runs each feature of the Gateway itself.
func TestGateway(t *testing.T) {
	m := start(t)
	m.base = virtualService(plain)
	m.kube.Apply(t, m.base)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	answerLines(listener, func(net.Conn) string { return "greeting" })
	m.prove(t, gatewayFeatures(listener.Addr().(*net.TCPAddr).Port))
	m.prove(t, gatewayPolicies(t))
	m.rejections(t)
}

// gatewayPolicies are about who may do what at the edge, and where tokens lead.
func gatewayPolicies(t *testing.T) []feature {
	a := newIssuer(t)
	const selector = "selector: {matchLabels: {istio: conformance}}"
	tokens := "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: edge}\nspec: {" + selector + ", jwtRules: [{issuer: \"" + a.url + "\", jwks: '" + a.keys() + "'}]}\n---\n"
	policy := func(spec string) string {
		return "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: edge}\nspec: {" + selector + ", " + spec + "}\n"
	}
	answers := func(status int, path string, headers ...string) func(*mesh) error {
		return func(m *mesh) error {
			response, _, err := m.get("reviews.test", path, headers...)
			return orErr(err, expect(response != nil && response.StatusCode == status, "%s is answered %v, not %d", path, response, status))
		}
	}
	bearer := []string{"authorization", "Bearer " + a.token(map[string]any{"group": "admins"})}
	byClaim := func(group string) string {
		return tokens + virtualService("- match: [{headers: {\"@request.auth.claims.group\": {exact: "+group+"}}}]"+toV2)
	}
	return []feature{
		{name: "AuthorizationPolicy at a gateway", proves: "AuthorizationPolicy.selector.matchLabels", check: both(answers(403, "/admin"), answers(200, "/page")),
			with: policy("action: DENY, rules: [{to: [{operation: {paths: [/admin]}}]}]"), without: policy("action: DENY, rules: [{to: [{operation: {paths: [/other]}}]}]")},
		{name: "RequestAuthentication at a gateway", proves: "RequestAuthentication.selector.matchLabels", check: both(answers(200, "/"), answers(401, "/", "authorization", "Bearer nonsense"), answers(200, "/", bearer...)), with: tokens},
		{name: "route by a token's claim", proves: "VirtualService.http.match.headers", with: byClaim("admins"), without: byClaim("others"), check: both(version("v2", "/", bearer...), version("v1", "/"))},
	}
}
