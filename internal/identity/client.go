package identity

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"google.golang.org/grpc"
	security "istio.io/api/security/v1alpha1"
)

// Certificate is a workload's certificate with its key and the root that it is trusted by.
type Certificate struct {
	ChainPEM, KeyPEM, RootPEM []byte
	Obtained, NotAfter        time.Time // authorities date certificates back, for clocks that are behind: Obtained is when it was new
}

// RenewAt is half-way through its life.
func (c *Certificate) RenewAt() time.Time { return c.Obtained.Add(c.Life() / 2) }

// Life is how long the certificate was to be used when it was new.
func (c *Certificate) Life() time.Duration { return c.NotAfter.Sub(c.Obtained) }

// SignedUnder says whether a root, in PEM, is above the certificate.
func (c *Certificate) SignedUnder(root string) bool {
	block, rest := pem.Decode(c.ChainPEM)
	if block == nil {
		return false
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return false
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(root))
	return Under(roots, leaf, rest)
}

// Under says whether one of the roots is above a certificate, with the certificates between in PEM; whether any has ended is not asked.
func Under(roots *x509.CertPool, certificate *x509.Certificate, betweenPEM []byte) bool {
	between := x509.NewCertPool()
	between.AppendCertsFromPEM(betweenPEM)
	_, err := certificate.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: certificate.NotBefore.Add(time.Second), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	return err == nil
}

// Request asks an authority for a certificate with a new key, which is made here and never stored.
func Request(ctx context.Context, connection grpc.ClientConnInterface, id ID, workload Workload, lifetime time.Duration) (*Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	uri, err := id.URI()
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{URIs: []*url.URL{uri}}, key)
	if err != nil {
		return nil, fmt.Errorf("make the request: %w", err)
	}
	response, err := security.NewIstioCertificateServiceClient(connection).CreateCertificate(ctx, &security.IstioCertificateRequest{
		Csr: string(encode("CERTIFICATE REQUEST", der)), ValidityDuration: int64(lifetime / time.Second), Metadata: workload.metadata(),
	})
	if err != nil {
		return nil, err
	}
	if len(response.CertChain) < 2 {
		return nil, errors.New("the authority's answer has no root")
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	last := len(response.CertChain) - 1
	out := &Certificate{ChainPEM: []byte(strings.Join(response.CertChain[:last], "")), KeyPEM: encode("PRIVATE KEY", keyDER), RootPEM: []byte(response.CertChain[last])}
	block, _ := pem.Decode(out.ChainPEM)
	if block == nil {
		return nil, errors.New("the authority's answer is not PEM")
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read the certificate: %w", err)
	}
	out.Obtained, out.NotAfter = time.Now(), leaf.NotAfter
	return out, nil
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
