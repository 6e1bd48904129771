package compliance

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"testing"
	"time"
)

// TestLimit shakes hands with a server that keeps to each policy, from clients that offer this or that.
func TestLimit(t *testing.T) {
	for _, c := range []struct {
		name   string
		policy Policy
		client *tls.Config
		want   bool
	}{
		{"none takes TLS 1.3", None, &tls.Config{MinVersion: tls.VersionTLS13}, true},
		{"fips takes TLS 1.2", FIPS, &tls.Config{MaxVersion: tls.VersionTLS12}, true},
		{"fips does not take TLS 1.3", FIPS, &tls.Config{MinVersion: tls.VersionTLS13}, false},
		{"fips does not take another curve", FIPS, &tls.Config{MaxVersion: tls.VersionTLS12, CurvePreferences: []tls.CurveID{tls.X25519}}, false},
		{"fips does not take another cipher", FIPS, &tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256}}, false},
		{"pqc takes what quantum computers do not break", PQC, &tls.Config{}, true},
		{"pqc does not take another key exchange", PQC, &tls.Config{CurvePreferences: []tls.CurveID{tls.X25519}}, false},
		{"pqc does not take TLS 1.2", PQC, &tls.Config{MaxVersion: tls.VersionTLS12}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			server := c.policy.Limit(&tls.Config{Certificates: []tls.Certificate{selfSigned(t)}})
			c.client.InsecureSkipVerify = true
			if err := handshake(server, c.client); (err == nil) != c.want {
				t.Errorf("the handshake ends with %v", err)
			}
		})
	}
	if _, err := Parse("fips"); err == nil {
		t.Error("an unknown policy is taken")
	}
}

func handshake(server, client *tls.Config) error {
	a, b := net.Pipe()
	defer func() { _ = a.Close(); _ = b.Close() }()
	go func() {
		_ = tls.Server(a, server).Handshake()
		_ = a.Close()
	}()
	return tls.Client(b, client).Handshake()
}

func selfSigned(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
