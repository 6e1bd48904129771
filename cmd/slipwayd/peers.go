package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/slipway-mesh/slipway/internal/discovery/resolve"
)

// peerPatience is how long another replica may take to answer.
const peerPatience = 3 * time.Second

// peerClient asks other replicas by mutual TLS: all have certificates of one authority, which may be another one tomorrow.
func (p *plane) peerClient() *http.Client {
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(p.authority.Current().RootPEM())
		// All revisions serve by this name.
		config := p.options.compliance.Limit(&tls.Config{RootCAs: roots, ServerName: "istiod." + p.options.namespace + ".svc", GetClientCertificate: p.serving.ForPeers, MinVersion: tls.VersionTLS12})
		return (&tls.Dialer{Config: config}).DialContext(ctx, network, address)
	}
	return &http.Client{Timeout: peerPatience, Transport: &http.Transport{IdleConnTimeout: time.Minute, DialTLSContext: dial}}
}

// others are the other replicas of this revision.
func (p *plane) others() []resolve.Replica {
	return slices.DeleteFunc(p.engine.State().Replicas(), func(r resolve.Replica) bool {
		return r.Name == p.reporter.Instance || r.Revision != p.options.revision
	})
}

// askPeer gets one of debugRoutes of another replica.
func askPeer[T any](ctx context.Context, p *plane, peer resolve.Replica, path string) (T, error) {
	var out T
	_, port, err := net.SplitHostPort(p.options.webhooks)
	if err != nil {
		return out, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+net.JoinHostPort(peer.Address, port)+path, http.NoBody)
	if err != nil {
		return out, err
	}
	response, err := p.peers.Do(request)
	if err != nil {
		return out, fmt.Errorf("ask %s: %w", peer.Name, err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return out, fmt.Errorf("%s answers %s: %s", peer.Name, path, response.Status)
	}
	return out, json.NewDecoder(response.Body).Decode(&out)
}
