package agent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

// dial connects to the control plane. The root and the token are read anew each time: both are replaced on disk. The roots that
// the control plane told are trusted too: a file may be behind, and outside Kubernetes nobody replaces it.
func (s *secrets) dial(address string, options ...grpc.DialOption) (*grpc.ClientConn, error) {
	o := s.options
	pool, err := o.roots()
	if err != nil {
		return nil, err
	}
	for _, told := range s.told() {
		pool.AppendCertsFromPEM([]byte(told))
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("address %q: %w", address, err)
	}
	transport := credentials.NewTLS(o.Compliance.Limit(&tls.Config{RootCAs: pool, ServerName: host, MinVersion: tls.VersionTLS12, GetClientCertificate: s.shown}))
	// A service config in DNS is of no use here, and to ask for it would wait for a DNS server that may not answer yet.
	options = append(options, grpc.WithTransportCredentials(transport), grpc.WithPerRPCCredentials(token{o.TokenFile, s}), grpc.WithDisableServiceConfig(), grpc.WithReadBufferSize(bufferSize), grpc.WithWriteBufferSize(bufferSize))
	return grpc.NewClient("dns:///"+address, options...)
}

// roots are those of the file that trusts the control plane.
func (o Options) roots() (*x509.CertPool, error) {
	text, err := os.ReadFile(o.RootFile)
	if err != nil {
		return nil, fmt.Errorf("read the control plane's root certificate: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s has no certificate", o.RootFile)
	}
	return pool, nil
}

// shown is the certificate, by which a workload whose token has ended is still known.
func (s *secrets) shown(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	c, _, _ := s.state()
	if c == nil || time.Now().After(c.NotAfter) {
		return &tls.Certificate{}, nil // shows none
	}
	pair, err := tls.X509KeyPair(c.ChainPEM, c.KeyPEM)
	return &pair, err
}

// token sends the service account's token, which the kubelet renews in place. Without one the certificate must do.
type token struct {
	file    string
	secrets *secrets
}

func (t token) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	text, err := os.ReadFile(t.file)
	if err == nil {
		return map[string]string{"authorization": "Bearer " + strings.TrimSpace(string(text))}, nil
	}
	if c, _, _ := t.secrets.state(); c == nil {
		return nil, fmt.Errorf("read the service account's token: %w", err)
	}
	return nil, nil
}

func (token) RequireTransportSecurity() bool { return true }
