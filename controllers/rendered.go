package controllers

import (
	"reflect"
	"sync"

	"github.com/slipway-mesh/slipway/internal/install/lifecycle"
)

// rendered keeps the last target of each resource: rendering takes longer than looking at what is settled.
type rendered struct {
	mu   sync.Mutex
	last map[lifecycle.Owner]renderedTarget
}

type renderedTarget struct {
	profiles map[string][]byte
	target   *lifecycle.Target
}

// render renders the spec, or returns what it was rendered to before.
func (r *rendered) render(build lifecycle.Build, owner lifecycle.Owner, spec map[string]any) (*lifecycle.Target, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if last, ok := r.last[owner]; ok && reflect.DeepEqual(last.profiles, build.Profiles) && reflect.DeepEqual(last.target.Spec, spec) {
		return last.target, nil
	}
	target, err := lifecycle.Render(build, owner, spec)
	if err != nil {
		return nil, err
	}
	if r.last == nil {
		r.last = map[lifecycle.Owner]renderedTarget{}
	}
	r.last[owner] = renderedTarget{build.Profiles, target}
	return target, nil
}

func (r *rendered) forget(owner lifecycle.Owner) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.last, owner)
}
