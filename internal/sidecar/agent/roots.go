package agent

import (
	"context"
	"errors"
	"log/slog"
	"strings"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/slipway-mesh/slipway/internal/trustbundle"
)

// told are the roots that the control plane told.
func (s *secrets) told() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.roots
}

// followed is the version of the roots that were followed last, for a control plane that may have others by now.
func (s *secrets) followed() map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.version == "" {
		return nil
	}
	return map[string]string{trustbundle.Name: s.version}
}

// trust takes the roots that the control plane tells, of which the first signs. It returns when the workload has a certificate of that
// one, or with the context.
func (s *secrets) trust(ctx context.Context, roots []string) error {
	s.mu.Lock()
	s.roots = roots
	if s.current != nil {
		trusting := *s.current
		trusting.RootPEM = []byte(strings.Join(roots, ""))
		s.publish(&trusting)
	}
	s.mu.Unlock()
	slog.Info("certificate: roots told", "number", len(roots))
	for {
		certificate, changed, _ := s.state()
		if certificate != nil && certificate.SignedUnder(roots[0]) {
			return nil
		}
		if certificate != nil {
			select {
			case s.renew <- struct{}{}:
			default:
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

// rootsTap follows the roots that come on one stream, one answer after the other.
type rootsTap struct {
	secrets *secrets // nil where nobody follows
	cancel  context.CancelFunc
}

// take follows a response. The answer to it is sent when that is done, which may wait for a certificate.
func (r *rootsTap) take(ctx context.Context, bytes []byte, answer func(*discovery.DeltaDiscoveryRequest) error) error {
	response := &discovery.DeltaDiscoveryResponse{}
	if err := proto.Unmarshal(bytes, response); err != nil {
		return err
	}
	roots, version, err := rootsIn(response)
	request := &discovery.DeltaDiscoveryRequest{ResponseNonce: response.Nonce}
	if err != nil {
		slog.Warn("certificate: roots that cannot be read", "error", err)
		request.ErrorDetail = &status.Status{Code: int32(codes.InvalidArgument), Message: err.Error()}
		return answer(request)
	}
	if r.cancel != nil { // what came before is not waited for any more
		r.cancel()
	}
	ctx, r.cancel = context.WithCancel(ctx)
	go func() {
		if err := r.secrets.trust(ctx, roots); err != nil {
			return
		}
		r.secrets.mu.Lock()
		r.secrets.version = version
		r.secrets.mu.Unlock()
		if err := answer(request); err != nil {
			slog.Debug("certificate: the stream has ended", "error", err)
		}
	}()
	return nil
}

func rootsIn(response *discovery.DeltaDiscoveryResponse) (roots []string, version string, err error) {
	for _, resource := range response.Resources {
		roots, err := trustbundle.Unmarshal(resource.GetResource().GetValue())
		if err != nil || len(roots) > 0 {
			return roots, resource.Version, err
		}
	}
	return nil, "", errors.New("there is no root certificate in them")
}
