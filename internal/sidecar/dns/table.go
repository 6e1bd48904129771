// Package dns answers a workload's DNS questions from what the control plane knows, and asks the cluster's own DNS the others. It must not
// know Kubernetes or Envoy.
package dns

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/slipway-mesh/slipway/internal/nametable"
)

// Table is what the control plane has told: hosts with their addresses. It is safe for concurrent use.
type Table struct {
	// Namespace and Domain (such as cluster.local) are the workload's: short names are completed by them.
	Namespace, Domain string

	mu       sync.RWMutex
	hosts    map[string]host
	complete bool
}

type host struct {
	nametable.Entry
	version string
}

// Change is one host's entry and its version in xDS; an entry without a host is gone.
type Change struct {
	Name, Version string
	Entry         *nametable.Entry
}

// Update takes changes in. From the first on, the table is complete.
func (t *Table) Update(changes []Change) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.hosts == nil {
		t.hosts = map[string]host{}
	}
	t.complete = true
	for _, c := range changes {
		if c.Entry == nil {
			delete(t.hosts, strings.ToLower(c.Name))
		} else {
			t.hosts[strings.ToLower(c.Name)] = host{*c.Entry, c.Version}
		}
	}
}

// Versions are those of the hosts that are known, by name.
func (t *Table) Versions() map[string]string {
	t.mu.RLock()
	defer t.mu.RUnlock()
	out := make(map[string]string, len(t.hosts))
	for name, h := range t.hosts {
		out[name] = h.version
	}
	return out
}

// Complete says whether the control plane has told anything yet.
func (t *Table) Complete() bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.complete
}

// Entries lists all hosts by name.
func (t *Table) Entries() []nametable.Entry {
	t.mu.RLock()
	defer t.mu.RUnlock()
	out := make([]nametable.Entry, 0, len(t.hosts))
	for _, name := range slices.Sorted(maps.Keys(t.hosts)) {
		out = append(out, t.hosts[name].Entry)
	}
	return out
}

// Lookup finds the addresses of a name, without its last dot; false if the control plane does not know it. A short name is that of a
// Kubernetes Service; of wildcards the most specific counts.
func (t *Table) Lookup(name string) ([]netip.Addr, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	name = strings.ToLower(name)
	if h, ok := t.hosts[name]; ok {
		return addresses(h), true
	}
	if full, ok := t.expand(name); ok {
		if h, ok := t.hosts[full]; ok && h.Registry == nametable.Kubernetes {
			return addresses(h), true
		}
	}
	for _, rest, found := strings.Cut(name, "."); found; _, rest, found = strings.Cut(rest, ".") {
		if h, ok := t.hosts["*."+rest]; ok {
			return addresses(h), true
		}
	}
	return nil, false
}

// expand completes what could be the short name of a Kubernetes Service.
func (t *Table) expand(name string) (string, bool) {
	switch parts := strings.Split(name, "."); {
	case len(parts) == 1:
		return name + "." + t.Namespace + ".svc." + t.Domain, true
	case len(parts) == 2:
		return name + ".svc." + t.Domain, true
	case len(parts) == 3 && parts[2] == "svc":
		return name + "." + t.Domain, true
	}
	return "", false
}

func addresses(h host) []netip.Addr {
	var out []netip.Addr
	for _, text := range h.Addresses {
		if address, err := netip.ParseAddr(text); err == nil {
			out = append(out, address)
		}
	}
	return out
}
