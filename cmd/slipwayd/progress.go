package main

import (
	"context"
	"fmt"

	"github.com/slipway-mesh/slipway/internal/discovery"
	"github.com/slipway-mesh/slipway/internal/discovery/report"
)

func (p *plane) progress() *report.Progress {
	return &report.Progress{Dynamic: p.reporter.Dynamic, Pending: p.pendingObjects, Reach: p.reachOf, Done: func(o report.Object) {
		p.engine.Arrived(o.Kind, o.Namespace, o.Name, o.Version)
	}}
}

func (p *plane) pendingObjects() []report.Object {
	var out []report.Object
	for _, one := range p.engine.Unarrived() {
		if report.Follows(one.Kind) {
			out = append(out, report.Object(one))
		}
	}
	return out
}

// reachOf adds up what all replicas say. One that does not know the object in this version yet has reached nobody with it.
func (p *plane) reachOf(ctx context.Context, o report.Object) (reached, of int, ok bool) {
	own, known := p.engine.Reach(o.Kind, o.Namespace, o.Name)
	if !known {
		return 0, 0, false
	}
	answers := []discovery.Reach{own}
	for _, peer := range p.others() {
		answer, err := askPeer[discovery.Reach](ctx, p, peer, fmt.Sprintf("/debug/reach/%s/%s/%s", o.Kind, o.Namespace, o.Name))
		if err != nil {
			return 0, 0, false
		}
		answers = append(answers, answer)
	}
	for _, answer := range answers {
		if answer.ResourceVersion == o.Version {
			reached += answer.Reached
		}
		of += answer.Of
	}
	return reached, of, true
}
