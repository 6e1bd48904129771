package agent

import (
	"bytes"
	"context"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tls "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretservice "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/slipway-mesh/slipway/internal/identity"
)

const secretType = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"

// secrets holds the workload's certificate, renews it half-way through its life, and serves it to Envoy.
type secrets struct {
	secretservice.UnimplementedSecretDiscoveryServiceServer
	options Options

	mu      sync.Mutex
	current *identity.Certificate
	lastErr error
	changed chan struct{} // closed at each change
	roots   []string      // that the control plane told, the one that signs first
	version string        // of the roots that were followed last
	renew   chan struct{} // asks for another certificate before its time
}

func newSecrets(o Options) *secrets {
	return &secrets{options: o, changed: make(chan struct{}), renew: make(chan struct{}, 1)}
}

// run gets a certificate and renews it for ever. What fails is tried again; an old one serves until it ends.
func (s *secrets) run(ctx context.Context) error {
	if s.options.isMounted() {
		return s.follow(ctx)
	}
	const firstDelay, maxDelay = 100 * time.Millisecond, 10 * time.Second
	delay := firstDelay
	for {
		certificate, err := s.fetch(ctx)
		wait := delay
		if err != nil {
			slog.Warn("certificate: not obtained, trying again", "error", err)
			delay = min(delay*2, maxDelay)
			s.set(nil, err)
		} else {
			delay = firstDelay
			wait = time.Until(certificate.RenewAt())
			slog.Info("certificate: obtained", "identity", s.options.ID.String(), "until", certificate.NotAfter)
			s.set(certificate, nil)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(max(wait, firstDelay)):
		case <-s.renew:
			time.Sleep(rand.N(s.hurry()))
		}
	}
}

// hurry is over how long all workloads of a mesh renew when its root is another one: they are told all at once.
func (s *secrets) hurry() time.Duration {
	const longest, shortest = 10 * time.Second, 100 * time.Millisecond
	c, _, _ := s.state()
	if c == nil {
		return shortest
	}
	return min(longest, max(shortest, c.Life()/20))
}

func (s *secrets) fetch(ctx context.Context) (*identity.Certificate, error) {
	connection, err := s.dial(s.options.CA)
	if err != nil {
		return nil, err
	}
	defer func() { _ = connection.Close() }()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return identity.Request(ctx, connection, s.options.ID, s.options.workload(), s.options.CertLifetime)
}

func (s *secrets) set(certificate *identity.Certificate, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastErr = err
	if certificate != nil {
		s.publish(certificate)
	}
}

// publish gives a certificate to all, with the roots that were told; it is called with the lock.
func (s *secrets) publish(certificate *identity.Certificate) {
	trusting := *certificate
	for _, root := range slices.Concat(s.roots, s.options.Config.CaCertificatesPem) { // what the authority answers may be of a moment before
		if !bytes.Contains(trusting.RootPEM, []byte(root)) {
			trusting.RootPEM = append(slices.Clip(trusting.RootPEM), root...)
		}
	}
	s.current = &trusting
	s.options.writeCertificate(s.current)
	close(s.changed)
	s.changed = make(chan struct{})
}

// state returns the certificate, a channel that is closed at the next change, and the last failure.
func (s *secrets) state() (*identity.Certificate, <-chan struct{}, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current, s.changed, s.lastErr
}

// serve offers SDS on the workload socket.
func (s *secrets) serve(ctx context.Context) error {
	listener, err := listenUnix(s.options.SDSSocket)
	if err != nil {
		return err
	}
	server := grpc.NewServer(grpc.ReadBufferSize(bufferSize), grpc.WriteBufferSize(bufferSize))
	secretservice.RegisterSecretDiscoveryServiceServer(server, s)
	return serveUntil(ctx, server, listener)
}

// StreamSecrets answers `default` (the certificate and key), `ROOTCA` and the secrets of files, now and at each change.
func (s *secrets) StreamSecrets(rpc secretservice.SecretDiscoveryService_StreamSecretsServer) error {
	requests := make(chan *discovery.DiscoveryRequest)
	failed := make(chan error, 1)
	go func() { // ends with the stream
		for {
			request, err := rpc.Recv()
			if err != nil {
				failed <- err
				return
			}
			select {
			case requests <- request:
			case <-rpc.Context().Done():
				failed <- rpc.Context().Err()
				return
			}
		}
	}()
	var names []string
	var sent []byte
	var poll <-chan time.Time
	version := 0
	for {
		certificate, changed, _ := s.state()
		response, contents, err := secretResponse(names, certificate, strconv.Itoa(version+1))
		if err != nil {
			return err
		}
		if len(response.Resources) > 0 && !bytes.Equal(contents, sent) {
			version++
			if err := rpc.Send(response); err != nil {
				return err
			}
			sent = contents
		}
		select {
		case err := <-failed:
			return err
		case <-changed:
		case <-poll:
		case request := <-requests:
			if request.ErrorDetail != nil {
				slog.Error("SDS: Envoy rejected a secret", "error", request.ErrorDetail.Message)
			}
			if len(names) == 0 {
				names = request.ResourceNames
			}
			if poll == nil && slices.ContainsFunc(names, isFile) {
				ticker := time.NewTicker(filePoll)
				defer ticker.Stop()
				poll = ticker.C
			}
		}
	}
}

// secretResponse answers for names; what is not there yet is left out. contents are equal for equal secrets.
func secretResponse(names []string, c *identity.Certificate, version string) (response *discovery.DiscoveryResponse, contents []byte, err error) {
	response = &discovery.DiscoveryResponse{TypeUrl: secretType, VersionInfo: version, Nonce: version}
	for _, name := range names {
		secret := secretNamed(name, c)
		if secret == nil {
			continue
		}
		body, err := anypb.New(secret)
		if err != nil {
			return nil, nil, err
		}
		response.Resources = append(response.Resources, body)
		contents = append(contents, body.Value...)
	}
	return response, contents, nil
}

func secretNamed(name string, c *identity.Certificate) *tls.Secret {
	switch {
	case isFile(name):
		return fileSecret(name)
	case c == nil:
		return nil
	case name == "default":
		return certificateSecret(name, c.ChainPEM, c.KeyPEM)
	case name == "ROOTCA":
		return rootSecret(name, c.RootPEM)
	}
	return nil
}

func certificateSecret(name string, chain, key []byte) *tls.Secret {
	return &tls.Secret{Name: name, Type: &tls.Secret_TlsCertificate{TlsCertificate: &tls.TlsCertificate{CertificateChain: bytesOf(chain), PrivateKey: bytesOf(key)}}}
}

func rootSecret(name string, root []byte) *tls.Secret {
	return &tls.Secret{Name: name, Type: &tls.Secret_ValidationContext{ValidationContext: &tls.CertificateValidationContext{TrustedCa: bytesOf(root)}}}
}

func bytesOf(text []byte) *core.DataSource {
	return &core.DataSource{Specifier: &core.DataSource_InlineBytes{InlineBytes: text}}
}
