package xds

import (
	"log/slog"
	"time"

	"github.com/slipway-mesh/slipway/internal/discovery/envoy"
)

// A proxy that comes from another replica may have been ahead of this one, whose view of the cluster is a little older. It is sent
// what this replica knows, so that all proxies of a replica agree, and the newer state as soon as that is known here. Versions are
// hashes and do not tell which is newer; but that a proxy is sent just what it brought along, after something else, does.

const (
	broughtNames = 64          // of a type that are remembered: some suffice to notice
	broughtFor   = time.Minute // no replica is behind for longer
)

// bring remembers what a proxy brought along that is not so here.
func (t *typeState) bring(name, version string) {
	if t.brought == nil {
		t.brought = map[string]string{}
	}
	if len(t.brought) < broughtNames {
		t.brought[name] = version
	}
}

// noteRollback looks whether a response brings back what the proxy once had.
func (s *stream) noteRollback(i int, t *typeState, resources []*envoy.Resource) {
	if t.brought == nil {
		return
	}
	if time.Since(s.since) > broughtFor {
		t.brought = nil
		return
	}
	for _, r := range resources {
		if version, had := t.brought[r.Name]; had && version == r.Version {
			s.metrics.Rollbacks.Inc()
			slog.Warn("xDS: a proxy came with a newer state of the mesh than this replica had, and was sent the older one meanwhile", "node", s.proxy.ID, "type", shortNames[i], "name", r.Name, "for", time.Since(s.since))
			t.brought = nil
			return
		}
	}
}
