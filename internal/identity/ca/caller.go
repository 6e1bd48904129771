package ca

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/slipway-mesh/slipway/internal/identity"
)

// Callers finds out who calls: by a service account's token, or by a certificate of the mesh whose key the caller has
// proved to have. The listener must ask for certificates (tls.RequestClientCert), and need not look at them.
type Callers struct {
	Authorities *Keeper
	Reviewer    *Reviewer
	TrustDomain string
}

// OfRPC returns who calls a gRPC method.
func (c *Callers) OfRPC(ctx context.Context) (identity.ID, error) {
	incoming, _ := metadata.FromIncomingContext(ctx)
	var state *tls.ConnectionState
	if from, ok := peer.FromContext(ctx); ok {
		if info, ok := from.AuthInfo.(credentials.TLSInfo); ok {
			state = &info.State
		}
	}
	return c.identify(ctx, incoming.Get("authorization"), state)
}

// OfRequest returns who sends an HTTP request.
func (c *Callers) OfRequest(r *http.Request) (identity.ID, error) {
	return c.identify(r.Context(), r.Header["Authorization"], r.TLS)
}

// identify takes whichever proof holds: a machine's token ends long before its certificate does.
func (c *Callers) identify(ctx context.Context, authorization []string, state *tls.ConnectionState) (identity.ID, error) {
	var wrong []error
	for _, value := range authorization {
		if token, ok := strings.CutPrefix(value, "Bearer "); ok {
			id, err := c.Reviewer.Review(ctx, token)
			if err == nil {
				return id, nil
			}
			wrong = append(wrong, err)
		}
	}
	if state != nil && len(state.PeerCertificates) > 0 {
		id, err := c.ofCertificate(state.PeerCertificates)
		if err == nil {
			return id, nil
		}
		wrong = append(wrong, err)
	}
	if len(wrong) == 0 {
		return identity.ID{}, errors.New("neither a bearer token nor a certificate")
	}
	return identity.ID{}, errors.Join(wrong...)
}

// ofCertificate takes a chain, leaf first.
func (c *Callers) ofCertificate(chain []*x509.Certificate) (identity.ID, error) {
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AppendCertsFromPEM(c.Authorities.Current().RootPEM())
	for _, certificate := range chain[1:] {
		between.AddCert(certificate)
	}
	leaf := chain[0]
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		return identity.ID{}, fmt.Errorf("the certificate is not of this mesh: %w", err)
	}
	if len(leaf.URIs) != 1 {
		return identity.ID{}, errors.New("the certificate has no identity")
	}
	id, err := identity.Parse(leaf.URIs[0].String())
	if err == nil && id.TrustDomain != c.TrustDomain {
		err = fmt.Errorf("the certificate is of trust domain %s", id.TrustDomain)
	}
	return id, err
}
