package identity

import (
	"crypto/tls"
	"fmt"
	"sync"
	"time"
)

// servingLifetime is that of a serving certificate; a new one is made half-way through.
const servingLifetime = 30 * 24 * time.Hour

// Serving is a server's certificate, issued by the authority for the names and the identity, and renewed as it is asked
// for.
type Serving struct {
	Authority *Authority
	Names     []string
	ID        ID

	mu      sync.Mutex
	current *tls.Certificate
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
	if s.current != nil && time.Now().Before(s.renew) {
		return s.current, nil
	}
	chain, key, err := s.Authority.Serve(s.Names, s.ID, servingLifetime, time.Now())
	if err != nil {
		return nil, fmt.Errorf("issue the serving certificate: %w", err)
	}
	pair, err := tls.X509KeyPair(chain, key)
	if err != nil {
		return nil, err
	}
	s.current, s.renew = &pair, time.Now().Add(servingLifetime/2)
	return s.current, nil
}
