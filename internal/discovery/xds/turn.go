package xds

import (
	"context"
	"sync"
	"time"
)

// Proxies that connect say what they hold, or are sent all that there is, often a thousand of them in the same second. They take
// turns, so that those that are connected already are not starved by them, and what is in memory and on its way at once is
// bounded. One that is slow or dead keeps others waiting for a barrier's time at most.

const (
	greetings = 32  // streams whose first requests are read at once
	turns     = 128 // streams that are sent much at once
	large     = 256 << 10
	pause     = 50 * time.Millisecond // without a request: a stream has said what it holds
)

// turnstile lets so many in at once.
type turnstile chan struct{}

// enter waits for a place, or until the context ends. It is given back by leave, which may be called often, or by itself.
func (t turnstile) enter(ctx context.Context) (leave func()) {
	select {
	case t <- struct{}{}:
	case <-ctx.Done():
		return func() {}
	}
	var once sync.Once
	back := func() { once.Do(func() { <-t }) }
	timer := time.AfterFunc(barrier, back)
	return func() { timer.Stop(); back() }
}

// takeTurn waits for a stream's turn to be sent much, if it has none. It keeps it until all that it was sent is acknowledged.
func (s *stream) takeTurn() {
	if s.turn == nil {
		s.turn = s.turns.enter(s.ctx)
	}
}

// endTurn gives a turn back.
func (s *stream) endTurn() {
	if s.turn != nil {
		s.turn()
		s.turn = nil
	}
}
