package controllers

import (
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/slipway-mesh/slipway/api/v1alpha1"
	"github.com/slipway-mesh/slipway/internal/install/lifecycle"
)

// An attempt is an edit, or an upgrade of the operator, on its way to health. It begins with the first step, ends with
// health, and is given up when it takes too long and there is a good installation to go back to.

// attemptOf is the attempt that the last status speaks of, or a new one if the resource or the operator is another.
func attemptOf(last *v1alpha1.AttemptStatus, generation int64, version string, now metav1.Time) v1alpha1.AttemptStatus {
	if last != nil && last.Generation == generation && last.Version == version {
		return *last
	}
	return v1alpha1.AttemptStatus{Generation: generation, Version: version, Since: now}
}

func expired(attempt v1alpha1.AttemptStatus, rollback *v1alpha1.RollbackSpec, now time.Time) bool {
	return rollback != nil && now.Sub(attempt.Since.Time) > rollback.Timeout.Duration
}

// gaveUp is the status while the last good installation stands in for what was asked.
func gaveUp(status v1alpha1.IstioOperatorStatus, attempt v1alpha1.AttemptStatus) v1alpha1.IstioOperatorStatus {
	message := fmt.Sprintf("generation %d did not become healthy in time and was rolled back to installation %d (%s); edit the spec to try again",
		attempt.Generation, attempt.RolledBackTo, attempt.Reason)
	if status.Message != "" {
		message += "; now: " + status.Message
	}
	if status.Status == v1alpha1.PhaseHealthy {
		status.Status = v1alpha1.PhaseActionRequired
	}
	status.Message, status.Attempt = message, &attempt
	status.Conditions = conditions(status.Conditions, status)
	return status
}

// planLines is how many lines of a plan a status holds.
const planLines = 100

// planned is the status that shows a plan, and whether the plan waits for its approval.
func planned(last v1alpha1.IstioOperatorStatus, generation int64, plan lifecycle.Plan, approved string) (status v1alpha1.IstioOperatorStatus, waits bool) {
	lines, hash := plan.Lines(), plan.Hash()
	if len(lines) == 0 || approved == hash {
		return last, false
	}
	status = still(last, generation, v1alpha1.PhaseActionRequired, fmt.Sprintf("%d changes wait for approval: set spec.lifecycle.approvedPlan to %s", len(lines), hash))
	if len(lines) > planLines {
		lines = append(lines[:planLines:planLines], fmt.Sprintf("and %d more", len(lines)-planLines))
	}
	status.Plan = &v1alpha1.PlanStatus{Hash: hash, Changes: lines, Restarts: plan.Restarts}
	return status, true
}
