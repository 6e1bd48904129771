package discovery

import (
	networking "istio.io/api/networking/v1alpha3"

	"github.com/slipway-mesh/slipway/internal/discovery/envoy/patch"
	"github.com/slipway-mesh/slipway/internal/discovery/resolve"
)

// PatchMistakes says what Envoy's types do not have of an EnvoyFilter: resolve, which lists it with the rest, does not know
// them.
func PatchMistakes(spec *networking.EnvoyFilter) []resolve.PatchMistake {
	var out []resolve.PatchMistake
	for _, mistake := range patch.Check(spec) {
		out = append(out, resolve.PatchMistake{Field: mistake.Field, Message: mistake.Message, Lost: mistake.Lost})
	}
	return out
}
