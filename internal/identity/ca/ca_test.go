package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/slipway-mesh/slipway/internal/identity"
)

func request(t *testing.T, san string) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	uri, err := url.Parse(san)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{URIs: []*url.URL{uri}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return encode("CERTIFICATE REQUEST", der)
}

// TestSign: the identity is the authenticated one, whatever the request says; the root verifies the chain.
func TestSign(t *testing.T) {
	now := time.Now()
	authority, err := NewRoot("cluster.local", now)
	if err != nil {
		t.Fatal(err)
	}
	id := identity.ID{TrustDomain: "cluster.local", Namespace: "default", Account: "reviews"}
	chain, err := authority.Sign(request(t, "spiffe://cluster.local/ns/istio-system/sa/admin"), id, identity.Workload{}, time.Hour, now)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode([]byte(chain[0]))
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != id.String() {
		t.Errorf("the certificate is for %v", leaf.URIs)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(chain[len(chain)-1]))
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Errorf("the root does not verify the certificate: %v", err)
	}
	if lifetime := leaf.NotAfter.Sub(now); lifetime > time.Hour+time.Second || leaf.IsCA {
		t.Errorf("lifetime %s, CA %v", lifetime, leaf.IsCA)
	}
	for name, bad := range map[string]func() error{
		"too long": func() error {
			_, err := authority.Sign(request(t, "spiffe://a"), id, identity.Workload{}, MaxLifetime+time.Hour, now)
			return err
		},
		"not a request": func() error {
			_, err := authority.Sign([]byte("nonsense"), id, identity.Workload{}, time.Hour, now)
			return err
		},
	} {
		if bad() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestLoadAuthority(t *testing.T) {
	made, err := NewRoot("cluster.local", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	other, err := NewRoot("cluster.local", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	key, err := made.KeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := LoadAuthority(made.CertificatePEM(), key, nil, made.RootPEM()); err != nil {
		t.Error(err)
	}
	if _, err := LoadAuthority(other.CertificatePEM(), key, nil, nil); err == nil || !strings.Contains(err.Error(), "key") {
		t.Errorf("another authority's key: %v", err)
	}
}
