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
func (c caller) dial(t testing.TB, port int) (*tls.Conn, error) {
	config := &tls.Config{ServerName: c.name, RootCAs: outsideCA(t).pool(), MaxVersion: c.max, MinVersion: tls.VersionTLS12}
	if c.certificate != nil {
		config.Certificates = []tls.Certificate{*c.certificate}
	}
	config.NextProtos = c.protocols
	if c.sni != "" {
		config.ServerName, config.InsecureSkipVerify = c.sni, true
		config.VerifyConnection = func(s tls.ConnectionState) error { return s.PeerCertificates[0].VerifyHostname(c.name) }
	}
	return tls.DialWithDialer(&net.Dialer{Timeout: 3 * time.Second}, "tcp", fmt.Sprintf("127.0.0.1:%d", port), config)
}

// get sends a request over a connection of its own, and says who answers.
func (c caller) get(t testing.TB, port int) (answer, *x509.Certificate, error) {
	connection, err := c.dial(t, port)
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

func gatewayTLSFeatures(t *testing.T, secured int) []feature {
	a := outsideCA(t)
	chain, key := a.issue(t, "a.test")
	clientChain, clientKey := a.issue(t, "client.test")
	pair, err := tls.X509KeyPair([]byte(clientChain), []byte(clientKey))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{"chain.pem": chain, "key.pem": key, "ca.pem": a.pem, "crl.pem": a.revoke(t, clientChain)}
	stranger := strangersPair(t)
	at := func(name string) string { return filepath.Join(writeFiles(t, files), name) }
	server := func(settings string) string {
		return caseGateway(fmt.Sprintf("{port: {number: %d, name: https, protocol: HTTPS}, hosts: [a.test], tls: {%s}}", casePort, settings),
			"hosts: [a.test], gateways: [case], http: [{route: [{destination: {host: reviews.test, subset: v2}}]}]")
	}
	const field = "Gateway.servers.tls."
	byFile := "serverCertificate: " + at("chain.pem") + ", privateKey: " + at("key.pem") + ", caCertificates: " + at("ca.pem")
	byName := secret("a-test", map[string]string{"tls.crt": chain, "tls.key": key, "ca.crt": a.pem}) + "---\n"
	served := func(c caller) func(*mesh) error {
		return func(*mesh) error {
			got, _, err := c.get(t, casePort)
			return orErr(err, expect(got.Version == "v2", "answered by %q", got.Version))
		}
	}
	refused := func(c caller) func(*mesh) error {
		return func(*mesh) error {
			got, _, err := c.get(t, casePort)
			return expect(err != nil, "answered by %q", got.Version)
		}
	}
	plainClient, withCertificate := caller{name: "a.test"}, caller{name: "a.test", certificate: &pair}
	return []feature{
		{name: "Gateway TLS SIMPLE by credentialName", proves: field + "mode " + field + "credentialName", with: byName + server("mode: SIMPLE, credentialName: a-test"), check: served(plainClient)},
		{name: "Gateway TLS MUTUAL by credentialName", proves: field + "mode", with: byName + server("mode: MUTUAL, credentialName: a-test"), without: byName + server("mode: SIMPLE, credentialName: a-test"),
			check: both(served(withCertificate), refused(plainClient))},
		{name: "Gateway TLS MUTUAL, the authority in a secret of its own", proves: field + "credentialName", without: byName + server("mode: SIMPLE, credentialName: two"),
			with: secret("two", map[string]string{"cert": chain, "key": key}) + "---\n" + secret("two-cacert", map[string]string{"cacert": a.pem}) + "---\n" + server("mode: MUTUAL, credentialName: two"), check: both(served(withCertificate), refused(plainClient))},
		{name: "Gateway TLS MUTUAL subjectAltNames", proves: field + "subjectAltNames", with: byName + server("mode: MUTUAL, credentialName: a-test, subjectAltNames: [nobody.test]"), without: byName + server("mode: MUTUAL, credentialName: a-test, subjectAltNames: [client.test]"),
			check: both(refused(withCertificate), reachable)},
		{name: "Gateway TLS OPTIONAL_MUTUAL", proves: field + "mode", with: byName + server("mode: OPTIONAL_MUTUAL, credentialName: a-test"), check: both(served(withCertificate), served(plainClient))},
		{name: "Gateway TLS SIMPLE by files", proves: field + "serverCertificate " + field + "privateKey", with: server("mode: SIMPLE, serverCertificate: " + at("chain.pem") + ", privateKey: " + at("key.pem")), check: served(plainClient)},
		{name: "Gateway TLS MUTUAL by files", proves: field + "caCertificates", with: server("mode: MUTUAL, serverCertificate: " + at("chain.pem") + ", privateKey: " + at("key.pem") + ", caCertificates: " + at("ca.pem")),
			check: both(served(withCertificate), refused(plainClient))},
		{name: "Gateway TLS minProtocolVersion", proves: field + "minProtocolVersion", with: byName + server("mode: SIMPLE, credentialName: a-test, minProtocolVersion: TLSV1_3"), without: byName + server("mode: SIMPLE, credentialName: a-test"),
			check: both(served(plainClient), refused(caller{name: "a.test", max: tls.VersionTLS12}))},
		{name: "Gateway TLS maxProtocolVersion", proves: field + "maxProtocolVersion", with: byName + server("mode: SIMPLE, credentialName: a-test, maxProtocolVersion: TLSV1_2"), without: byName + server("mode: SIMPLE, credentialName: a-test"),
			check: negotiates(t, func(s tls.ConnectionState) bool { return s.Version == tls.VersionTLS12 })},
		{name: "Gateway TLS cipherSuites", proves: field + "cipherSuites", with: byName + server("mode: SIMPLE, credentialName: a-test, maxProtocolVersion: TLSV1_2, cipherSuites: [ECDHE-ECDSA-AES256-GCM-SHA384, ECDHE-RSA-AES256-GCM-SHA384]"),
			without: byName + server("mode: SIMPLE, credentialName: a-test, maxProtocolVersion: TLSV1_2, cipherSuites: [ECDHE-ECDSA-AES128-GCM-SHA256, ECDHE-RSA-AES128-GCM-SHA256]"),
			check: negotiates(t, func(s tls.ConnectionState) bool {
				return strings.Contains(tls.CipherSuiteName(s.CipherSuite), "AES_256")
			})},
		{name: "Gateway TLS verifyCertificateSpki", proves: field + "verifyCertificateSpki", with: byName + server("mode: MUTUAL, credentialName: a-test, verifyCertificateSpki: ["+digest(spki(t, pair))+"]"), without: byName + server("mode: MUTUAL, credentialName: a-test, verifyCertificateSpki: ["+digest("another")+"]"),
			check: served(withCertificate)},
		{name: "Gateway TLS verifyCertificateHash", proves: field + "verifyCertificateHash", with: byName + server("mode: MUTUAL, credentialName: a-test, verifyCertificateHash: ["+hexDigest(string(pair.Certificate[0]))+"]"), without: byName + server("mode: MUTUAL, credentialName: a-test, verifyCertificateHash: ["+hexDigest("another")+"]"),
			check: served(withCertificate)},
		{name: "Gateway TLS credentialNames", proves: field + "credentialNames", with: byName + server("mode: SIMPLE, credentialNames: [a-test]"), check: served(plainClient)},
		{name: "Gateway TLS caCertCredentialName", proves: field + "caCertCredentialName", with: secret("two", map[string]string{"cert": chain, "key": key}) + "---\n" + secret("clients", map[string]string{"ca.crt": a.pem, "tls.crt": chain, "tls.key": key}) + "---\n" + server("mode: MUTUAL, credentialName: two, caCertCredentialName: clients"),
			without: byName + server("mode: SIMPLE, credentialName: a-test"), check: both(served(withCertificate), refused(plainClient))},
		{name: "Gateway TLS tlsCertificates", proves: field + "tlsCertificates.serverCertificate " + field + "tlsCertificates.privateKey", with: server("mode: SIMPLE, tlsCertificates: [{serverCertificate: " + at("chain.pem") + ", privateKey: " + at("key.pem") + "}]"), check: served(plainClient)},
		{name: "Gateway TLS PASSTHROUGH by SNI", proves: field + "mode VirtualService.tls.match.sniHosts", check: func(*mesh) error {
			got, _, err := caller{name: "secure.test"}.get(t, casePort)
			return orErr(err, expect(got.Version == "secured", "answered by %q", got.Version))
		}, with: fmt.Sprintf("apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: secured}\nspec: {hosts: [secure.test], resolution: STATIC, ports: [{number: 443, name: tls, protocol: TLS, targetPort: %d}], endpoints: [{address: 127.0.0.1}]}\n---\n", secured) +
			caseGateway(fmt.Sprintf("{port: {number: %d, name: tls, protocol: TLS}, hosts: [secure.test], tls: {mode: PASSTHROUGH}}", casePort), "hosts: [secure.test], gateways: [case], tls: [{match: [{sniHosts: [secure.test]}], route: [{destination: {host: secure.test, port: {number: 443}}}]}]")},
		{name: "Gateway port name, in the name of its routes", proves: "Gateway.servers.port.name", with: byName + server("mode: SIMPLE, credentialName: a-test"), without: byName + strings.Replace(server("mode: SIMPLE, credentialName: a-test"), "name: https", "name: other", 1),
			check: both(served(plainClient), adminSays("/config_dump?resource=dynamic_route_configs", fmt.Sprintf("https.%d.https.case.default", casePort)))},
		{name: "Gateway TLS MUTUAL by tlsCertificates", proves: field + "tlsCertificates.caCertificates", with: server("mode: MUTUAL, tlsCertificates: [{serverCertificate: " + at("chain.pem") + ", privateKey: " + at("key.pem") + ", caCertificates: " + at("ca.pem") + "}]"),
			check: both(served(withCertificate), refused(plainClient))},
		{name: "Gateway TLS caCrl", proves: field + "caCrl", with: server("mode: MUTUAL, " + byFile + ", caCrl: " + at("crl.pem")), without: server("mode: MUTUAL, " + byFile), check: both(refused(withCertificate), reachable)},
		{name: "Gateway TLS insecureSkipVerify", proves: field + "insecureSkipVerify", with: server("mode: MUTUAL, " + byFile + ", insecureSkipVerify: true"), without: server("mode: MUTUAL, " + byFile), check: served(caller{name: "a.test", certificate: &stranger})},
		{name: "Gateway TLS AUTO_PASSTHROUGH", proves: field + "mode", with: securedEntry(secured) + autoPassthrough, without: securedEntry(secured) + strings.Replace(autoPassthrough, "AUTO_PASSTHROUGH", "PASSTHROUGH", 1),
			check: both(answersBy(t, "secured", through("outbound_.443_._.secure.test", "istio")), answersBy(t, "secured", through("outbound_.443_.blue_.secure.test", "istio-peer-exchange")), closed(t, through("outbound_.443_.green_.secure.test", "istio")),
				closed(t, through("outbound|443||secure.test", "istio")), closed(t, through("outbound_.443_._.secure.test", "h2")))},
		{name: "Gateway TLS that ends before TCP", proves: "Gateway.servers.port.protocol", with: byName + fmt.Sprintf("apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: greeting}\nspec: {hosts: [greeting.test], resolution: STATIC, ports: [{number: 9000, name: tcp, protocol: TCP, targetPort: %d}], endpoints: [{address: 127.0.0.1}]}\n---\n", greetingPort(t)) +
			caseGateway(fmt.Sprintf("{port: {number: %d, name: tls, protocol: TLS}, hosts: [a.test], tls: {mode: SIMPLE, credentialName: a-test}}", casePort), "hosts: [a.test], gateways: [case], tcp: [{route: [{destination: {host: greeting.test, port: {number: 9000}}}]}]"),
			check: func(*mesh) error {
				connection, err := plainClient.dial(t, casePort)
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
		got, _, err := c.get(t, casePort)
		return orErr(err, expect(got.Version == want, "%s is answered by %q", c.sni, got.Version))
	}
}

func closed(t *testing.T, c caller) func(*mesh) error {
	return func(*mesh) error {
		got, _, err := c.get(t, casePort)
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
func negotiates(t *testing.T, want func(tls.ConnectionState) bool) func(*mesh) error {
	return func(*mesh) error {
		connection, err := caller{name: "a.test"}.dial(t, casePort)
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

// reachable holds where the gateway's port is open.
func reachable(*mesh) error {
	connection, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", casePort), time.Second)
	if err == nil {
		_ = connection.Close()
	}
	return err
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
	m.base = virtualService(plain)
	m.kube.Apply(t, m.base+"---\n"+mayListSecrets)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	(&backend{name: "secured"}).serve(t, tls.NewListener(listener, serverTLS(t)))
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
		old, err = client.dial(t, casePort)
		return err
	})
	defer func() { _ = old.Close() }()
	serial := old.ConnectionState().PeerCertificates[0].SerialNumber
	m.kube.Apply(t, first())
	kubetest.Eventually(t, 20*time.Second, func() error {
		_, certificate, err := client.get(t, casePort)
		return orErr(err, expect(certificate != nil && certificate.SerialNumber.Cmp(serial) != 0, "the old certificate is still served"))
	})
	if got, err := requestOn(old, "a.test"); err != nil || got.Version != "v2" {
		t.Errorf("the old connection answers by %q: %v", got.Version, err)
	}
}
