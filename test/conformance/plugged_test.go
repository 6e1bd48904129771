package conformance

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/slipway-mesh/slipway/test/kubetest"
	"github.com/slipway-mesh/slipway/test/nettest"
)

// plug writes a new intermediate authority under the root into a folder, as the Secret cacerts has it, and returns its serial number.
func plug(t *testing.T, root *authority, folder string, number int64) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(number), Subject: pkix.Name{CommonName: "intermediate"}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(50 * time.Minute),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}
	der, err := x509.CreateCertificate(rand.Reader, template, root.certificate, key.Public(), root.key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certificate := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	for name, text := range map[string]string{
		"ca-cert.pem": certificate, "cert-chain.pem": certificate, "root-cert.pem": root.pem,
		"ca-key.pem": string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: private})),
	} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return template.SerialNumber.Text(16)
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
	kubetest.Eventually(t, 30*time.Second, signedBy(first))
	if err := m.trusts(m.pods.v1, fmt.Sprintf("%02x", root.certificate.SerialNumber)); err != nil {
		t.Error(err)
	}
	l := &load{from: m.pods.client, address: reviewsIP + ":80", host: "reviews"}
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	group.Go(func() { l.run(ctx, 50) })
	kubetest.Eventually(t, 90*time.Second, signedBy(plug(t, root, folder, 0x2222)))
	time.Sleep(20 * time.Second) // until all have renewed
	cancel()
	group.Wait()
	if lost := l.lost(); len(lost) > 0 || l.sent < 100 {
		t.Errorf("%d of %d requests are lost, such as %q", len(lost), l.sent, lost[:min(len(lost), 1)])
	}
	m.rejections(t)
}
