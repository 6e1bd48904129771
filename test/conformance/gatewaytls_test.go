package conformance

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/slipway-mesh/slipway/test/kubetest"
)

// secret is a Kubernetes secret with PEM texts by key.
func secret(name string, data map[string]string) string {
	out := "apiVersion: v1\nkind: Secret\nmetadata: {name: " + name + "}\nstringData:\n"
	for key, text := range data {
		out += "  " + key + ": |\n    " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n    ") + "\n"
	}
	return out
}

// mayListSecrets lets the gateway's service account read the secrets that it is to serve.
const mayListSecrets = `apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: gateway-sds}
rules: [{apiGroups: [""], resources: [secrets], verbs: [get, watch, list]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: gateway-sds}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: gateway-sds}
subjects: [{kind: ServiceAccount, name: gateway, namespace: default}]
`

// caller is a TLS client of the gateway's.
type caller struct {
	name        string // that is asked for
	certificate *tls.Certificate
	max         uint16 // version
	sni         string // where another name is asked for than the certificate has
	protocols   []string
}

// dial opens a connection whose server must be who it says, by the tests' own authority.
func (c caller) dial(t testing.TB, at place) (*tls.Conn, error) {
	config := &tls.Config{ServerName: c.name, RootCAs: outsideCA(t).pool(), MaxVersion: c.max, MinVersion: tls.VersionTLS12}
	if c.certificate != nil {
		config.Certificates = []tls.Certificate{*c.certificate}
	}
	config.NextProtos = c.protocols
	if c.sni != "" {
		config.ServerName, config.InsecureSkipVerify = c.sni, true
		config.VerifyConnection = func(s tls.ConnectionState) error { return s.PeerCertificates[0].VerifyHostname(c.name) }
	}
	raw, err := at()
	if err != nil {
		return nil, err
	}
	_ = raw.SetDeadline(time.Now().Add(3 * time.Second))
	secured := tls.Client(raw, config)
	if err := secured.Handshake(); err != nil {
		_ = raw.Close()
		return nil, err
	}
	return secured, raw.SetDeadline(time.Time{})
}

// place is where a server of TLS is, by how it is connected to.
type place func() (net.Conn, error)

// atCase is the gateway's port of the case.
func atCase() (net.Conn, error) {
	return net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", casePort), 3*time.Second)
}

// get sends a request over a connection of its own, and says who answers.
func (c caller) get(t testing.TB, at place) (answer, *x509.Certificate, error) {
	connection, err := c.dial(t, at)
	if err != nil {
		return answer{}, nil, err
	}
	defer func() { _ = connection.Close() }()
	got, err := requestOn(connection, c.name)
	return got, connection.ConnectionState().PeerCertificates[0], err
}

func requestOn(connection *tls.Conn, host string) (answer, error) {
	if err := connection.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return answer{}, err
	}
	client := &http.Client{Transport: &http.Transport{DialTLSContext: func(context.Context, string, string) (net.Conn, error) { return unclosed{connection}, nil }}}
	response, err := client.Get("https://" + host + "/")
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = response.Body.Close() }()
	var got answer
	body, err := io.ReadAll(response.Body)
	_ = json.Unmarshal(body, &got)
	return got, err
}

// unclosed is a connection that an HTTP client cannot close.
type unclosed struct{ net.Conn }

func (unclosed) Close() error { return nil }

// tlsServer is something that ends TLS by the settings of a server, before an application that answers as version.
type tlsServer struct {
	name, field, version string
	at                   place
	object               func(settings string) string
	// write puts files where its proxy reads them, and says where.
	write func(files map[string]string) (dir string)
}

// features are the ways in which TLS is ended.
func (s tlsServer) features(t *testing.T) []feature {
	a := outsideCA(t)
	chain, key := a.issue(t, "a.test")
	clientChain, clientKey := a.issue(t, "client.test")
	pair, err := tls.X509KeyPair([]byte(clientChain), []byte(clientKey))
	if err != nil {
		t.Fatal(err)
	}
	dir := s.write(map[string]string{"chain.pem": chain, "key.pem": key, "ca.pem": a.pem, "crl.pem": a.revoke(t, clientChain)})
	at := func(name string) string { return filepath.Join(dir, name) }
	stranger := strangersPair(t)
	byName := secret("a-test", map[string]string{"tls.crt": chain, "tls.key": key, "ca.crt": a.pem}) + "---\n"
	own := "serverCertificate: " + at("chain.pem") + ", privateKey: " + at("key.pem")
	byFile := own + ", caCertificates: " + at("ca.pem")
	served := func(c caller) func(*mesh) error {
		return func(*mesh) error {
			got, _, err := c.get(t, s.at)
			return orErr(err, expect(got.Version == s.version, "answered by %q", got.Version))
		}
	}
	refused := func(c caller) func(*mesh) error {
		return func(*mesh) error {
			got, _, err := c.get(t, s.at)
			return expect(err != nil, "answered by %q", got.Version)
		}
	}
	reachable := func(*mesh) error {
		connection, err := s.at()
		if err == nil {
			_ = connection.Close()
		}
		return err
	}
	plainClient, withCertificate := caller{name: "a.test"}, caller{name: "a.test", certificate: &pair}
	named := func(settings string) string { return byName + s.object(settings) }
	const simple, mutual = "mode: SIMPLE, credentialName: a-test", "mode: MUTUAL, credentialName: a-test"
	mutually := both(served(withCertificate), refused(plainClient))
	one := func(name, proves, with, without string, check func(*mesh) error) feature {
		var fields []string
		for _, field := range strings.Fields(proves) {
			fields = append(fields, s.field+field)
		}
		return feature{name: s.name + " " + name, proves: strings.Join(fields, " "), with: with, without: without, check: check}
	}
	authority := secret("two", map[string]string{"cert": chain, "key": key}) + "---\n"
	return []feature{
		one("SIMPLE by credentialName", "mode credentialName", named(simple), "", served(plainClient)),
		one("MUTUAL by credentialName", "mode", named(mutual), named(simple), mutually),
		one("MUTUAL, the authority in a secret of its own", "credentialName", authority+secret("two-cacert", map[string]string{"cacert": a.pem})+"---\n"+s.object("mode: MUTUAL, credentialName: two"), named("mode: SIMPLE, credentialName: two"), mutually),
		one("MUTUAL subjectAltNames", "subjectAltNames", named(mutual+", subjectAltNames: [nobody.test]"), named(mutual+", subjectAltNames: [client.test]"), both(refused(withCertificate), reachable)),
		one("OPTIONAL_MUTUAL", "mode", named("mode: OPTIONAL_MUTUAL, credentialName: a-test"), "", both(served(withCertificate), served(plainClient))),
		one("SIMPLE by files", "serverCertificate privateKey", s.object("mode: SIMPLE, "+own), "", served(plainClient)),
		one("MUTUAL by files", "caCertificates", s.object("mode: MUTUAL, "+byFile), "", mutually),
		one("minProtocolVersion", "minProtocolVersion", named(simple+", minProtocolVersion: TLSV1_3"), named(simple), both(served(plainClient), refused(caller{name: "a.test", max: tls.VersionTLS12}))),
		one("maxProtocolVersion", "maxProtocolVersion", named(simple+", maxProtocolVersion: TLSV1_2"), named(simple), s.negotiates(t, func(s tls.ConnectionState) bool { return s.Version == tls.VersionTLS12 })),
		one("cipherSuites", "cipherSuites", named(simple+", maxProtocolVersion: TLSV1_2, cipherSuites: [ECDHE-ECDSA-AES256-GCM-SHA384, ECDHE-RSA-AES256-GCM-SHA384]"), named(simple+", maxProtocolVersion: TLSV1_2, cipherSuites: [ECDHE-ECDSA-AES128-GCM-SHA256, ECDHE-RSA-AES128-GCM-SHA256]"),
			s.negotiates(t, func(s tls.ConnectionState) bool {
				return strings.Contains(tls.CipherSuiteName(s.CipherSuite), "AES_256")
			})),
		one("verifyCertificateSpki", "verifyCertificateSpki", named(mutual+", verifyCertificateSpki: ["+digest(spki(t, pair))+"]"), named(mutual+", verifyCertificateSpki: ["+digest("another")+"]"), served(withCertificate)),
		one("verifyCertificateHash", "verifyCertificateHash", named(mutual+", verifyCertificateHash: ["+hexDigest(string(pair.Certificate[0]))+"]"), named(mutual+", verifyCertificateHash: ["+hexDigest("another")+"]"), served(withCertificate)),
		one("credentialNames", "credentialNames", named("mode: SIMPLE, credentialNames: [a-test]"), "", served(plainClient)),
		one("caCertCredentialName", "caCertCredentialName", authority+secret("clients", map[string]string{"ca.crt": a.pem, "tls.crt": chain, "tls.key": key})+"---\n"+s.object("mode: MUTUAL, credentialName: two, caCertCredentialName: clients"), named(simple), mutually),
		one("tlsCertificates", "tlsCertificates.serverCertificate tlsCertificates.privateKey", s.object("mode: SIMPLE, tlsCertificates: [{"+own+"}]"), "", served(plainClient)),
		one("MUTUAL by tlsCertificates", "tlsCertificates.caCertificates", s.object("mode: MUTUAL, tlsCertificates: [{"+byFile+"}]"), "", mutually),
		one("caCrl", "caCrl", s.object("mode: MUTUAL, "+byFile+", caCrl: "+at("crl.pem")), s.object("mode: MUTUAL, "+byFile), both(refused(withCertificate), reachable)),
		one("insecureSkipVerify", "insecureSkipVerify", s.object("mode: MUTUAL, "+byFile+", insecureSkipVerify: true"), s.object("mode: MUTUAL, "+byFile), served(caller{name: "a.test", certificate: &stranger})),
	}
}

func gatewayTLS(t *testing.T) tlsServer {
	return tlsServer{name: "Gateway TLS", field: "Gateway.servers.tls.", version: "v2", at: atCase, write: func(files map[string]string) string { return writeFiles(t, files) }, object: func(settings string) string {
		return caseGateway(fmt.Sprintf("{port: {number: %d, name: https, protocol: HTTPS}, hosts: [a.test], tls: {%s}}", casePort, settings), "hosts: [a.test], gateways: [case], http: [{route: [{destination: {host: reviews.test, subset: v2}}]}]")
	}}
}

// gatewayTLSFeatures are those that only a gateway has.
func gatewayTLSFeatures(t *testing.T, secured int) []feature {
	chain, key := outsideCA(t).issue(t, "a.test")
	byName := secret("a-test", map[string]string{"tls.crt": chain, "tls.key": key}) + "---\n"
	https := gatewayTLS(t).object("mode: SIMPLE, credentialName: a-test")
	patched := func(*mesh) error {
		got, _, err := caller{name: "a.test"}.get(t, atCase)
		return orErr(err, expect(got.Version == "v2" && got.Headers.Get("x-patched") == "yes", "%q got the headers %v", got.Version, got.Headers))
	}
	ofTable := func(match string) string {
		return byName + https + "---\n" + envoyFilter(`configPatches:
- applyTo: VIRTUAL_HOST
  match: {context: GATEWAY, routeConfiguration: {`+match+`}}
  patch: {operation: MERGE, value: {request_headers_to_add: [{header: {key: x-patched, value: "yes"}}]}}`)
	}
	ofName := func(sni string) string {
		return byName + https + "---\n" + envoyFilter(`configPatches:
- applyTo: HTTP_FILTER
  match: {context: GATEWAY, listener: {filterChain: {sni: `+sni+`}}}
  patch: {operation: INSERT_FIRST, value: `+strings.NewReplacer("on_response", "on_request", "'%s'", "'yes'").Replace(lua("%s"))+`}`)
	}
	limited := func(suite string) string {
		return meshConfig("{tlsDefaults: {ecdhCurves: [P-256], cipherSuites: [ECDHE-ECDSA-"+suite+", ECDHE-RSA-"+suite+"]}}") + "---\n" + byName + gatewayTLS(t).object("mode: SIMPLE, credentialName: a-test, maxProtocolVersion: TLSV1_2")
	}
	return []feature{
		{name: "tlsDefaults", proves: "MeshConfig.tlsDefaults", with: limited("AES256-GCM-SHA384"), without: limited("AES128-GCM-SHA256"),
			check: gatewayTLS(t).negotiates(t, func(s tls.ConnectionState) bool {
				return strings.Contains(tls.CipherSuiteName(s.CipherSuite), "AES_256") && s.CurveID == tls.CurveP256
			})},
		{name: "EnvoyFilter of a server's routes by port name", proves: "EnvoyFilter.configPatches.match.routeConfiguration.portName", with: ofTable("portName: https"), without: ofTable("portName: other"), check: patched},
		{name: "EnvoyFilter of a Gateway's routes", proves: "EnvoyFilter.configPatches.match.routeConfiguration.gateway", with: ofTable("gateway: default/case"), without: ofTable("gateway: default/another"), check: patched},
		{name: "EnvoyFilter of a chain by SNI", proves: "EnvoyFilter.configPatches.match.listener.filterChain.sni", with: ofName("a.test"), without: ofName("b.test"), check: patched},
		{name: "Gateway port name, in the name of its routes", proves: "Gateway.servers.port.name", with: byName + https, without: byName + strings.Replace(https, "name: https", "name: other", 1),
			check: adminSays("/config_dump?resource=dynamic_listeners&mask=active_state", fmt.Sprintf("https.%d.https.case.default", casePort))},
		{name: "Gateway TLS PASSTHROUGH by SNI", proves: "Gateway.servers.tls.mode VirtualService.tls.match.sniHosts", check: answersBy(t, "secured", caller{name: "secure.test"}),
			with: securedEntry(secured) + caseGateway(fmt.Sprintf("{port: {number: %d, name: tls, protocol: TLS}, hosts: [secure.test], tls: {mode: PASSTHROUGH}}", casePort), "hosts: [secure.test], gateways: [case], tls: [{match: [{sniHosts: [secure.test]}], route: [{destination: {host: secure.test, port: {number: 443}}}]}]")},
		{name: "Gateway TLS AUTO_PASSTHROUGH", proves: "Gateway.servers.tls.mode", with: securedEntry(secured) + autoPassthrough, without: securedEntry(secured) + strings.Replace(autoPassthrough, "AUTO_PASSTHROUGH", "PASSTHROUGH", 1),
			check: both(answersBy(t, "secured", through("outbound_.443_._.secure.test", "istio")), answersBy(t, "secured", through("outbound_.443_.blue_.secure.test", "istio-peer-exchange")), closed(t, through("outbound_.443_.green_.secure.test", "istio")),
				closed(t, through("outbound|443||secure.test", "istio")), closed(t, through("outbound_.443_._.secure.test", "h2")))},
		{name: "Gateway TLS that ends before TCP", proves: "Gateway.servers.port.protocol", with: byName + fmt.Sprintf("apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: greeting}\nspec: {hosts: [greeting.test], resolution: STATIC, ports: [{number: 9000, name: tcp, protocol: TCP, targetPort: %d}], endpoints: [{address: 127.0.0.1}]}\n---\n", greetingPort(t)) +
			caseGateway(fmt.Sprintf("{port: {number: %d, name: tls, protocol: TLS}, hosts: [a.test], tls: {mode: SIMPLE, credentialName: a-test}}", casePort), "hosts: [a.test], gateways: [case], tcp: [{route: [{destination: {host: greeting.test, port: {number: 9000}}}]}]"),
			check: func(*mesh) error {
				connection, err := caller{name: "a.test"}.dial(t, atCase)
				if err != nil {
					return err
				}
				defer func() { _ = connection.Close() }()
				got, err := exchange(connection, "")
				return orErr(err, expect(got == "greeting", "answered %q", got))
			}},
	}
}

// securedEntry is a server outside that ends TLS itself, and a part of it.
func securedEntry(port int) string {
	return fmt.Sprintf("apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: secured}\nspec: {hosts: [secure.test], resolution: STATIC, ports: [{number: 443, name: tls, protocol: TLS, targetPort: %d}], endpoints: [{address: 127.0.0.1, labels: {colour: blue}}]}\n---\n"+
		"apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: secured}\nspec: {host: secure.test, subsets: [{name: blue, labels: {colour: blue}}]}\n---\n", port)
}

// autoPassthrough leads the mesh's TLS on by its server names.
var autoPassthrough = fmt.Sprintf("apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: case}\nspec: {selector: {istio: conformance}, servers: [{port: {number: %d, name: tls, protocol: TLS}, hosts: ['*.test'], tls: {mode: AUTO_PASSTHROUGH}}]}\n", casePort)

// through is a proxy of the mesh's that asks for a cluster by its name as a server name.
func through(sni, protocol string) caller {
	return caller{name: "secure.test", sni: sni, protocols: []string{protocol}}
}

func answersBy(t *testing.T, want string, c caller) func(*mesh) error {
	return func(*mesh) error {
		got, _, err := c.get(t, atCase)
		return orErr(err, expect(got.Version == want, "%s is answered by %q", c.sni, got.Version))
	}
}

func closed(t *testing.T, c caller) func(*mesh) error {
	return func(*mesh) error {
		got, _, err := c.get(t, atCase)
		return expect(err != nil, "%s with %v is answered by %q", c.sni, c.protocols, got.Version)
	}
}

// strangersPair is a client's certificate that nobody known has signed.
func strangersPair(t *testing.T) tls.Certificate {
	t.Helper()
	other, err := newAuthority()
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(pemPair(other.issue(t, "client.test")))
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

func pemPair(chain, key string) ([]byte, []byte) { return []byte(chain), []byte(key) }

// negotiates checks what a connection of an ordinary client comes to.
func (s tlsServer) negotiates(t *testing.T, want func(tls.ConnectionState) bool) func(*mesh) error {
	return func(*mesh) error {
		connection, err := caller{name: "a.test"}.dial(t, s.at)
		if err != nil {
			return err
		}
		defer func() { _ = connection.Close() }()
		state := connection.ConnectionState()
		return expect(want(state), "version %s, %s", tls.VersionName(state.Version), tls.CipherSuiteName(state.CipherSuite))
	}
}

// spki is the public key of a certificate, as it stands in there.
func spki(t *testing.T, pair tls.Certificate) string {
	t.Helper()
	certificate, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	return string(certificate.RawSubjectPublicKeyInfo)
}

func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return base64.StdEncoding.EncodeToString(sum[:])
}

func hexDigest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

func greetingPort(t *testing.T) int {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	answerLines(listener, func(net.Conn) string { return "greeting" })
	return listener.Addr().(*net.TCPAddr).Port
}

// TestGatewayTLS runs each way in which a gateway takes TLS.
func TestGatewayTLS(t *testing.T) {
	m := start(t)
	m.base = meshConfig("{}") + "---\n" + virtualService(plain)
	m.kube.Apply(t, m.base+"---\n"+mayListSecrets)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	(&backend{name: "secured"}).serve(t, tls.NewListener(listener, serverTLS(t)))
	m.prove(t, gatewayTLS(t).features(t))
	m.prove(t, gatewayTLSFeatures(t, listener.Addr().(*net.TCPAddr).Port))
	t.Run("a secret is replaced without dropping a connection", m.replacedSecret)
	m.rejections(t)
}

// replacedSecret changes a certificate: new connections see the new one, and the old connection goes on.
func (m *mesh) replacedSecret(t *testing.T) {
	first := func() string {
		chain, key := outsideCA(t).issue(t, "a.test")
		return secret("a-test", map[string]string{"tls.crt": chain, "tls.key": key})
	}
	m.kube.Apply(t, first()+"---\n"+caseGateway(fmt.Sprintf("{port: {number: %d, name: https, protocol: HTTPS}, hosts: [a.test], tls: {mode: SIMPLE, credentialName: a-test}}", casePort),
		"hosts: [a.test], gateways: [case], http: [{route: [{destination: {host: reviews.test, subset: v2}}]}]"))
	client := caller{name: "a.test"}
	var old *tls.Conn
	kubetest.Eventually(t, 20*time.Second, func() (err error) {
		old, err = client.dial(t, atCase)
		return err
	})
	defer func() { _ = old.Close() }()
	serial := old.ConnectionState().PeerCertificates[0].SerialNumber
	m.kube.Apply(t, first())
	kubetest.Eventually(t, 20*time.Second, func() error {
		_, certificate, err := client.get(t, atCase)
		return orErr(err, expect(certificate != nil && certificate.SerialNumber.Cmp(serial) != 0, "the old certificate is still served"))
	})
	if got, err := requestOn(old, "a.test"); err != nil || got.Version != "v2" {
		t.Errorf("the old connection answers by %q: %v", got.Version, err)
	}
}
