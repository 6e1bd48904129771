package ca

import (
	"fmt"
	"testing"

	"github.com/slipway-mesh/slipway/internal/identity"
)

// TestLimiter: who asks without end is stopped, and nobody else is.
func TestLimiter(t *testing.T) {
	l := newLimiter(2)
	greedy, modest := identity.ID{Account: "greedy"}, identity.ID{Account: "modest"}
	count := func(of *limiter) (allowed int) {
		for range 1000 {
			if of.allows(greedy) {
				allowed++
			}
		}
		return allowed
	}
	if allowed := count(l); allowed < 2*burst || allowed > 2*burst+5 {
		t.Errorf("%d certificates at once, and %d are meant", allowed, 2*burst)
	}
	if !l.allows(modest) {
		t.Error("another identity has to wait")
	}
	for i := range 10 * firstSweep {
		if !l.allows(identity.ID{Account: fmt.Sprint(i)}) {
			t.Fatal("a new identity has to wait")
		}
	}
	if allowed := count(l); allowed > 5 {
		t.Errorf("what was asked for is forgotten: %d more", allowed)
	}
	if allowed := count(newLimiter(0)); allowed != 1000 {
		t.Errorf("a limit of 0 is one of %d", allowed)
	}
}
