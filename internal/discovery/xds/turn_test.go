package xds

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestTurns: one that does not acknowledge holds its turn for a barrier's time and no longer; one that does gives it back at once; and
// who gave it back late takes nobody else's away.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := make(turnstile, 1)
		dead, next := &stream{ctx: t.Context(), turns: shared}, &stream{ctx: t.Context(), turns: shared}
		start := time.Now()
		dead.takeTurn()
		dead.takeTurn() // it has one
		next.takeTurn()
		if waited := time.Since(start); waited != barrier {
			t.Errorf("a turn came after %s, want %s", waited, barrier)
		}
		dead.endTurn()
		if len(shared) != 1 {
			t.Error("a turn that was over took another with it")
		}
		start = time.Now()
		next.endTurn()
		dead.takeTurn()
		if waited := time.Since(start); waited != 0 {
			t.Errorf("a free turn came after %s", waited)
		}
		dead.endTurn()
	})
}
