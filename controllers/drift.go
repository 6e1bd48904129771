package controllers

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/slipway-mesh/slipway/api/v1alpha1"
	"github.com/slipway-mesh/slipway/internal/install/apply"
	"github.com/slipway-mesh/slipway/internal/install/lifecycle"
)

// driftLimit is how many drifted objects a status lists.
const driftLimit = 20

func drifted(changes apply.ChangeSet) []v1alpha1.DriftStatus {
	var all []v1alpha1.DriftStatus
	for _, change := range changes {
		if change.Action != apply.Drifted || len(all) == driftLimit {
			continue
		}
		all = append(all, v1alpha1.DriftStatus{Object: change.Ref.String(), Fields: change.Paths(), Manager: change.Manager})
	}
	return all
}

func driftedText(drift []v1alpha1.DriftStatus) string {
	lines := make([]string, 0, len(drift))
	for _, d := range drift {
		lines = append(lines, sayDrift(d.Object, d.Fields, d.Manager))
	}
	return strings.Join(lines, "; ")
}

// driftText says what was corrected.
func driftText(change apply.Change) string {
	return cut(sayDrift(change.Ref.String(), change.Paths(), change.Manager))
}

func sayDrift(object string, fields []string, manager string) string {
	if len(fields) == 0 {
		return object + " was deleted"
	}
	text := object + ": " + strings.Join(fields, ", ")
	if manager != "" {
		text += " was set by " + manager
	}
	return text
}

// An object that is corrected again and again is fought for by somebody else: after maxCorrections within fightPeriod
// it is left, and reported, until the period is over.
const (
	maxCorrections = 5
	fightPeriod    = 10 * time.Minute
)

// fights remembers when objects were corrected.
type fights struct {
	mu   sync.Mutex
	when map[string][]time.Time
}

func fightKey(owner lifecycle.Owner, ref apply.Ref) string {
	return fmt.Sprintf("%s/%s %s", owner.Namespace, owner.Name, ref)
}

func (f *fights) corrected(owner lifecycle.Owner, ref apply.Ref, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.when == nil {
		f.when = map[string][]time.Time{}
	}
	key := fightKey(owner, ref)
	f.when[key] = append(recent(f.when[key], now), now)
}

// undecided says whether the object was corrected so often that it is better left.
func (f *fights) undecided(owner lifecycle.Owner, ref apply.Ref, now time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	key := fightKey(owner, ref)
	left := recent(f.when[key], now)
	if len(left) == 0 {
		delete(f.when, key)
	}
	return len(left) >= maxCorrections
}

func recent(times []time.Time, now time.Time) []time.Time {
	for len(times) > 0 && now.Sub(times[0]) > fightPeriod {
		times = times[1:]
	}
	return times
}
