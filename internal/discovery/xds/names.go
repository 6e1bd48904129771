package xds

import "github.com/slipway-mesh/slipway/internal/discovery/envoy"

// names is what a stream is subscribed to: all that a Section has, but for a few. Most proxies want all that there is, and
// a set of their own would be as large as the mesh for each of them.
type names struct {
	base   *envoy.Section
	except map[string]bool // in base, and not wanted
	also   map[string]bool // wanted, and not in base
}

// manyNames is how many deviations there may be before they are counted anew from a newer Section.
const manyNames = 32

func (n *names) has(name string) bool {
	if n.also[name] {
		return true
	}
	if n.base == nil || n.except[name] {
		return false
	}
	_, there := n.base.Get(name)
	return there
}

// add subscribes to names; now is what there is at the moment.
func (n *names) add(list []string, now *envoy.Section) {
	if n.base == nil && n.also == nil && len(list) > 0 {
		n.also = make(map[string]bool, len(list))
	}
	for _, name := range list {
		switch {
		case n.except[name]:
			n.except = without(n.except, name)
		case !n.has(name):
			n.also = with(n.also, name)
		}
	}
	if len(n.also) > manyNames {
		n.rebase(now)
	}
}

func (n *names) remove(list []string, now *envoy.Section) {
	for _, name := range list {
		if n.also[name] {
			n.also = without(n.also, name)
		} else if n.has(name) {
			n.except = with(n.except, name)
		}
	}
	if len(n.except) > manyNames {
		n.rebase(now)
	}
}

func with(set map[string]bool, name string) map[string]bool {
	if set == nil {
		set = map[string]bool{}
	}
	set[name] = true
	return set
}

// without lets go of a set that becomes empty: a map keeps the memory of its largest moment.
func without(set map[string]bool, name string) map[string]bool {
	delete(set, name)
	if len(set) == 0 {
		return nil
	}
	return set
}

// follow expresses the same set by what there is now, so that a stream does not keep what there was when it connected.
func (n *names) follow(now *envoy.Section) {
	if n.base == nil || n.base == now {
		return
	}
	changed, removed := now.Diff(n.base)
	for _, r := range changed {
		if _, had := n.base.Get(r.Name); had {
			continue
		}
		if n.also[r.Name] {
			n.also = without(n.also, r.Name)
		} else {
			n.except = with(n.except, r.Name)
		}
	}
	for _, name := range removed {
		if n.except[name] {
			n.except = without(n.except, name)
		} else {
			n.also = with(n.also, name)
		}
	}
	n.base = now
}

// rebase expresses the same set by a newer Section, if that takes fewer deviations.
func (n *names) rebase(now *envoy.Section) {
	next := names{base: now}
	now.Each(func(r *envoy.Resource) {
		if !n.has(r.Name) {
			next.except = with(next.except, r.Name)
		}
	})
	n.each(func(name string) {
		if _, there := now.Get(name); !there {
			next.also = with(next.also, name)
		}
	})
	if len(next.except)+len(next.also) < len(n.except)+len(n.also) {
		*n = next
	}
}

// each visits all names of the set.
func (n *names) each(visit func(string)) {
	for name := range n.also {
		visit(name)
	}
	if n.base == nil {
		return
	}
	n.base.Each(func(r *envoy.Resource) {
		if !n.except[r.Name] {
			visit(r.Name)
		}
	})
}
