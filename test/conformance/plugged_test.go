package conformance

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	transport "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretservice "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/slipway-mesh/slipway/test/kubetest"
	"github.com/slipway-mesh/slipway/test/nettest"
)

// plug writes a new intermediate authority under the root into a folder, as the Secret cacerts has it.
func plug(t *testing.T, root *authority, folder string, number int64) *authority {
	t.Helper()
	one := root.sign(t, &x509.Certificate{SerialNumber: big.NewInt(number), Subject: pkix.Name{CommonName: "intermediate"}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(50 * time.Minute),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign})
	for name, text := range map[string]string{"ca-cert.pem": one.pem, "cert-chain.pem": one.pem, "root-cert.pem": root.pem, "ca-key.pem": one.private(t)} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return one
}

// mount writes a certificate of a workload, signed by the authority, where a pod looks for one that is mounted.
func (a *authority) mount(t *testing.T, p *nettest.Pod, root *authority, number int64) {
	t.Helper()
	chain, key := a.workload(t, p.Name, number)
	for name, text := range map[string]string{"cert-chain.pem": chain, "key.pem": key, "root-cert.pem": root.pem} {
		p.Write(t, "/run/secrets/workload-spiffe-credentials/"+name, text)
	}
}

// workload makes a certificate of a service account in the default namespace.
func (a *authority) workload(t *testing.T, account string, number int64) (chain, key string) {
	t.Helper()
	one := a.sign(t, &x509.Certificate{SerialNumber: big.NewInt(number), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(30 * time.Minute), KeyUsage: x509.KeyUsageDigitalSignature,
		URIs: []*url.URL{{Scheme: "spiffe", Host: "cluster.local", Path: "/ns/default/sa/" + account}}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}})
	return one.pem + a.pem, one.private(t)
}

// sdsServer is a server of certificates that is none of the mesh's, as SPIRE's agent is.
type sdsServer struct {
	secretservice.UnimplementedSecretDiscoveryServiceServer
	chain, key, root string
}

func (s sdsServer) StreamSecrets(stream secretservice.SecretDiscoveryService_StreamSecretsServer) error {
	inline := func(text string) *core.DataSource {
		return &core.DataSource{Specifier: &core.DataSource_InlineString{InlineString: text}}
	}
	for {
		request, err := stream.Recv()
		if err != nil {
			return err
		}
		if request.ResponseNonce != "" {
			continue
		}
		response := &discovery.DiscoveryResponse{TypeUrl: request.TypeUrl, VersionInfo: "1", Nonce: "1"}
		for _, name := range request.ResourceNames {
			secret := &transport.Secret{Name: name, Type: &transport.Secret_TlsCertificate{TlsCertificate: &transport.TlsCertificate{CertificateChain: inline(s.chain), PrivateKey: inline(s.key)}}}
			if name == "ROOTCA" {
				secret.Type = &transport.Secret_ValidationContext{ValidationContext: &transport.CertificateValidationContext{TrustedCa: inline(s.root)}}
			}
			packed, err := anypb.New(secret)
			if err != nil {
				return err
			}
			response.Resources = append(response.Resources, packed)
		}
		if err := stream.Send(response); err != nil {
			return err
		}
	}
}

// othersCertificates: a workload whose certificate is mounted, or offered by another server at the SDS socket, has that, follows it, and
// asks the control plane for none.
func (m *mesh) othersCertificates(t *testing.T, root, intermediate *authority) {
	network := m.pods.network
	mounted, offered := network.Pod(t, "mounted"), network.Pod(t, "served")
	intermediate.mount(t, mounted, root, 0x7001)
	chain, key := intermediate.workload(t, "served", 0x7002)
	offered.Mkdir(t, "/run/secrets/workload-spiffe-uds")
	listener, err := net.Listen("unix", offered.Path("/run/secrets/workload-spiffe-uds/socket"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(offered.Path("/run/secrets/workload-spiffe-uds/socket"), 0o777); err != nil { //nolint:gosec // a test's own
		t.Fatal(err)
	}
	server := grpc.NewServer()
	secretservice.RegisterSecretDiscoveryServiceServer(server, sdsServer{chain: chain, key: key, root: root.pem})
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	for _, p := range []*nettest.Pod{mounted, offered} {
		m.injectWith(t, p, "default", "{app: "+p.Name+"}", nil)
		kubetest.Eventually(t, 30*time.Second, func() error {
			_, got, err := m.from(p, reviewsIP+":80", "reviews", "/")
			seen := got.Headers.Get("X-Forwarded-Client-Cert")
			return orErr(err, expect(strings.Contains(seen, "spiffe://cluster.local/ns/default/sa/"+p.Name), "%s: the server's proxy saw %q", p.Name, seen))
		})
	}
	shows := func(p *nettest.Pod, number string) error {
		_, got, err := m.from(p, "127.0.0.1:15000", "localhost", "/certs")
		return orErr(err, expect(strings.Contains(got.text, number), "%s: Envoy has %s", p.Name, got.text))
	}
	for p, number := range map[*nettest.Pod]string{mounted: "7001", offered: "7002"} {
		if err := shows(p, number); err != nil {
			t.Error(err)
		}
	}
	intermediate.mount(t, mounted, root, 0x7003)
	kubetest.Eventually(t, 10*time.Second, func() error { return shows(mounted, "7003") })
}

// foreignRoot: a workload with a certificate of an authority that is none of the mesh's is taken where MeshConfig says so.
func (m *mesh) foreignRoot(t *testing.T, root *authority) []feature {
	foreign, err := newAuthority()
	if err != nil {
		t.Fatal(err)
	}
	p := m.pods.network.Pod(t, "foreign")
	foreign.mount(t, p, &authority{pem: root.pem + foreign.pem}, 0x7010)
	m.injectWith(t, p, "default", "{app: foreign}", nil)
	check := func(m *mesh) error {
		_, got, err := m.from(p, reviewsIP+":80", "reviews", "/")
		seen := got.Headers.Get("X-Forwarded-Client-Cert")
		return orErr(err, expect(strings.Contains(seen, "spiffe://cluster.local/ns/default/sa/foreign"), "the server's proxy saw %q", seen))
	}
	block, _ := pem.Decode([]byte(foreign.pem))
	bundle := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{"spiffe_sequence": 1, "keys": []any{map[string]any{"use": "x509-svid", "kty": "EC", "x5c": [][]byte{block.Bytes}}}})
	}))
	t.Cleanup(bundle.Close)
	return []feature{
		{name: "caCertificates", proves: "MeshConfig.caCertificates", with: meshConfig("{caCertificates: [{pem: " + fmt.Sprintf("%q", foreign.pem) + "}]}"), without: meshConfig("{}"), check: check},
		{name: "caCertificates of a SPIFFE bundle", proves: "MeshConfig.caCertificates", with: meshConfig("{caCertificates: [{spiffeBundleUrl: " + fmt.Sprintf("%q", bundle.URL) + "}]}"), without: meshConfig("{}"), check: check},
	}
}

// issuer is the serial number of the intermediate that has signed a workload's certificate, as a caller sees it.
func (m *mesh) issuer(from, to *nettest.Pod) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	c, err := from.Dial(ctx, "tcp", to.Address+":8080")
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Close() }()
	serial := ""
	config := &tls.Config{InsecureSkipVerify: true, VerifyConnection: func(s tls.ConnectionState) error { //nolint:gosec // what is shown is asked
		if len(s.PeerCertificates) > 1 {
			serial = s.PeerCertificates[1].SerialNumber.Text(16)
		}
		return nil
	}}
	err = tls.Client(c, config).HandshakeContext(ctx)
	if serial != "" {
		return serial, nil
	}
	return "", orErr(err, expect(false, "%s shows no intermediate", to.Name))
}

// TestPluggedAuthority: a mesh whose authority is plugged in, an intermediate under a root of the owner's, speaks mutual TLS by it; and
// when it is replaced by another one under that root, workloads get their certificates from that, and no request is lost.
func TestPluggedAuthority(t *testing.T) {
	t.Parallel() // its ports are its own
	root, err := newAuthority()
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	first := plug(t, root, folder, 0x1111)
	m := startPair(t, "--cacerts", folder)
	signedBy := func(want string) func() error {
		return func() error {
			got, err := m.issuer(m.pods.plain, m.pods.v1)
			return orErr(err, expect(got == want, "the certificate is signed by %s, not %s", got, want))
		}
	}
	number := func(a *authority) string { return a.certificate.SerialNumber.Text(16) }
	kubetest.Eventually(t, 30*time.Second, signedBy(number(first)))
	if err := m.trusts(m.pods.v1, fmt.Sprintf("%02x", root.certificate.SerialNumber)); err != nil {
		t.Error(err)
	}
	l := &load{from: m.pods.client, address: reviewsIP + ":80", host: "reviews"}
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	group.Go(func() { l.run(ctx, 50) })
	kubetest.Eventually(t, 90*time.Second, signedBy(number(plug(t, root, folder, 0x2222))))
	time.Sleep(20 * time.Second) // until all have renewed
	cancel()
	group.Wait()
	if lost := l.lost(); len(lost) > 0 || l.sent < 100 {
		t.Errorf("%d of %d requests are lost, such as %q", len(lost), l.sent, lost[:min(len(lost), 1)])
	}
	t.Run("others' certificates", func(t *testing.T) { m.othersCertificates(t, root, first) })
	m.base = meshConfig("{}")
	m.prove(t, m.foreignRoot(t, root))
	m.rejections(t)
}
