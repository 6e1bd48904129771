package resolve

import (
	"github.com/slipway-mesh/slipway/internal/discovery/source"
)

// Check says what is wrong with one object by itself: the same list that its Problems would be once it is stored.
func Check(options Options, kind, namespace, name string, object any) []Problem {
	state, _ := Next(Start(options), []source.Change{{Kind: kind, Namespace: namespace, Name: name, Object: object}})
	return state.Problems()
}
