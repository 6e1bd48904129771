package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"time"
)

const (
	// RootLifetime is that of a self-signed root.
	RootLifetime = 10 * 365 * 24 * time.Hour
	// DefaultLifetime is that of a workload's certificate.
	DefaultLifetime = 24 * time.Hour
	// MaxLifetime is the longest that a workload may ask for.
	MaxLifetime = 90 * 24 * time.Hour
	// skew is how far back certificates are dated, for clocks that are behind.
	skew = 2 * time.Minute
)

// Authority signs certificates. It is immutable; its key never leaves it but by KeyPEM.
type Authority struct {
	certificate *x509.Certificate
	key         crypto.Signer
	chain       []byte // its own certificate and intermediates, PEM; empty for a root
	root        []byte // PEM
}

// NewRoot makes a self-signed authority.
func NewRoot(trustDomain string, now time.Time) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := serialNumber()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{Organization: []string{trustDomain}}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: now.Add(-skew), NotAfter: now.Add(RootLifetime), KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("sign the root: %w", err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &Authority{certificate: certificate, key: key, root: encode("CERTIFICATE", der)}, nil
}

// LoadAuthority reads an authority's PEM files: its certificate and key, the chain up to the root, and the root.
func LoadAuthority(certPEM, keyPEM, chainPEM, rootPEM []byte) (*Authority, error) {
	block, _ := pem.Decode(certPEM)
	if block == nil {
		return nil, errors.New("the authority's certificate is not PEM")
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read the authority's certificate: %w", err)
	}
	if !certificate.IsCA {
		return nil, errors.New("the authority's certificate may not sign others")
	}
	key, err := parseKey(keyPEM)
	if err != nil {
		return nil, err
	}
	if !publicEqual(key.Public(), certificate.PublicKey) {
		return nil, errors.New("the authority's key is not that of its certificate")
	}
	if len(rootPEM) == 0 {
		rootPEM = certPEM
	}
	a := &Authority{certificate: certificate, key: key, root: rootPEM}
	if !certificate.Equal(firstOf(rootPEM)) {
		a.chain = append(append([]byte{}, certPEM...), chainPEM...)
		if len(chainPEM) > 0 && certificate.Equal(firstOf(chainPEM)) {
			a.chain = chainPEM
		}
	}
	return a, nil
}

func firstOf(text []byte) *x509.Certificate {
	if block, _ := pem.Decode(text); block != nil {
		if certificate, err := x509.ParseCertificate(block.Bytes); err == nil {
			return certificate
		}
	}
	return &x509.Certificate{}
}

func publicEqual(a, b crypto.PublicKey) bool {
	type comparable interface{ Equal(crypto.PublicKey) bool }
	c, ok := a.(comparable)
	return ok && c.Equal(b)
}

func parseKey(text []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("the key is not PEM")
	}
	if key, err := x509.ParseECPrivateKey(block.Bytes); err == nil {
		return key, nil
	}
	if key, err := x509.ParsePKCS1PrivateKey(block.Bytes); err == nil {
		return key, nil
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("the key is none of PKCS#1, PKCS#8 or SEC 1")
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, errors.New("the key cannot sign")
	}
	return signer, nil
}

// RootPEM is what trusts this authority.
func (a *Authority) RootPEM() []byte { return a.root }

// RootEnds is when the first of the roots ends.
func (a *Authority) RootEnds() time.Time {
	ends := a.certificate.NotAfter
	for rest := a.root; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return ends
		}
		if root, err := x509.ParseCertificate(block.Bytes); err == nil && root.NotAfter.Before(ends) {
			ends = root.NotAfter
		}
	}
}

// CertificatePEM is the authority's own certificate.
func (a *Authority) CertificatePEM() []byte { return encode("CERTIFICATE", a.certificate.Raw) }

// KeyPEM is the authority's key, to be stored.
func (a *Authority) KeyPEM() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(a.key)
	return encode("PRIVATE KEY", der), err
}

// Sign answers a certificate request of a workload that has been authenticated as id. What the request says of names is
// not looked at; workload is added for telemetry. The answer is the leaf, each intermediate, and last the root.
func (a *Authority) Sign(request []byte, id ID, workload Workload, lifetime time.Duration, now time.Time) ([]string, error) {
	block, _ := pem.Decode(request)
	if block == nil {
		return nil, errors.New("the request is not PEM")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read the request: %w", err)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("the request's signature: %w", err)
	}
	uri, err := id.uri()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{URIs: []*url.URL{uri}}
	if name := workload.DNSName(); name != "" {
		template.DNSNames = []string{name}
	}
	leaf, err := a.issue(csr.PublicKey, template, lifetime, now)
	if err != nil {
		return nil, err
	}
	return append(append([]string{string(leaf)}, split(a.chain)...), string(a.root)), nil
}

// Serve issues a certificate for a server with DNS names, which is who id says where it calls others; with a new key. It returns PEM of the
// chain and of the key.
func (a *Authority) Serve(names []string, id ID, lifetime time.Duration, now time.Time) (chain, key []byte, err error) {
	uri, err := id.uri()
	if err != nil {
		return nil, nil, err
	}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	leaf, err := a.issue(private.Public(), &x509.Certificate{DNSNames: names, URIs: []*url.URL{uri}}, lifetime, now)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	return append(leaf, a.chain...), encode("PRIVATE KEY", der), err
}

func (a *Authority) issue(public crypto.PublicKey, template *x509.Certificate, lifetime time.Duration, now time.Time) ([]byte, error) {
	if lifetime <= 0 {
		lifetime = DefaultLifetime
	}
	if lifetime > MaxLifetime {
		return nil, fmt.Errorf("a lifetime of %s is more than the %s that are allowed", lifetime, MaxLifetime)
	}
	serial, err := serialNumber()
	if err != nil {
		return nil, err
	}
	template.SerialNumber = serial
	template.NotBefore, template.NotAfter = now.Add(-skew), now.Add(lifetime)
	if template.NotAfter.After(a.certificate.NotAfter) {
		template.NotAfter = a.certificate.NotAfter
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	template.BasicConstraintsValid = true
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, public, a.key)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	return encode("CERTIFICATE", der), nil
}

func split(chain []byte) []string {
	var out []string
	for {
		block, rest := pem.Decode(chain)
		if block == nil {
			return out
		}
		out = append(out, string(pem.EncodeToMemory(block)))
		chain = rest
	}
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func serialNumber() (*big.Int, error) {
	return rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
}
