package xds

import (
	"log/slog"
	"strings"
	"sync"

	"github.com/slipway-mesh/slipway/internal/discovery/envoy"
)

// Quarantine has the resources that a build of Envoy rejected. They are not sent to that build again, so that each proxy
// keeps the last good one, or has none; what else there is goes on. A changed resource has another version, and is tried anew.
type Quarantine struct {
	mu    sync.RWMutex
	cases map[rejectedKey]Rejection
}

type rejectedKey struct{ kind, name, version, build string }

// Rejection is one resource that a build of Envoy does not take.
type Rejection struct {
	Type, Name, Version string
	Build               string // of Envoy
	Owner               string // path of the object that it was made of, where one is known
	Error               string // in Envoy's words
}

func newQuarantine() *Quarantine { return &Quarantine{cases: map[rejectedKey]Rejection{}} }

func (q *Quarantine) has(kind, build string, r *envoy.Resource) bool {
	q.mu.RLock()
	defer q.mu.RUnlock()
	if len(q.cases) == 0 {
		return false
	}
	_, there := q.cases[rejectedKey{kind, r.Name, r.Version, build}]
	return there
}

// settle forgets what was rejected of names that a proxy of the build has taken, or given up, since.
func (q *Quarantine) settle(kind, build string, resources []*envoy.Resource, removed []string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.cases) == 0 {
		return
	}
	names := map[string]bool{}
	for _, r := range resources {
		names[r.Name] = true
	}
	for _, name := range removed {
		names[name] = true
	}
	for key := range q.cases {
		if key.kind == kind && key.build == build && names[key.name] {
			delete(q.cases, key)
		}
	}
}

func (q *Quarantine) add(kind, build string, r *envoy.Resource, message string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for key := range q.cases { // an older version of the same will not come again
		if key.kind == kind && key.name == r.Name && key.build == build {
			delete(q.cases, key)
		}
	}
	q.cases[rejectedKey{kind, r.Name, r.Version, build}] = Rejection{Type: kind, Name: r.Name, Version: r.Version, Build: build, Owner: envoy.OwnerOf(r), Error: message}
}

// List returns all cases.
func (q *Quarantine) List() []Rejection {
	q.mu.RLock()
	defer q.mu.RUnlock()
	list := make([]Rejection, 0, len(q.cases))
	for _, c := range q.cases {
		list = append(list, c)
	}
	return list
}

// rejected isolates what a proxy refused of its last response of a type: what Envoy names is sent once more by itself, and the
// rest too, since Envoy may have taken none of it. Where it names nothing, the response is halved. Only what is refused when it
// is alone goes into quarantine.
func (s *stream) rejected(i int, t *typeState, message string) {
	s.metrics.Rejects.WithLabelValues(shortNames[i]).Inc()
	s.report(i, func(r *TypeReport) { r.Rejected++; r.Error = message })
	if len(t.sent) == 0 {
		slog.Error("xDS: a proxy rejected a removal", "node", s.proxy.ID, "type", shortNames[i], "names", t.removed, "error", message)
		return
	}
	for _, name := range t.removed {
		if _, back := get(s.target.Load().parts[i], name); !back {
			t.doomed[name] = true
		}
	}
	if len(t.sent) == 1 {
		r := t.sent[0]
		delete(s.warming, r.Name)
		s.quarantine.add(shortNames[i], s.proxy.Build, r, message)
		slog.Error("xDS: a proxy rejected a resource", "node", s.proxy.ID, "type", shortNames[i], "name", r.Name, "error", message)
		return
	}
	var named, rest []*envoy.Resource
	for _, r := range t.sent {
		if strings.Contains(message, r.Name) {
			named = append(named, r)
		} else {
			rest = append(rest, r)
		}
	}
	if len(named) == 0 || len(rest) == 0 {
		half := len(t.sent) / 2
		t.suspects = append(t.suspects, t.sent[:half], t.sent[half:])
		return
	}
	t.suspects = append(t.suspects, rest, named)
}

// nextSuspects takes the next part of a rejected response, without what is quarantined by now and what is not current any
// more.
func (s *stream) nextSuspects(i int, t *typeState, target *target) []*envoy.Resource {
	for len(t.suspects) > 0 {
		group := t.suspects[0]
		t.suspects = t.suspects[1:]
		var send []*envoy.Resource
		for _, r := range group {
			if now, there := get(target.parts[i], r.Name); there && (now.Version == r.Version || i == routeIndex && !s.proxy.VHDS) {
				send = append(send, r)
			} else {
				t.fresh[r.Name] = true // whatever becomes of it, the proxy has not taken it
			}
		}
		if send = s.allowed(i, s.shaped(i, send)); len(send) > 0 {
			return send
		}
	}
	return nil
}

// allowed leaves out what this build of Envoy is known to reject.
func (s *stream) allowed(i int, resources []*envoy.Resource) []*envoy.Resource {
	for k, r := range resources {
		if !s.quarantine.has(shortNames[i], s.proxy.Build, r) {
			continue
		}
		out := append([]*envoy.Resource{}, resources[:k]...) // resources may be shared
		for _, r := range resources[k:] {
			if !s.quarantine.has(shortNames[i], s.proxy.Build, r) {
				out = append(out, r)
			}
		}
		return out
	}
	return resources
}
