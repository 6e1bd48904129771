package discovery

import (
	"time"

	"github.com/slipway-mesh/slipway/internal/discovery/resolve"
	"github.com/slipway-mesh/slipway/internal/discovery/source"
	"github.com/slipway-mesh/slipway/internal/discovery/world"
)

// grace is how long a change that would lead requests nowhere waits for the one that it belongs with. It is much longer than one watch
// is behind another, and who really means it loses nothing but this time.
const grace = 500 * time.Millisecond

// hold keeps changes that came too early; everything beside them goes on.
type hold struct {
	changes []source.Change
	since   map[object]time.Time
}

type object struct{ kind, namespace, name string }

func objectOf(c source.Change) object { return object{c.Kind, c.Namespace, c.Name} }

// next is the State after what is held and what has come, as far as it is not too early, with the changes that made it.
func (h *hold) next(before *resolve.State, come []source.Change, now time.Time) (*resolve.State, world.Dirty, []source.Change) {
	changes := h.join(come)
	h.changes = nil
	for {
		state, dirty := resolve.Next(before, changes)
		early := resolve.Premature(before, state, changes)
		var good []source.Change
		for i, c := range changes {
			if early[i] && h.waits(objectOf(c), now) {
				h.changes = append(h.changes, c)
			} else {
				good = append(good, c)
			}
		}
		if len(good) == len(changes) {
			h.forget()
			return state, dirty, changes
		}
		changes = good // without one, another may be too early too
	}
}

// join puts what has come behind what is held, without what is held of the same objects.
func (h *hold) join(come []source.Change) []source.Change {
	if len(h.changes) == 0 {
		return come
	}
	newer := map[object]bool{}
	for _, c := range come {
		newer[objectOf(c)] = true
	}
	var out []source.Change
	for _, c := range h.changes {
		if !newer[objectOf(c)] {
			out = append(out, c)
		}
	}
	return append(out, come...)
}

// waits says whether an object may be held still; its time begins with its first change that is.
func (h *hold) waits(o object, now time.Time) bool {
	if h.since == nil {
		h.since = map[object]time.Time{}
	}
	if _, held := h.since[o]; !held {
		h.since[o] = now
	}
	return now.Sub(h.since[o]) < grace
}

// forget drops the times of what is no longer held.
func (h *hold) forget() {
	still := map[object]time.Time{}
	for _, c := range h.changes {
		still[objectOf(c)] = h.since[objectOf(c)]
	}
	h.since = still
}

// over tells when the first of what is held has waited enough; never while nothing is held.
func (h *hold) over() <-chan time.Time {
	var first time.Time
	for _, since := range h.since {
		if first.IsZero() || since.Before(first) {
			first = since
		}
	}
	if first.IsZero() {
		return nil
	}
	return time.After(time.Until(first.Add(grace)))
}
