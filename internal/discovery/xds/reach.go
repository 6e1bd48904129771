package xds

import (
	"slices"
	"time"
)

// Reach says how many of the connected proxies hold the mesh as it was after a step, or later: they have acknowledged all
// that it made of their configuration, and rejected nothing of it. Steps are what Update returns.
func (s *Server) Reach(step uint64) (reached, of int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for st := range s.streams {
		// A stream that a step did not change holds it already: its target is of an earlier one.
		if st.done.Load() >= min(step, st.target.Load().step) && !st.rejects() {
			reached++
		}
	}
	return reached, len(s.streams)
}

// rejects says whether the proxy refused the last response of any type.
func (s *stream) rejects() bool {
	s.reportMu.Lock()
	defer s.reportMu.Unlock()
	return slices.ContainsFunc(s.reports[:], func(r TypeReport) bool { return r.Error != "" })
}

// noteStep remembers the step of the target, if all of it is acknowledged.
func (s *stream) noteStep() {
	target := s.target.Load()
	if s.done.Load() == target.step || s.warmAll || len(s.warming) > 0 {
		return
	}
	for i, t := range s.types {
		if t == nil {
			continue
		}
		pending := len(t.suspects) + len(t.fresh)
		if i != endpointIndex { // endpoints go with their cluster
			pending += len(t.doomed)
		}
		if t.nonce != "" || pending > 0 || !slices.Equal(t.base, target.parts[i]) {
			return
		}
	}
	s.done.Store(target.step)
	began := target.made
	if began.Before(s.since) {
		began = s.since
	}
	s.metrics.Converged.Observe(time.Since(began).Seconds())
}
