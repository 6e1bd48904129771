package xds

import (
	"maps"
	"slices"
	"sort"
	"strconv"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/slipway-mesh/slipway/internal/discovery/envoy"
)

// advance sends what may be sent now. New clusters go first, and their endpoints; when these are acknowledged, listeners,
// route tables and virtual hosts; when those are, clusters that nothing uses any more go away. Whatever waits, waits at
// most until the barrier's deadline; and a newer target takes the place of an older one at once.
func (s *stream) advance() error {
	target := s.target.Load()
	for _, i := range []int{clusterIndex, endpointIndex} {
		if err := s.push(i, target, false); err != nil {
			return err
		}
	}
	if s.waits(clusterIndex) || s.waits(endpointIndex) || len(s.warming) > 0 {
		if !s.expired() {
			return nil
		}
		clear(s.warming)
	}
	for _, i := range []int{listenerIndex, routeIndex, hostIndex} {
		if err := s.push(i, target, true); err != nil {
			return err
		}
	}
	if t := s.types[clusterIndex]; t == nil || len(t.doomed) == 0 {
		s.deadline = time.Time{}
		return nil
	}
	if (s.waits(listenerIndex) || s.waits(routeIndex) || s.waits(hostIndex)) && !s.expired() {
		return nil
	}
	s.deadline = time.Time{}
	return s.push(clusterIndex, target, true)
}

// waits says that a response of the type is not acknowledged yet.
func (s *stream) waits(i int) bool { return s.types[i] != nil && s.types[i].nonce != "" }

// expired says that the barrier's deadline has passed; it sets one where there is none.
func (s *stream) expired() bool {
	if s.deadline.IsZero() {
		s.deadline = time.Now().Add(barrier)
		return false
	}
	return !time.Now().Before(s.deadline)
}

// push sends what differs between what the proxy was sent and the target. While a response is not acknowledged nothing
// of its type is sent: what comes meanwhile is sent as one difference later. remove says that removals may go.
func (s *stream) push(i int, target *target, remove bool) error {
	t := s.types[i]
	if t == nil || t.nonce != "" {
		return nil
	}
	var resources []*envoy.Resource
	if i == hostIndex {
		resources = s.hostChanges(t, target)
	} else {
		resources = s.changes(i, t, target)
	}
	removed := []string(nil)
	if remove {
		removed = slices.Sorted(maps.Keys(t.doomed))
		clear(t.doomed)
	}
	t.base = target.parts[i]
	if len(resources) == 0 && len(removed) == 0 && t.answered {
		return nil
	}
	// The first request of a type is always answered: an Envoy that starts waits for it.
	if len(resources) == 0 && len(removed) == 0 && i == hostIndex {
		return nil
	}
	return s.respond(i, t, resources, removed)
}

// changes lists what to send of a type, and marks what is gone.
func (s *stream) changes(i int, t *typeState, target *target) []*envoy.Resource {
	now := target.parts[i]
	out := map[string]*envoy.Resource{}
	changed, removed := diff(now, t.base)
	for _, r := range changed {
		if t.wildcard || t.subscribed[r.Name] {
			out[r.Name] = r
		}
		delete(t.doomed, r.Name)
	}
	for _, name := range removed {
		if _, there := get(now, name); !there && (t.wildcard || t.subscribed[name]) {
			t.doomed[name] = true
		}
	}
	if i == routeIndex && !s.proxy.VHDS {
		for table := range changedTables(target.parts[hostIndex], t.hostBase) {
			if r, there := get(now, table); there && t.subscribed[table] {
				out[table] = r
			}
		}
		t.hostBase = target.parts[hostIndex]
	}
	for name := range t.fresh {
		if r, there := get(now, name); there {
			out[name] = r
			delete(t.fresh, name)
		} else if i == endpointIndex || i == routeIndex {
			t.doomed[name] = true // say that it is not there; if it comes, it is sent
			delete(t.fresh, name)
		}
	}
	return sorted(out)
}

// changedTables are the tables that have a virtual host that differs.
func changedTables(to, from []*envoy.Section) map[string]bool {
	tables := map[string]bool{}
	changed, removed := diff(to, from)
	for _, r := range changed {
		tables[envoy.TableOf(r.Name)] = true
	}
	for _, name := range removed {
		tables[envoy.TableOf(name)] = true
	}
	return tables
}

func sorted(set map[string]*envoy.Resource) []*envoy.Resource {
	list := slices.Collect(maps.Values(set))
	sort.Slice(list, func(a, b int) bool { return list[a].Name < list[b].Name })
	return list
}

// hostChanges lists the virtual hosts to send: all of a table that has just been acknowledged, and what changed in those
// that were before. Virtual hosts follow their table: Envoy drops what it has no table for, and acknowledges it still.
func (s *stream) hostChanges(t *typeState, target *target) []*envoy.Resource {
	out := map[string]*envoy.Resource{}
	changed, removed := diff(target.parts[hostIndex], t.base)
	for _, r := range changed {
		if s.opened[envoy.TableOf(r.Name)] {
			out[r.Name] = r
			delete(t.doomed, r.Name)
		}
	}
	for _, name := range removed {
		if s.opened[envoy.TableOf(name)] {
			t.doomed[name] = true
		}
	}
	for table := range s.usableTables(target) {
		if s.opened[table] {
			continue
		}
		s.opened[table] = true
		there := map[string]bool{}
		for _, r := range target.hostsOf(table) {
			there[r.Name] = true
			if t.held[r.Name] != r.Version {
				out[r.Name] = r
			}
		}
		for name := range t.held {
			if envoy.TableOf(name) == table && !there[name] {
				t.doomed[name] = true
			}
		}
	}
	return sorted(out)
}

// usableTables are the route tables that the proxy has subscribed to, was sent and has acknowledged. Those that are gone
// are closed.
func (s *stream) usableTables(target *target) map[string]bool {
	usable := map[string]bool{}
	routes := s.types[routeIndex]
	if routes == nil || routes.nonce != "" {
		return usable
	}
	for name := range routes.subscribed {
		if _, there := get(target.parts[routeIndex], name); there && !routes.fresh[name] {
			usable[name] = true
		}
	}
	for table := range s.opened {
		if !usable[table] {
			delete(s.opened, table)
		}
	}
	return usable
}

func (s *stream) respond(i int, t *typeState, resources []*envoy.Resource, removed []string) error {
	s.nonce++
	t.nonce = strconv.FormatUint(s.nonce, 10)
	t.answered = true
	response := &discovery.DeltaDiscoveryResponse{TypeUrl: typeURLs[i], Nonce: t.nonce, RemovedResources: removed, ControlPlane: controlPlane}
	bytes := 0
	for _, r := range s.shaped(i, resources) {
		response.Resources = append(response.Resources, &discovery.Resource{Name: r.Name, Version: r.Version, Resource: r.Body})
		bytes += len(r.Body.Value)
		switch i {
		case clusterIndex:
			s.warm(r.Name)
		case endpointIndex:
			t.sent = append(t.sent, r.Name)
		}
	}
	s.metrics.Pushes.WithLabelValues(shortNames[i]).Inc()
	s.metrics.Bytes.WithLabelValues(shortNames[i]).Add(float64(bytes))
	s.report(i, func(r *TypeReport) { r.Sent = t.nonce; r.At = time.Now(); r.Resources = len(response.Resources) })
	return s.send(response)
}

// shaped replaces tables that take virtual hosts one by one with whole ones, where the proxy does not.
func (s *stream) shaped(i int, resources []*envoy.Resource) []*envoy.Resource {
	if i != routeIndex || s.proxy.VHDS {
		return resources
	}
	return wholeTables(s.target.Load(), resources)
}

// wholeTables gives tables their virtual hosts.
func wholeTables(target *target, tables []*envoy.Resource) []*envoy.Resource {
	out := make([]*envoy.Resource, len(tables))
	for k, r := range tables {
		out[k] = r
		if hosts := target.hostsOf(r.Name); len(hosts) > 0 {
			out[k] = envoy.WholeTable(r.Name, hosts)
		}
	}
	return out
}

// warm notes a cluster that is sent and has endpoints of its own. Envoy keeps a changed cluster back until endpoints come
// for it, and does not ask again for those that it has (envoy#13009): they are sent again.
func (s *stream) warm(name string) {
	if _, has := get(s.target.Load().parts[endpointIndex], name); !has {
		return
	}
	s.warming[name] = true
	if t := s.types[endpointIndex]; t != nil && t.subscribed[name] {
		t.fresh[name] = true
	}
}

var controlPlane = &core.ControlPlane{Identifier: "slipway"}
