package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// Phase is the state of an installation or of one of its components.
// +kubebuilder:validation:Enum=NONE;UPDATING;RECONCILING;HEALTHY;ERROR;ACTION_REQUIRED
type Phase string

// The phases, with Istio's names.
const (
	PhaseNone           Phase = "NONE"
	PhaseUpdating       Phase = "UPDATING"
	PhaseReconciling    Phase = "RECONCILING"
	PhaseHealthy        Phase = "HEALTHY"
	PhaseError          Phase = "ERROR"
	PhaseActionRequired Phase = "ACTION_REQUIRED"
)

// The condition types of an IstioOperator; kstatus and Argo CD read them.
const (
	ConditionReady       = "Ready"
	ConditionReconciling = "Reconciling"
	ConditionStalled     = "Stalled"
	// ConditionDrifted says that installed objects were edited or deleted by others and left so.
	ConditionDrifted = "Drifted"
	// ConditionPreflight says whether the cluster was found fit for the installation before it began, and what is worth
	// knowing of it.
	ConditionPreflight = "Preflight"
)

// IstioOperatorStatus is what the operator saw last.
type IstioOperatorStatus struct {
	// +kubebuilder:default=NONE
	Status Phase `json:"status,omitempty"`
	// Message says in words what Status says, with the cause of an error.
	Message string `json:"message,omitempty"`
	// ComponentStatus has one entry a component: Base, Pilot, IngressGateways, EgressGateways.
	ComponentStatus map[string]ComponentStatus `json:"componentStatus,omitempty"`
	// ObservedGeneration is the metadata.generation that this status speaks of.
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// Drift lists installed objects that others changed and that were left so; at most 20.
	Drift []DriftStatus `json:"drift,omitempty"`
	// Plan is what the last edit would change, in the mode Plan.
	Plan *PlanStatus `json:"plan,omitempty"`
	// Workloads counts those with stale sidecars, where spec.lifecycle.workloads is set.
	Workloads *WorkloadsStatus `json:"workloads,omitempty"`
	// UnusedSince is since when nothing uses the control plane, where spec.lifecycle.removal.unusedFor is set.
	UnusedSince *metav1.Time `json:"unusedSince,omitempty"`
	// Attempt is the edit or upgrade that is on its way, or that was given up.
	Attempt *AttemptStatus `json:"attempt,omitempty"`
}

// DriftStatus is one object that differs from what was applied.
type DriftStatus struct {
	// Object is such as Deployment istio-system/istiod.
	Object string `json:"object"`
	// Fields that differ; none for an object that was deleted.
	Fields []string `json:"fields,omitempty"`
	// Manager is who changed it last, as far as the object says.
	Manager string `json:"manager,omitempty"`
}

// PlanStatus is what an edit would change.
type PlanStatus struct {
	// Hash names this plan in spec.lifecycle.approvedPlan.
	Hash string `json:"hash"`
	// Changes has a line an object, such as "~ Deployment istio-system/istiod: spec.replicas"; at most 100.
	Changes []string `json:"changes,omitempty"`
	// Restarts lists the workloads whose pods are replaced.
	Restarts []string `json:"restarts,omitempty"`
}

// WorkloadsStatus is how far the sidecars are what their workloads ask for. Each list names at most 20 workloads.
type WorkloadsStatus struct {
	// Current and Stale count workloads.
	Current int32 `json:"current"`
	Stale   int32 `json:"stale"`
	// Restarting are on their way; Waiting may not be restarted now, and say why; Failed did not become ready in time,
	// and stop the rest.
	Restarting []string `json:"restarting,omitempty"`
	Waiting    []string `json:"waiting,omitempty"`
	Failed     []string `json:"failed,omitempty"`
}

// AttemptStatus is an edit or upgrade on its way to health.
type AttemptStatus struct {
	Generation int64  `json:"generation"`
	Version    string `json:"version,omitempty"`
	// Since is when it was first applied.
	Since metav1.Time `json:"since"`
	// RolledBackTo is the number of the installation that was gone back to; 0 while it is not given up.
	RolledBackTo int32 `json:"rolledBackTo,omitempty"`
	// Reason is why it was given up.
	Reason string `json:"reason,omitempty"`
}

// ComponentStatus is the state of one component.
type ComponentStatus struct {
	Version string `json:"version,omitempty"`
	Status  Phase  `json:"status,omitempty"`
	Error   string `json:"error,omitempty"`
}
