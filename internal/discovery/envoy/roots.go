package envoy

import (
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/slipway-mesh/slipway/internal/trustbundle"
)

// Roots tells agents which roots to trust, in PEM, the one that signs first.
func Roots(roots []string) *Resource {
	return seal(trustbundle.Name, &anypb.Any{TypeUrl: trustbundle.TypeURL, Value: trustbundle.Marshal(roots)})
}
