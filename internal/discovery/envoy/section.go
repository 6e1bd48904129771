package envoy

import (
	"slices"

	iradix "github.com/hashicorp/go-immutable-radix/v2"
)

// Section is a set of resources of one type that many proxies share. It is immutable: a changed set is another Section,
// and two of one line know their difference without being compared.
type Section struct {
	Items *iradix.Tree[*Resource] // by resource name
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
	s := &Section{Items: iradix.New[*Resource]()}
	s.origin = s
	return s
}

// Line is the same for all Sections that follow from one another.
func (s *Section) Line() *Section { return s.origin }

// Get finds a resource by its name.
func (s *Section) Get(name string) (*Resource, bool) { return s.Items.Get([]byte(name)) }

// Len is the number of resources.
func (s *Section) Len() int { return s.Items.Len() }

// Each calls visit for every resource, in the order of names.
func (s *Section) Each(visit func(*Resource)) {
	s.Items.Root().Walk(func(_ []byte, r *Resource) bool { visit(r); return false })
}

// Next applies changes; a nil resource removes. If nothing differs, it returns the Section itself.
func (s *Section) Next(changes map[string]*Resource) *Section {
	txn := s.Items.Txn()
	var changed []string
	for name, resource := range changes {
		before, there := s.Get(name)
		switch {
		case resource == nil && !there, resource != nil && there && before.Version == resource.Version:
			continue
		case resource == nil:
			txn.Delete([]byte(name))
		default:
			txn.Insert([]byte(name), resource)
		}
		changed = append(changed, name)
	}
	if len(changed) == 0 {
		return s
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
