package xds

import (
	"log/slog"
	"slices"
	"strconv"
	"sync/atomic"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/slipway-mesh/slipway/internal/discovery/envoy"
	"github.com/slipway-mesh/slipway/internal/trustbundle"
)

// rootsState is what a stream holds of the roots. They are in no target: all proxies have the same, whatever the mesh is. Its loop
// sets them, and a report reads them.
type rootsState struct {
	now          *atomic.Pointer[envoy.Resource] // of the server
	asked        atomic.Bool
	acknowledged atomic.Pointer[string] // the version
	sent         string
	nonce        string // of the response that is not acknowledged yet
}

// SetRoots tells all agents that ask which roots the authority has from now on, in PEM, the one that signs first.
func (s *Server) SetRoots(own []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ownRoots = own
	s.tellRoots()
}

// RootsWith is what agents are told while the authority has these roots: to trust them, and those of MeshConfig.
func (s *Server) RootsWith(own []string) *envoy.Resource {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rootsWith(own)
}

func (s *Server) rootsWith(own []string) *envoy.Resource {
	if s.world == nil {
		return envoy.Roots(own)
	}
	return envoy.Roots(slices.Concat(own, s.world.Config.TrustedRoots, s.world.Config.BundleRoots))
}

// tellRoots tells agents of roots if they are others than before; it is called with the lock.
func (s *Server) tellRoots() {
	if len(s.ownRoots) == 0 {
		return
	}
	next := s.rootsWith(s.ownRoots)
	if last := s.roots.Load(); last != nil && last.Version == next.Version {
		return
	}
	s.roots.Store(next)
	for st := range s.streams {
		if st.roots.asked.Load() {
			st.wake()
		}
	}
}

// handleRoots takes a subscription or an answer. An agent answers when it trusts the roots and has a certificate of the one that signs.
func (s *stream) handleRoots(request *request) error {
	r := &s.roots
	if !r.asked.Swap(true) {
		if has := request.held.versions()[trustbundle.Name]; has != "" {
			r.sent = has
			r.acknowledged.Store(&has)
		}
	}
	if request.ResponseNonce != "" && request.ResponseNonce == r.nonce {
		r.nonce = ""
		if request.ErrorDetail != nil {
			s.metrics.Rejects.WithLabelValues("pcds").Inc()
			slog.Error("xDS: a proxy rejected the roots", "node", s.proxy.ID, "error", request.ErrorDetail.Message)
		} else {
			sent := r.sent
			r.acknowledged.Store(&sent)
		}
	}
	return s.pushRoots()
}

// pushRoots sends other roots than the proxy has. The last ones need not be acknowledged for that: who waits for a certificate of a
// root that signs no more would wait for ever.
func (s *stream) pushRoots() error {
	now := s.roots.now.Load()
	if now == nil || !s.roots.asked.Load() || now.Version == s.roots.sent {
		return nil
	}
	s.nonce++
	s.roots.nonce, s.roots.sent = strconv.FormatUint(s.nonce, 10), now.Version
	s.metrics.Pushes.WithLabelValues("pcds").Inc()
	return s.send(&response{head: &discovery.DeltaDiscoveryResponse{TypeUrl: trustbundle.TypeURL, Nonce: s.roots.nonce, ControlPlane: controlPlane}, resources: []*envoy.Resource{now}})
}

// RootsReport says who follows the roots that are in force.
type RootsReport struct {
	Version string
	Follow  int
	Behind  []string // node IDs of those that are told, and have not followed yet
	Deaf    []string // of those that do not ask: they learn of the roots with their next certificate
}

// RootsReport is of the proxies that are connected here.
func (s *Server) RootsReport() RootsReport {
	var out RootsReport
	if now := s.roots.Load(); now != nil {
		out.Version = now.Version
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for st := range s.streams {
		switch held := st.roots.acknowledged.Load(); {
		case !st.roots.asked.Load():
			out.Deaf = append(out.Deaf, st.proxy.ID)
		case held == nil || *held != out.Version:
			out.Behind = append(out.Behind, st.proxy.ID)
		default:
			out.Follow++
		}
	}
	slices.Sort(out.Behind)
	slices.Sort(out.Deaf)
	return out
}
