package controllers

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/slipway-mesh/slipway/api/v1alpha1"
	"github.com/slipway-mesh/slipway/internal/install/lifecycle"
)

// Before the first step towards an edit the cluster is looked at. What stops an installation is an error, tried again with
// backoff; the rest is told in the condition and stops nothing.

// preflight looks at the cluster, once an edit, and says whether the status was written: the next step comes then.
func (r *IstioOperatorReconciler) preflight(ctx context.Context, resource *v1alpha1.IstioOperator, target *lifecycle.Target, generation int64) (wrote bool, err error) {
	last := meta.FindStatusCondition(resource.Status.Conditions, v1alpha1.ConditionPreflight)
	if last != nil && last.ObservedGeneration == generation && last.Status == metav1.ConditionTrue {
		return false, nil
	}
	problems, err := r.Installer.Precheck(ctx, target.Owner.Namespace, r.Build.Version)
	if err != nil {
		return true, r.failed(ctx, resource, generation, err)
	}
	status, stopped := checked(resource.Status, generation, problems)
	return true, errors.Join(stopped, r.writeStatus(ctx, resource, status))
}

// checked is the status after the cluster was looked at; the error says what stops the installation.
func checked(last v1alpha1.IstioOperatorStatus, generation int64, problems []lifecycle.Problem) (v1alpha1.IstioOperatorStatus, error) {
	status := *last.DeepCopy()
	var all, stops []string
	for _, problem := range problems {
		all = append(all, problem.Message)
		if problem.Stops {
			stops = append(stops, problem.Message)
		}
	}
	condition := metav1.Condition{Type: v1alpha1.ConditionPreflight, Status: metav1.ConditionTrue, ObservedGeneration: generation,
		Reason: "Passed", Message: strings.Join(all, "; ")}
	var stopped error
	if len(stops) > 0 {
		stopped = fmt.Errorf("preflight: %s", strings.Join(stops, "; "))
		status = still(last, generation, v1alpha1.PhaseError, stopped.Error())
		condition.Status, condition.Reason = metav1.ConditionFalse, "Stopped"
	}
	meta.SetStatusCondition(&status.Conditions, condition)
	return status, stopped
}
