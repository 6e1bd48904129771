package ca

import (
	"sync"

	"golang.org/x/time/rate"

	"github.com/slipway-mesh/slipway/internal/identity"
)

// limiter bounds how many certificates each identity gets a second, so that one that asks without end keeps no other waiting. Many
// replicas of a workload that start at once are one identity: what may come at once is burst seconds' worth.
type limiter struct {
	perSecond float64 // 0 is no limit

	mu    sync.Mutex
	of    map[identity.ID]*rate.Limiter
	sweep int // how many there may be before those that are idle are forgotten
}

const (
	burst      = 10
	firstSweep = 1024
)

func newLimiter(perSecond float64) *limiter {
	return &limiter{perSecond: perSecond, of: map[identity.ID]*rate.Limiter{}, sweep: firstSweep}
}

// allows says whether an identity may have one more certificate now.
func (l *limiter) allows(id identity.ID) bool {
	if l.perSecond <= 0 {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	one := l.of[id]
	if one == nil {
		if len(l.of) >= l.sweep {
			l.forget()
		}
		one = rate.NewLimiter(rate.Limit(l.perSecond), int(l.perSecond*burst))
		l.of[id] = one
	}
	return one.Allow()
}

// forget drops those that have asked for nothing lately: a new one is as they are.
func (l *limiter) forget() {
	for id, one := range l.of {
		if one.Tokens() >= l.perSecond*burst {
			delete(l.of, id)
		}
	}
	l.sweep = max(firstSweep, 2*len(l.of))
}
