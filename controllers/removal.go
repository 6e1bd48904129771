package controllers

import (
	"fmt"
	"strings"

	"github.com/slipway-mesh/slipway/api/v1alpha1"
)

// attachedNames is how many attached pods a message names.
const attachedNames = 10

func removalPolicy(spec *v1alpha1.IstioOperatorSpec) v1alpha1.RemovalSpec {
	if spec == nil || spec.Lifecycle == nil || spec.Lifecycle.Removal == nil {
		return v1alpha1.RemovalSpec{Policy: v1alpha1.RemovalWarn}
	}
	return *spec.Lifecycle.Removal
}

func attachedText(pods []string) string {
	text := strings.Join(pods[:min(len(pods), attachedNames)], ", ")
	if more := len(pods) - attachedNames; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return fmt.Sprintf("%d pods have sidecars of this control plane: %s", len(pods), text)
}

// removalBlocked is the status while a removal waits for the sidecars that use what is to go.
func removalBlocked(last v1alpha1.IstioOperatorStatus, generation int64, pods []string) v1alpha1.IstioOperatorStatus {
	return still(last, generation, v1alpha1.PhaseActionRequired,
		"the removal waits: "+attachedText(pods)+"; move or restart them without one, or set spec.lifecycle.removal.policy to Force")
}
