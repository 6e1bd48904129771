package discovery

import (
	"slices"
	"time"

	"github.com/slipway-mesh/slipway/internal/discovery/resolve"
	"github.com/slipway-mesh/slipway/internal/discovery/source"
	"github.com/slipway-mesh/slipway/internal/discovery/world"
)

// grace is how long a change that would lead requests nowhere waits for the one that it belongs with. It is much longer than one watch
// is behind another, and who really means it loses nothing but this time.
const grace = 500 * time.Millisecond

// hold keeps changes that came too early; everything beside them goes on.
type hold struct{ held []heldChange }

// heldChange is a change, and since when one of its object is held.
type heldChange struct {
	source.Change
	since time.Time
}

// next is the State after what is held and what has come, as far as it is not too early, with the changes that made it.
func (h *hold) next(before *resolve.State, come []source.Change, now time.Time) (*resolve.State, world.Dirty, []source.Change) {
	since := map[source.Key]time.Time{}
	for _, held := range h.held {
		since[held.Key()] = held.since
	}
	changes := h.join(come)
	h.held = nil
	for {
		state, dirty := resolve.Next(before, changes)
		early := resolve.Premature(before, state, changes)
		var good []source.Change
		for i, c := range changes {
			from, held := since[c.Key()]
			if !held {
				from = now
			}
			if early[i] && now.Sub(from) < grace {
				h.held = append(h.held, heldChange{c, from})
			} else {
				good = append(good, c)
			}
		}
		if len(good) == len(changes) {
			return state, dirty, changes
		}
		changes = good // without one, another may be too early too
	}
}

// join puts what has come behind what is held, without what is held of the same objects.
func (h *hold) join(come []source.Change) []source.Change {
	if len(h.held) == 0 {
		return come
	}
	newer := map[source.Key]bool{}
	for _, c := range come {
		newer[c.Key()] = true
	}
	var out []source.Change
	for _, held := range h.held {
		if !newer[held.Key()] {
			out = append(out, held.Change)
		}
	}
	return append(out, come...)
}

// over tells when the first of what is held has waited enough; never while nothing is held.
func (h *hold) over() <-chan time.Time {
	if len(h.held) == 0 {
		return nil
	}
	first := slices.MinFunc(h.held, func(a, b heldChange) int { return a.since.Compare(b.since) })
	return time.After(time.Until(first.since.Add(grace)))
}
