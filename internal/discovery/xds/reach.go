package xds

import (
	"math"
	"slices"
	"time"
)

// Reach says of each step how many of the connected proxies hold the mesh as it was after it, or later: they have
// acknowledged all that it made of their configuration, and rejected nothing of it. Steps are what Update returns.
func (s *Server) Reach(steps ...uint64) (reached []int, of int) {
	held, of := s.held()
	for _, step := range steps {
		before, _ := slices.BinarySearch(held, step)
		reached = append(reached, len(held)-before)
	}
	return reached, of
}

// held is up to which step each stream holds what there is, in order, without those of proxies that rejected something.
func (s *Server) held() (held []uint64, of int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for st := range s.streams {
		done := st.done.Load()
		if done >= st.target.Load().step {
			done = math.MaxUint64 // what came after changed nothing for it
		}
		if !st.rejects() {
			held = append(held, done)
		}
	}
	slices.Sort(held)
	return held, len(s.streams)
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
	known := s.done.Load() == target.step
	if known && s.turn == nil || !s.settled(target) {
		return
	}
	s.endTurn()
	if known {
		return
	}
	s.done.Store(target.step)
	began := target.made
	if began.Before(s.since) {
		began = s.since
	}
	s.metrics.Converged.Observe(time.Since(began).Seconds())
}

// settled says whether the proxy was sent all of a target that it asked for, and acknowledged it.
func (s *stream) settled(target *target) bool {
	if s.warmAll || len(s.warming) > 0 {
		return false
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
			return false
		}
	}
	return true
}
