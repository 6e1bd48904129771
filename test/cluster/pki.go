package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"time"
)

// authority signs the certificates of one cluster.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	pem         []byte
}

// identity is what a client or server certificate says.
type identity struct {
	file, name string
	groups     []string
	dns        []string
	ips        []net.IP
}

// writePKI makes a fresh authority, the certificates and the kubeconfigs of every part, under pki/.
func (c *cluster) writePKI() error {
	ca, err := newAuthority()
	if err != nil {
		return err
	}
	if err := os.WriteFile(c.path("pki", "ca.crt"), ca.pem, 0o644); err != nil {
		return err
	}
	if err := c.writeServiceAccountKey(); err != nil {
		return err
	}
	identities := []identity{
		{file: "apiserver", name: "kube-apiserver", ips: []net.IP{net.ParseIP(c.nodeIP()), net.ParseIP(apiService), net.IPv4(127, 0, 0, 1)},
			dns: []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost"}},
		{file: "apiserver-kubelet", name: "kube-apiserver-kubelet-client", groups: []string{"system:masters"}},
		{file: "kubelet-server", name: "system:node:" + c.nodeName(), dns: []string{c.nodeName()}, ips: []net.IP{net.ParseIP(c.nodeIP())}},
		{file: "admin", name: "kubernetes-admin", groups: []string{"system:masters"}},
		{file: "kubelet", name: "system:node:" + c.nodeName(), groups: []string{"system:nodes"}},
		{file: "controller-manager", name: "system:kube-controller-manager"},
		{file: "scheduler", name: "system:kube-scheduler"},
		{file: "proxy", name: "system:kube-proxy"},
		{file: "front-proxy", name: "front-proxy"},
		{file: "metrics", name: "system:metrics-server", groups: []string{"system:masters"}},
		{file: "dns", name: "system:coredns", groups: []string{"system:masters"}},
	}
	for _, id := range identities {
		certificate, key, err := ca.issue(id)
		if err != nil {
			return fmt.Errorf("issue %s: %w", id.file, err)
		}
		if err := c.writeIdentity(id, ca.pem, certificate, key); err != nil {
			return err
		}
	}
	return os.WriteFile(c.kubeconfig(), c.kubeconfigText("admin", ca.pem), 0o600)
}

func (c *cluster) nodeName() string { return c.name + "-node" }

func (c *cluster) writeIdentity(id identity, ca, certificate, key []byte) error {
	if err := os.WriteFile(c.path("pki", id.file+".crt"), certificate, 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(c.path("pki", id.file+".key"), key, 0o600); err != nil {
		return err
	}
	return os.WriteFile(c.path("pki", id.file+".kubeconfig"), c.kubeconfigText(id.file, ca), 0o600)
}

func newAuthority() (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "slipway-cluster"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(10, 0, 0),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &authority{certificate, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}, nil
}

func (a *authority) issue(id identity) (certificate, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: id.name, Organization: id.groups}, DNSNames: id.dns, IPAddresses: id.ips,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(10, 0, 0), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, private.Public(), a.key)
	if err != nil {
		return nil, nil, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), nil
}

func (c *cluster) writeServiceAccountKey() error {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	private := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return err
	}
	if err := os.WriteFile(c.path("pki", "sa.key"), private, 0o600); err != nil {
		return err
	}
	return os.WriteFile(c.path("pki", "sa.pub"), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o644)
}

// kubeconfigText carries the administrator's key inline, so that the file can be copied; the parts' files refer to pki/.
func (c *cluster) kubeconfigText(file string, ca []byte) []byte {
	user := fmt.Sprintf("client-certificate: %s\n    client-key: %s", c.path("pki", file+".crt"), c.path("pki", file+".key"))
	if file == "admin" {
		certificate, _ := os.ReadFile(c.path("pki", "admin.crt"))
		key, _ := os.ReadFile(c.path("pki", "admin.key"))
		user = "client-certificate-data: " + base64.StdEncoding.EncodeToString(certificate) + "\n    client-key-data: " + base64.StdEncoding.EncodeToString(key)
	}
	return fmt.Appendf(nil, `apiVersion: v1
kind: Config
current-context: %[1]s
clusters:
- name: %[1]s
  cluster:
    server: %[2]s
    certificate-authority-data: %[3]s
contexts:
- name: %[1]s
  context: {cluster: %[1]s, user: %[1]s}
users:
- name: %[1]s
  user:
    %[4]s
`, "slipway-"+c.name, c.apiServer(), base64.StdEncoding.EncodeToString(ca), user)
}
