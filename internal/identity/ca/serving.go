package ca

import (
	"crypto/tls"
	"fmt"
	"sync"
	"time"

	"github.com/slipway-mesh/slipway/internal/identity"
)

// servingLifetime is that of a serving certificate; a new one is made half-way through.
const servingLifetime = 30 * 24 * time.Hour

// Serving is a server's certificate, issued by the authority in force for the names and the identity, and renewed as it is
// asked for.
type Serving struct {
	Authorities *Keeper
	Names       []string
	ID          identity.ID

	mu      sync.Mutex
	current *tls.Certificate
	by      *Authority
	renew   time.Time
}

// ForPeers is for tls.Config.GetClientCertificate.
func (s *Serving) ForPeers(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	return s.Certificate(nil)
}

// Certificate is for tls.Config.GetCertificate.
func (s *Serving) Certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	authority := s.Authorities.Current()
	if s.by == authority && time.Now().Before(s.renew) {
		return s.current, nil
	}
	chain, key, err := authority.Serve(s.Names, s.ID, servingLifetime, time.Now())
	if err != nil {
		return nil, fmt.Errorf("issue the serving certificate: %w", err)
	}
	pair, err := tls.X509KeyPair(chain, key)
	if err != nil {
		return nil, err
	}
	s.current, s.by, s.renew = &pair, authority, time.Now().Add(servingLifetime/2)
	return s.current, nil
}
