package resolve

import (
	"slices"

	"github.com/slipway-mesh/slipway/internal/discovery/source"
)

// Check says what is wrong with one object by itself: the same list that its Problems would be once it is stored, but for what
// depends on other objects.
func Check(options Options, kind, namespace, name string, object any) []Problem {
	state, _ := Next(Start(options), []source.Change{{Kind: kind, Namespace: namespace, Name: name, Object: object}})
	return slices.DeleteFunc(state.Problems(), func(p Problem) bool { return p.Reason == ReasonReference })
}
