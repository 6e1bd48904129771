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
	ID string
	// Version is the agent's, where it tells; Envoy is that of the proxy itself.
	Version, Envoy string
	Connected      time.Time
	VHDS           bool
	Types          map[string]TypeReport
}

// Standing is how the proxy stands with one type, such as cds: SYNCED, STALE while an answer is out, REJECTED while the
// last was refused, or NOT SENT.
func (r ProxyReport) Standing(kind string) string {
	t, ok := r.Types[kind]
	switch {
	case !ok:
		return "NOT SENT"
	case t.Error != "":
		return "REJECTED"
	case t.Sent != t.Acknowledged:
		return "STALE"
	}
	return "SYNCED"
}

// Columns are the types by which a proxy's state is told, as their streams name them.
var Columns = []string{"cds", "lds", "eds", "rds", "vhds"}

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
		r := ProxyReport{ID: st.proxy.ID, Version: st.proxy.Version, Envoy: st.proxy.Build, Connected: st.since, VHDS: st.proxy.VHDS, Types: map[string]TypeReport{}}
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
