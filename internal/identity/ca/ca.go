// Package ca is the certificate authority: it signs for who a caller proves to be, keeps its root where all replicas have it, and
// puts another in its place without breaking what the old one signed.
package ca

import (
	"bytes"
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
	"slices"
	"strings"
	"time"

	"github.com/slipway-mesh/slipway/internal/identity"
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
	chain       []byte              // its own certificate and intermediates, PEM; empty for a root
	roots       []*x509.Certificate // all that are trusted, the one that signs first
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
	return &Authority{certificate: certificate, key: key, roots: []*x509.Certificate{certificate}}, nil
}

// LoadAuthority reads an authority's PEM files: its certificate and key, the chain up to the root, and the roots that are
// trusted, of which one is its own.
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
	a := &Authority{certificate: certificate, key: key, roots: certificatesIn(rootPEM)}
	own := slices.IndexFunc(a.roots, func(root *x509.Certificate) bool { return signedUnder(root, certificate, chainPEM) })
	if own < 0 {
		return nil, errors.New("none of the root certificates is above the authority's certificate")
	}
	first := a.roots[own]
	a.roots = slices.Insert(slices.Delete(a.roots, own, own+1), 0, first)
	if !certificate.Equal(first) {
		a.chain = append(append([]byte{}, certPEM...), chainPEM...)
		if within := certificatesIn(chainPEM); len(within) > 0 && certificate.Equal(within[0]) {
			a.chain = chainPEM
		}
	}
	return a, nil
}

// certificatesIn reads the certificates of a PEM text; what is none is passed over.
func certificatesIn(text []byte) []*x509.Certificate {
	var out []*x509.Certificate
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return out
		}
		if certificate, err := x509.ParseCertificate(block.Bytes); err == nil {
			out = append(out, certificate)
		}
	}
}

// signedUnder says whether a root is above an authority's certificate.
func signedUnder(root, certificate *x509.Certificate, chainPEM []byte) bool {
	roots := x509.NewCertPool()
	roots.AddCert(root)
	return identity.Under(roots, certificate, chainPEM)
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

// RootPEM is what trusts this authority: all roots, its own first.
func (a *Authority) RootPEM() []byte { return []byte(strings.Join(a.Roots(), "")) }

// Roots are the certificates of RootPEM, each in PEM.
func (a *Authority) Roots() []string {
	out := make([]string, len(a.roots))
	for i, root := range a.roots {
		out[i] = string(encode("CERTIFICATE", root.Raw))
	}
	return out
}

// Root is a root certificate that is trusted.
type Root struct {
	Serial string // in hexadecimal
	Ends   time.Time
}

// Trusted are the roots, the one that signs first.
func (a *Authority) Trusted() []Root {
	out := make([]Root, len(a.roots))
	for i, root := range a.roots {
		out[i] = Root{root.SerialNumber.Text(16), root.NotAfter}
	}
	return out
}

// RootEnds is when the first of what signs and the roots ends.
func (a *Authority) RootEnds() time.Time {
	ends := a.certificate.NotAfter
	for _, root := range a.roots {
		if root.NotAfter.Before(ends) {
			ends = root.NotAfter
		}
	}
	return ends
}

// Follows says what would break if this authority took the place of another at once: nil if nothing does.
func (a *Authority) Follows(last *Authority) error {
	trusts := func(who *Authority, root *x509.Certificate) bool { return slices.ContainsFunc(who.roots, root.Equal) }
	switch {
	case !trusts(last, a.roots[0]):
		return errors.New("no proxy trusts its root yet: first add that to the roots, beside the old one, and go on when all proxies follow")
	case !trusts(a, last.roots[0]):
		return errors.New("it does not trust the root that signs now: keep that among the roots until all proxies have certificates of the new one")
	}
	return nil
}

func (a *Authority) equal(b *Authority) bool {
	return a.certificate.Equal(b.certificate) && bytes.Equal(a.chain, b.chain) && slices.EqualFunc(a.roots, b.roots, (*x509.Certificate).Equal)
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
func (a *Authority) Sign(request []byte, id identity.ID, workload identity.Workload, lifetime time.Duration, now time.Time) ([]string, error) {
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
	uri, err := id.URI()
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
	return append(append([]string{string(leaf)}, split(a.chain)...), string(a.RootPEM())), nil
}

// Serve issues a certificate for a server with DNS names, which is who id says where it calls others; with a new key. It returns PEM of the
// chain and of the key.
func (a *Authority) Serve(names []string, id identity.ID, lifetime time.Duration, now time.Time) (chain, key []byte, err error) {
	uri, err := id.URI()
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
