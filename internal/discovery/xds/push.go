package xds

import (
	"maps"
	"slices"
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
	s.removal = time.Time{}
	for name := range s.warming { // one that is gone meanwhile will never be warm
		if _, has := get(target.parts[endpointIndex], name); !has {
			delete(s.warming, name)
		}
	}
	if err := s.push(nameIndex, target, true); err != nil { // nothing depends on it
		return err
	}
	for _, i := range []int{clusterIndex, endpointIndex} {
		if err := s.push(i, target, false); err != nil {
			return err
		}
	}
	if s.waits(clusterIndex) || s.waits(endpointIndex) || s.warmAll || len(s.warming) > 0 {
		if s.deadline.IsZero() {
			s.deadline = time.Now().Add(barrier)
		}
		if time.Now().Before(s.deadline) {
			return nil
		}
		s.warming, s.warmAll = map[string]bool{}, false
	}
	for _, i := range []int{extensionIndex, listenerIndex, routeIndex, hostIndex} {
		if err := s.push(i, target, true); err != nil {
			return err
		}
	}
	s.deadline = time.Time{}
	if t := s.types[clusterIndex]; t == nil || len(t.doomed) == 0 {
		return nil
	}
	// What waits for its turn behind a response that is not acknowledged may still lead to what is to go. However long changes go on
	// before, each of these has its own time.
	for _, i := range []int{listenerIndex, routeIndex, hostIndex} {
		if ends := s.types[i].due(); time.Now().Before(ends) {
			s.removal = ends
			return nil
		}
	}
	return s.push(clusterIndex, target, true)
}

// waits says that a response of the type is not acknowledged yet.
func (s *stream) waits(i int) bool { return s.types[i] != nil && s.types[i].nonce != "" }

// due is until when the acknowledgement of a type's last response is waited for; zero when it is not.
func (t *typeState) due() time.Time {
	if t == nil || t.nonce == "" {
		return time.Time{}
	}
	return t.sentAt.Add(barrier)
}

// wakesAt is when the first of what is waited for is waited for no longer; zero when nothing is.
func (s *stream) wakesAt() time.Time {
	if s.deadline.IsZero() || !s.removal.IsZero() && s.removal.Before(s.deadline) {
		return s.removal
	}
	return s.deadline
}

// push sends what differs between what the proxy was sent and the target. While a response is not acknowledged nothing
// of its type is sent: what comes meanwhile is sent as one difference later. remove says that removals may go.
func (s *stream) push(i int, target *target, remove bool) error {
	t := s.types[i]
	if t == nil || t.nonce != "" {
		return nil
	}
	if suspects := s.nextSuspects(i, t, target); len(suspects) > 0 {
		return s.respond(i, t, suspects, nil, false)
	}
	var resources []*envoy.Resource
	if i == hostIndex {
		resources = s.hostChanges(t, target)
	} else {
		resources = s.changes(i, t, target)
	}
	resources = s.allowed(i, s.shaped(i, resources))
	removed := t.absent
	t.absent = nil
	if remove {
		removed = slices.Sorted(maps.Keys(t.doomed))
		t.doomed = emptied(t.doomed)
	}
	if i == routeIndex {
		for _, table := range removed { // should it come back, its virtual hosts wait for it
			s.closed[table] = true
		}
	}
	if i == nameIndex && !t.byName && len(resources)+len(removed) > 0 {
		resources, removed = []*envoy.Resource{envoy.WholeNameTable(target.parts[i])}, nil
	}
	first := t.base == nil
	t.base = target.parts[i]
	t.subscribed.follow(t.base[0])
	if len(resources) == 0 && len(removed) == 0 && t.answered {
		return nil
	}
	// The first request of a type is always answered: an Envoy that starts waits for it.
	if len(resources) == 0 && len(removed) == 0 && i == hostIndex {
		return nil
	}
	return s.respond(i, t, resources, removed, first)
}

// changes lists what to send of a type, and marks what is gone.
func (s *stream) changes(i int, t *typeState, target *target) []*envoy.Resource {
	now := target.parts[i]
	first := t.base == nil
	changed, removed := diff(now, t.base)
	for _, r := range changed {
		delete(t.doomed, r.Name)
	}
	if !t.wildcard {
		changed = slices.DeleteFunc(changed, func(r *envoy.Resource) bool { return !t.subscribed.has(r.Name) })
	}
	for _, name := range removed {
		if _, there := get(now, name); !there && i != endpointIndex && (t.wildcard || t.subscribed.has(name)) {
			t.doomed[name] = true // endpoints go with their cluster
		}
	}
	if i == routeIndex && !s.proxy.VHDS {
		for table := range changedTables(target.parts[hostIndex], t.hostBase) {
			if t.subscribed.has(table) {
				t.fresh[table] = true
			}
		}
		t.hostBase = target.parts[hostIndex]
	}
	if first && !t.wildcard { // what is asked for and not there is said to be so
		t.subscribed.each(func(name string) {
			if _, there := get(now, name); !there {
				t.fresh[name] = true
			}
		})
	}
	return s.withFresh(i, t, now, changed)
}

// withFresh adds what the proxy waits for whatever it was sent before. That endpoints are not there is said at once: a cluster that is
// to go may be one that Envoy is still warming, and until it is warm Envoy acknowledges no clusters, this one's removal included.
func (s *stream) withFresh(i int, t *typeState, now []*envoy.Section, out []*envoy.Resource) []*envoy.Resource {
	if len(t.fresh) == 0 {
		return out
	}
	for _, r := range out {
		delete(t.fresh, r.Name)
	}
	for name := range t.fresh {
		if r, there := get(now, name); there {
			out = append(out, r)
		} else if i == endpointIndex {
			t.absent = append(t.absent, name)
		} else if i == routeIndex || i == extensionIndex {
			t.doomed[name] = true // say that it is not there; if it comes, it is sent
		}
	}
	t.fresh = emptied(t.fresh)
	return out
}

// emptied is an empty set in a set's place: one that held much keeps its memory even when it is cleared.
func emptied(set map[string]bool) map[string]bool {
	if len(set) == 0 {
		return set
	}
	return map[string]bool{}
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

// hostChanges lists the virtual hosts to send: all of a table that has just been acknowledged, and what changed in those
// that were before. Virtual hosts follow their table: Envoy drops what it has no table for, and acknowledges it still.
func (s *stream) hostChanges(t *typeState, target *target) []*envoy.Resource {
	var out []*envoy.Resource
	usable := s.usableTables(target)
	if len(s.opened) > 0 {
		changed, removed := diff(target.parts[hostIndex], t.base)
		for _, r := range changed {
			if table := envoy.TableOf(r.Name); s.opened[table] && !s.closed[table] {
				out = append(out, r)
				delete(t.doomed, r.Name)
			}
		}
		for _, name := range removed {
			if s.opened[envoy.TableOf(name)] {
				t.doomed[name] = true
			}
		}
	}
	for table := range s.closed { // what was removed of it is told all the same: Envoy keeps a table as long as a listener names it
		delete(s.opened, table)
	}
	clear(s.closed)
	for table := range usable {
		if !s.opened[table] {
			s.opened[table] = true
			out = append(out, s.openTable(t, target, table)...)
		}
	}
	for name := range t.fresh {
		if r, there := get(target.parts[hostIndex], name); there && s.opened[envoy.TableOf(name)] && !slices.Contains(out, r) {
			out = append(out, r)
		}
	}
	t.fresh = emptied(t.fresh)
	if len(usable) > 0 && len(usable) == len(s.opened) {
		t.held = nil // a table that comes later is new to the proxy
	}
	return out
}

// openTable lists the virtual hosts of a table that the proxy does not hold yet.
func (s *stream) openTable(t *typeState, target *target, table string) []*envoy.Resource {
	out := target.hostsOf(table)
	if t.held == nil {
		return out
	}
	for _, name := range t.held.gone(table, func(name string) bool { _, there := get(target.parts[hostIndex], name); return there }) {
		t.doomed[name] = true
	}
	return slices.DeleteFunc(out, func(r *envoy.Resource) bool { return t.held.version(r.Name) == r.Version })
}

// usableTables are the route tables that the proxy has subscribed to, was sent and has acknowledged. Those that are gone
// are closed.
func (s *stream) usableTables(target *target) map[string]bool {
	usable := map[string]bool{}
	routes := s.types[routeIndex]
	if routes == nil || routes.nonce != "" {
		return usable
	}
	routes.subscribed.each(func(name string) {
		if _, there := get(target.parts[routeIndex], name); there && !routes.fresh[name] {
			usable[name] = true
		}
	})
	for table := range s.opened {
		if !usable[table] && !s.closed[table] { // of one that was removed meanwhile the removals are still to be told
			delete(s.opened, table)
		}
	}
	return usable
}

func (s *stream) respond(i int, t *typeState, resources []*envoy.Resource, removed []string, first bool) error {
	s.nonce++
	t.nonce = strconv.FormatUint(s.nonce, 10)
	t.answered = true
	out := &response{
		head:      &discovery.DeltaDiscoveryResponse{TypeUrl: typeURLs[i], Nonce: t.nonce, RemovedResources: removed, ControlPlane: controlPlane},
		resources: resources,
	}
	bytes := 0
	for _, r := range out.resources {
		bytes += len(r.Body.Value)
	}
	t.sent, t.removed, t.sentAt = resources, removed, time.Now()
	s.noteRollback(i, t, resources)
	if i == clusterIndex {
		s.warm(resources, first)
	}
	if bytes > large {
		s.takeTurn()
	}
	s.metrics.Pushes.WithLabelValues(shortNames[i]).Inc()
	s.metrics.Bytes.WithLabelValues(shortNames[i]).Add(float64(bytes))
	s.report(i, func(r *TypeReport) { r.Sent = t.nonce; r.At = time.Now(); r.Resources = len(resources) })
	return s.send(out)
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
			if target.finish != nil {
				out[k] = target.finish(out[k])
			}
		}
	}
	return out
}

// warm notes clusters that are sent and have endpoints of their own. Envoy keeps a changed cluster back until endpoints come
// for it, and does not ask again for those that it has (envoy#13009): they are sent again. The first clusters' endpoints are
// asked for, and answered, all together.
func (s *stream) warm(clusters []*envoy.Resource, first bool) {
	assigned, t := s.target.Load().parts[endpointIndex], s.types[endpointIndex]
	for _, r := range clusters {
		if _, has := get(assigned, r.Name); !has {
			continue
		}
		if first && t == nil {
			s.warmAll = true
			return
		}
		s.warming[r.Name] = true
		if t != nil && t.subscribed.has(r.Name) {
			t.fresh[r.Name] = true
		}
	}
}

var controlPlane = &core.ControlPlane{Identifier: "slipway"}
