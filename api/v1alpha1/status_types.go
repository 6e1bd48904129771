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
}

// ComponentStatus is the state of one component.
type ComponentStatus struct {
	Version string `json:"version,omitempty"`
	Status  Phase  `json:"status,omitempty"`
	Error   string `json:"error,omitempty"`
}
