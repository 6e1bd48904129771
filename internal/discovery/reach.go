package discovery

import (
	"sync"

	"github.com/slipway-mesh/slipway/internal/discovery/source"
)

// Reach is how far an object has come.
type Reach struct {
	// ResourceVersion is that of the object that the control plane has taken in.
	ResourceVersion string `json:"resourceVersion"`
	// Reached of Of connected proxies have acknowledged what it made.
	Reached int `json:"reached"`
	Of      int `json:"of"`
}

// unfollowed are the kinds whose objects come and go by themselves: nobody waits for one.
var unfollowed = map[string]bool{"Pod": true, "EndpointSlice": true, "Node": true, "Secret": true, "ConfigMap": true}

// steps remembers in which step the control plane took in each object.
type steps struct {
	mu sync.Mutex
	at map[source.Key]stepAt
}

type stepAt struct {
	version string
	step    uint64
	arrived bool // somebody was told that all proxies hold it
}

// Known is an object in the version that the control plane has taken in.
type Known struct{ Kind, Namespace, Name, Version string }

// Unarrived lists the objects of which Arrived was not told yet in their present version.
func (e *Engine) Unarrived() []Known {
	e.reach.mu.Lock()
	defer e.reach.mu.Unlock()
	var out []Known
	for key, at := range e.reach.at {
		if !at.arrived {
			out = append(out, Known{key.Kind, key.Namespace, key.Name, at.version})
		}
	}
	return out
}

// Arrived notes that all proxies are known to hold an object in a version.
func (e *Engine) Arrived(kind, namespace, name, version string) {
	e.reach.mu.Lock()
	defer e.reach.mu.Unlock()
	key := source.Key{Kind: kind, Namespace: namespace, Name: name}
	if at, known := e.reach.at[key]; known && at.version == version {
		at.arrived = true
		e.reach.at[key] = at
	}
}

func (s *steps) note(changes []source.Change, step uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.at == nil {
		s.at = map[source.Key]stepAt{}
	}
	for _, c := range changes {
		if unfollowed[c.Kind] {
			continue
		}
		key := c.Key()
		versioned, ok := c.Object.(interface{ GetResourceVersion() string })
		if !ok {
			delete(s.at, key)
			continue
		}
		at := stepAt{version: versioned.GetResourceVersion(), step: step}
		if last, known := s.at[key]; known && step == 0 {
			at.step = last.step // its last change may still be on its way
		}
		s.at[key] = at
	}
}

// all lists the objects, and the step of each.
func (s *steps) all() (objects []Known, steps []uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, at := range s.at {
		objects, steps = append(objects, Known{key.Kind, key.Namespace, key.Name, at.version}), append(steps, at.step)
	}
	return objects, steps
}

func (s *steps) of(kind, namespace, name string) (stepAt, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at, known := s.at[source.Key{Kind: kind, Namespace: namespace, Name: name}]
	return at, known
}
