package xds

import (
	"sort"
	"time"
)

// TypeReport is how a stream stands with one type.
type TypeReport struct {
	Sent, Acknowledged string // nonces
	At                 time.Time
	Resources          int // in the last response
	Rejected           int
	Error              string
}

// ProxyReport is how a proxy stands.
type ProxyReport struct {
	ID, Version string
	Connected   time.Time
	VHDS        bool
	Types       map[string]TypeReport
}

func (s *stream) report(i int, change func(*TypeReport)) {
	s.reportMu.Lock()
	defer s.reportMu.Unlock()
	change(&s.reports[i])
}

// Report says how each connected proxy stands, in the order of node IDs.
func (s *Server) Report() []ProxyReport {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]ProxyReport, 0, len(s.streams))
	for st := range s.streams {
		r := ProxyReport{ID: st.proxy.ID, Version: st.proxy.Version, Connected: st.since, VHDS: st.proxy.VHDS, Types: map[string]TypeReport{}}
		st.reportMu.Lock()
		for i, one := range st.reports {
			if one.Sent != "" {
				r.Types[shortNames[i]] = one
			}
		}
		st.reportMu.Unlock()
		out = append(out, r)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].ID < out[j].ID })
	return out
}
