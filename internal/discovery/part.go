package discovery

import (
	"github.com/slipway-mesh/slipway/internal/discovery/xds"
)

// Part is what one replica of the control plane has a part of: each has other proxies.
type Part struct {
	Proxies    []xds.ProxyReport
	Objects    []ObjectReach
	Rejections []xds.Rejection
}

// ObjectReach is how far one object has come.
type ObjectReach struct {
	Known
	Reached, Of int
}

// Part tells this replica's.
func (e *Engine) Part() Part {
	objects, steps := e.reach.all()
	reached, of := e.Server.Reach(steps...)
	out := Part{Proxies: e.Server.Report(), Rejections: e.Server.Quarantine.List()}
	for i, object := range objects {
		out.Objects = append(out.Objects, ObjectReach{object, reached[i], of})
	}
	return out
}
