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
	allowed := 0
	for range 1000 {
		if l.allows(greedy) {
			allowed++
		}
	}
	if allowed < 2*burst || allowed > 2*burst+5 {
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
	if l.allows(greedy) && l.allows(greedy) && l.allows(greedy) && l.allows(greedy) {
		t.Error("what was asked for is forgotten")
	}
	if none := newLimiter(0); !none.allows(greedy) || !none.allows(greedy) {
		t.Error("a limit of 0 is one")
	}
}
