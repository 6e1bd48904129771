package envoy

import (
	"slices"

	"github.com/slipway-mesh/slipway/internal/discovery/layer"
)

// Section is a set of resources of one type that many proxies share. It is immutable: a changed set is another Section,
// and two of one line know their difference without being compared.
type Section struct {
	Items layer.Map[*Resource] // by resource name
	seq   uint64
	// origin is the same pointer in all Sections of a line.
	origin *Section
	// steps are the names that changed at each of the last steps; the last entry is the step that made this Section.
	steps [][]string
}

// historyLength is how many steps back a difference is known; older ones are found by comparing.
const historyLength = 64

// EmptySection is a Section with nothing in it.
func EmptySection() *Section {
	s := &Section{Items: layer.New(func(a, b *Resource) bool { return a.Version == b.Version })}
	s.origin = s
	return s
}

// Over is a Section of a line of its own with what s has; it shares the memory of s.
func (s *Section) Over() *Section {
	over := &Section{Items: s.Items.Over()}
	over.origin = over
	return over
}

// Line is the same for all Sections that follow from one another.
func (s *Section) Line() *Section { return s.origin }

// Get finds a resource by its name.
func (s *Section) Get(name string) (*Resource, bool) { return s.Items.Get([]byte(name)) }

// Len is the number of resources.
func (s *Section) Len() int { return s.Items.Len() }

// Each calls visit for every resource, in the order of names.
func (s *Section) Each(visit func(*Resource)) {
	s.Items.Walk(func(_ []byte, r *Resource) bool { visit(r); return false })
}

// Next applies changes; a nil resource removes. If nothing differs, it returns the Section itself.
func (s *Section) Next(changes map[string]*Resource) *Section { return s.next(changes, nil) }

// next is Next of a Section that lies over another, of which under is the present state; nil where it lies over none. One that
// does not change stays over the state that it was made on.
func (s *Section) next(changes map[string]*Resource, under *Section) *Section {
	var changed []string
	for name, resource := range changes {
		before, there := s.Get(name)
		if there != (resource != nil) || there && before.Version != resource.Version {
			changed = append(changed, name)
		}
	}
	if len(changed) == 0 {
		return s
	}
	items := s.Items
	if under != nil {
		items = items.Onto(under.Items)
	}
	txn := items.Txn()
	for _, name := range changed {
		if resource := changes[name]; resource != nil {
			txn.Insert([]byte(name), resource)
		} else {
			txn.Delete([]byte(name))
		}
	}
	steps := slices.Concat(s.steps, [][]string{changed})
	if len(steps) > historyLength {
		steps = steps[len(steps)-historyLength:]
	}
	return &Section{Items: txn.Commit(), seq: s.seq + 1, origin: s.origin, steps: steps}
}

// Diff returns what changed since an older Section: resources that are new or different, and names that are gone. The
// older one may be nil, and may be of another line; then the two are compared.
func (s *Section) Diff(old *Section) (changed []*Resource, removed []string) {
	if old == s {
		return nil, nil
	}
	if old == nil {
		s.Each(func(r *Resource) { changed = append(changed, r) })
		return changed, nil
	}
	seen := map[string]bool{}
	compare := func(name string) {
		if seen[name] {
			return
		}
		seen[name] = true
		before, had := old.Get(name)
		after, has := s.Get(name)
		switch {
		case has && (!had || before.Version != after.Version):
			changed = append(changed, after)
		case had && !has:
			removed = append(removed, name)
		}
	}
	if steps, ok := s.since(old); ok {
		for _, names := range steps {
			for _, name := range names {
				compare(name)
			}
		}
		return changed, removed
	}
	s.Each(func(r *Resource) { compare(r.Name) })
	old.Each(func(r *Resource) { compare(r.Name) })
	return changed, removed
}

// since returns the steps between an older Section of the same line and this one.
func (s *Section) since(old *Section) ([][]string, bool) {
	behind := s.seq - old.seq
	if s.origin != old.origin || old.seq > s.seq || behind > uint64(len(s.steps)) {
		return nil, false
	}
	return s.steps[uint64(len(s.steps))-behind:], true
}
