package agent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

// dial connects to the control plane. The root and the token are read anew each time: both are replaced on disk.
func dial(o Options, address string, options ...grpc.DialOption) (*grpc.ClientConn, error) {
	root, err := os.ReadFile(o.RootFile)
	if err != nil {
		return nil, fmt.Errorf("read the control plane's root certificate: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(root) {
		return nil, fmt.Errorf("%s has no certificate", o.RootFile)
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("address %q: %w", address, err)
	}
	transport := credentials.NewTLS(&tls.Config{RootCAs: pool, ServerName: host, MinVersion: tls.VersionTLS12})
	// A service config in DNS is of no use here, and to ask for it would wait for a DNS server that may not answer yet.
	options = append(options, grpc.WithTransportCredentials(transport), grpc.WithPerRPCCredentials(tokenFile(o.TokenFile)), grpc.WithDisableServiceConfig())
	return grpc.NewClient("dns:///"+address, options...)
}

// tokenFile sends the service account's token, which the kubelet renews in place.
type tokenFile string

func (f tokenFile) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	token, err := os.ReadFile(string(f))
	if err != nil {
		return nil, fmt.Errorf("read the service account's token: %w", err)
	}
	return map[string]string{"authorization": "Bearer " + strings.TrimSpace(string(token))}, nil
}

func (tokenFile) RequireTransportSecurity() bool { return true }
