package controllers

import (
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/slipway-mesh/slipway/api/v1alpha1"
	"github.com/slipway-mesh/slipway/internal/install/lifecycle"
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

// retire deletes a resource whose control plane nothing has used for as long as its spec says.
func (r *IstioOperatorReconciler) retire(ctx context.Context, resource *v1alpha1.IstioOperator, installer lifecycle.Installer, target *lifecycle.Target, status *v1alpha1.IstioOperatorStatus) (gone bool, err error) {
	removal := target.Lifecycle.Removal
	if removal == nil || removal.UnusedFor == nil {
		return false, nil
	}
	by, err := installer.InUse(ctx, target)
	if err != nil || len(by) > 0 {
		return false, err
	}
	now := metav1.Now()
	status.UnusedSince = resource.Status.UnusedSince
	if status.UnusedSince == nil {
		status.UnusedSince = &now
	}
	if now.Sub(status.UnusedSince.Time) < removal.UnusedFor.Duration {
		return false, nil
	}
	r.Events.Eventf(resource, nil, corev1.EventTypeNormal, "Unused", "Remove", "nothing has used the control plane since %s: it is removed", status.UnusedSince.UTC().Format(time.RFC3339))
	return true, client.IgnoreNotFound(r.Client.Delete(ctx, resource))
}
