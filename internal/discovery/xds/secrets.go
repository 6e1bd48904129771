package xds

import (
	"context"
	"log/slog"
	"strconv"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/slipway-mesh/slipway/internal/discovery/envoy"
)

// SecretSource has the secrets that gateways name. It returns nil for what is not there, and for what the caller may not have.
type SecretSource interface {
	Secret(ctx context.Context, caller Identity, name string) *envoy.Resource
}

// secretTimeout is how long one look-up may take: it may ask the API server.
const secretTimeout = 5 * time.Second

// secretState is what a stream holds of secrets. They are in no target: each is read when it is asked for.
type secretState struct {
	versions map[string]string // by the names that are subscribed; empty is not sent yet
	nonce    string            // of the response that is not acknowledged yet
}

// SecretsChanged makes all streams that have secrets look again.
func (s *Server) SecretsChanged() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for st := range s.streams {
		if st.watchesSecrets.Load() {
			st.secretsStale.Store(true)
			st.wake()
		}
	}
}

// handleSecrets takes a subscription or an answer. Only a proxy that was authenticated gets secrets.
func (s *stream) handleSecrets(request *request) error {
	if s.secretSource == nil || s.identity == nil {
		return s.refuseType(request)
	}
	if s.secrets == nil {
		s.secrets = &secretState{versions: map[string]string{}}
		s.watchesSecrets.Store(true)
	}
	held := request.held.versions()
	for _, name := range request.ResourceNamesSubscribe {
		s.secrets.versions[name] = held[name]
	}
	if len(request.ResourceNamesSubscribe) > 0 {
		s.secretsStale.Store(true)
	}
	for _, name := range request.ResourceNamesUnsubscribe {
		delete(s.secrets.versions, name)
	}
	if request.ResponseNonce != "" && request.ResponseNonce == s.secrets.nonce {
		s.secrets.nonce = ""
		if request.ErrorDetail != nil {
			s.metrics.Rejects.WithLabelValues("sds").Inc()
			slog.Error("xDS: a proxy rejected a secret", "node", s.proxy.ID, "error", request.ErrorDetail.Message)
		}
	}
	return s.pushSecrets()
}

// pushSecrets sends the secrets that are new or other ones, if there can be any: to read one is to check its key. One that is gone stays with the proxy: to take it away would close a
// port that works.
func (s *stream) pushSecrets() error {
	if s.secrets == nil || s.secrets.nonce != "" || !s.secretsStale.Swap(false) {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), secretTimeout)
	defer cancel()
	var changed []*envoy.Resource
	for name, version := range s.secrets.versions {
		if r := s.secretSource.Secret(ctx, *s.identity, name); r != nil && r.Version != version {
			s.secrets.versions[name] = r.Version
			changed = append(changed, r)
		}
	}
	if len(changed) == 0 {
		return nil
	}
	s.nonce++
	s.secrets.nonce = strconv.FormatUint(s.nonce, 10)
	s.metrics.Pushes.WithLabelValues("sds").Inc()
	return s.send(&response{head: &discovery.DeltaDiscoveryResponse{TypeUrl: envoy.SecretType, Nonce: s.secrets.nonce, ControlPlane: controlPlane}, resources: changed})
}
