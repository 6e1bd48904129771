package controllers

import (
	"fmt"
	"sort"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/slipway-mesh/slipway/api/v1alpha1"
	"github.com/slipway-mesh/slipway/internal/install/apply"
	"github.com/slipway-mesh/slipway/internal/install/lifecycle"
)

// The functions here compute a status from the last one and what was seen. They are pure; times in conditions are the
// exception, and are kept where the condition did not change.

// observed is the status after a step.
func observed(last v1alpha1.IstioOperatorStatus, generation int64, version string, report lifecycle.Report, err error) v1alpha1.IstioOperatorStatus {
	status := v1alpha1.IstioOperatorStatus{ObservedGeneration: generation, ComponentStatus: map[string]v1alpha1.ComponentStatus{}}
	var reasons []string
	for name, component := range report.Components {
		entry := v1alpha1.ComponentStatus{Status: component.Phase, Version: version}
		if component.Phase == v1alpha1.PhaseError {
			entry.Error = component.Reason
		}
		if component.Phase != v1alpha1.PhaseHealthy {
			reasons = append(reasons, name+": "+component.Reason)
		}
		status.ComponentStatus[name] = entry
	}
	sort.Strings(reasons)
	status.Status = rollUp(status.ComponentStatus)
	if err != nil {
		status.Status = v1alpha1.PhaseError
		reasons = append(reasons, err.Error())
	}
	if status.Message = strings.Join(reasons, "; "); status.Message == "" {
		status.Message = leftText(report.Changes)
	}
	status.Drift = drifted(report.Changes)
	status.Conditions = conditions(last.Conditions, status)
	return status
}

// leftText tells of objects that were left as they are because they are newer, or another installer's.
func leftText(changes apply.ChangeSet) string {
	var left []string
	for _, change := range changes {
		if change.Action == apply.Kept && !lifecycle.Sharing(change.Reason) {
			left = append(left, fmt.Sprintf("%s (%s)", change.Ref, change.Reason))
		}
	}
	switch len(left) {
	case 0:
		return ""
	case 1:
		return "left as it is: " + left[0]
	}
	return fmt.Sprintf("%d objects are left as they are, such as %s", len(left), left[0])
}

// refused is the status of a spec that cannot be used. The components keep what was last seen of them.
func refused(last v1alpha1.IstioOperatorStatus, generation int64, err error) v1alpha1.IstioOperatorStatus {
	return still(last, generation, v1alpha1.PhaseError, fmt.Sprintf("the spec is refused, and what ran before keeps running: %v", err))
}

// still is a status in which the components keep what was last seen of them.
func still(last v1alpha1.IstioOperatorStatus, generation int64, phase v1alpha1.Phase, message string) v1alpha1.IstioOperatorStatus {
	status := last
	status.ObservedGeneration, status.Status, status.Message = generation, phase, message
	status.Conditions = conditions(last.Conditions, status)
	return status
}

// removing is the status while a removal is on its way.
func removing(last v1alpha1.IstioOperatorStatus, generation int64, message string) v1alpha1.IstioOperatorStatus {
	return still(last, generation, v1alpha1.PhaseUpdating, message)
}

// rollUp folds the components' phases into one, as Istio documents it: none is NONE, any error is ERROR, then any
// update is UPDATING, and a mix of the rest is RECONCILING.
func rollUp(components map[string]v1alpha1.ComponentStatus) v1alpha1.Phase {
	counts := map[v1alpha1.Phase]int{}
	for _, component := range components {
		counts[component.Status]++
	}
	switch {
	case len(components) == 0:
		return v1alpha1.PhaseHealthy // nothing is asked for, and nothing is there
	case counts[v1alpha1.PhaseNone] == len(components):
		return v1alpha1.PhaseNone
	case counts[v1alpha1.PhaseError] > 0:
		return v1alpha1.PhaseError
	case counts[v1alpha1.PhaseUpdating] > 0:
		return v1alpha1.PhaseUpdating
	case counts[v1alpha1.PhaseHealthy] == len(components):
		return v1alpha1.PhaseHealthy
	}
	return v1alpha1.PhaseReconciling
}

// conditions says the phase in the words that kstatus and Argo CD read.
func conditions(last []metav1.Condition, status v1alpha1.IstioOperatorStatus) []metav1.Condition {
	out := append([]metav1.Condition(nil), last...)
	set := func(kind string, on bool) {
		value := metav1.ConditionFalse
		if on {
			value = metav1.ConditionTrue
		}
		meta.SetStatusCondition(&out, metav1.Condition{Type: kind, Status: value, ObservedGeneration: status.ObservedGeneration,
			Reason: reasonOf(status.Status), Message: status.Message})
	}
	phase := status.Status
	set(v1alpha1.ConditionReady, phase == v1alpha1.PhaseHealthy)
	set(v1alpha1.ConditionReconciling, phase == v1alpha1.PhaseUpdating || phase == v1alpha1.PhaseReconciling)
	set(v1alpha1.ConditionStalled, phase == v1alpha1.PhaseError || phase == v1alpha1.PhaseActionRequired)
	if len(status.Drift) > 0 {
		meta.SetStatusCondition(&out, metav1.Condition{Type: v1alpha1.ConditionDrifted, Status: metav1.ConditionTrue,
			ObservedGeneration: status.ObservedGeneration, Reason: "ChangedByOthers", Message: driftedText(status.Drift)})
	} else {
		meta.RemoveStatusCondition(&out, v1alpha1.ConditionDrifted)
	}
	return out
}

func reasonOf(phase v1alpha1.Phase) string {
	words := strings.Split(strings.ToLower(string(phase)), "_")
	for i, word := range words {
		words[i] = strings.ToUpper(word[:1]) + word[1:]
	}
	return strings.Join(words, "")
}
