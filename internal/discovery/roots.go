package discovery

import (
	"github.com/slipway-mesh/slipway/internal/discovery/xds"
	"github.com/slipway-mesh/slipway/internal/identity/ca"
)

// RootsReport is which roots are in force at a replica, the one that signs first, and who follows.
type RootsReport struct {
	Plugged bool // by somebody, and not the control plane's own to replace
	Roots   []ca.Root
	xds.RootsReport
}
