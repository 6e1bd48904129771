package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// LifecycleSpec says how the operator treats the installation. Istio's API has no counterpart.
type LifecycleSpec struct {
	// Mode Apply, the default, follows every edit. Plan computes what an edit would change, shows it in status.plan, and
	// applies it when approvedPlan is the plan's hash.
	// +kubebuilder:validation:Enum=Apply;Plan
	Mode string `json:"mode,omitempty"`
	// ApprovedPlan is the hash of the plan to apply.
	ApprovedPlan string `json:"approvedPlan,omitempty"`
	// Installation keeps what is installed at a kept installation, by its number; the rest of the spec but lifecycle has no
	// effect then. The first of an adopted mesh is how it was found.
	// +kubebuilder:validation:Minimum=1
	Installation *int32 `json:"installation,omitempty"`
	// Adopt takes over objects that another installer made, or that an IstioOperator keeps as they were found. Without it
	// they are left, and reported.
	Adopt    *bool         `json:"adopt,omitempty"`
	Drift    *DriftSpec    `json:"drift,omitempty"`
	Rollback *RollbackSpec `json:"rollback,omitempty"`
	Removal  *RemovalSpec  `json:"removal,omitempty"`
	// Workloads says what becomes of workloads whose sidecars are of another revision or configuration than they ask for.
	Workloads *WorkloadsSpec `json:"workloads,omitempty"`
	// HistoryLimit is how many of the last good installations are kept; 5 if it is not set.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=50
	HistoryLimit *int32 `json:"historyLimit,omitempty"`
}

// The modes.
const (
	ModeApply = "Apply"
	ModePlan  = "Plan"
)

// DriftSpec says what becomes of installed objects that somebody edits or deletes.
type DriftSpec struct {
	// Mode Correct, the default, makes them as they should be; Warn reports them; Ignore does not look.
	// +kubebuilder:validation:Enum=Correct;Warn;Ignore
	Mode string `json:"mode,omitempty"`
	// Ignore leaves fields to whoever sets them.
	Ignore []DriftIgnoreRule `json:"ignore,omitempty"`
}

// DriftIgnoreRule names fields of objects.
type DriftIgnoreRule struct {
	// Kind of the objects, such as Deployment; empty is all.
	Kind string `json:"kind,omitempty"`
	// Name of the objects; empty is all.
	Name string `json:"name,omitempty"`
	// Paths are JSON pointers without list indices, such as /metadata/annotations/example.com~1owner.
	// +kubebuilder:validation:MinItems=1
	Paths []string `json:"paths"`
}

// RollbackSpec makes the operator go back to the last good installation when an edit or an upgrade does not become
// healthy in time.
type RollbackSpec struct {
	// Timeout is how long it may take, such as 5m.
	Timeout metav1.Duration `json:"timeout"`
}

// RemovalSpec says what becomes of a removal while proxies of other workloads still use the control plane.
type RemovalSpec struct {
	// Policy Warn, the default, lists them and goes on; Block waits until they are gone; Force does not look.
	// +kubebuilder:validation:Enum=Warn;Block;Force
	Policy string `json:"policy,omitempty"`
	// Timeout ends the wait of Block, such as 1h; without it the wait has no end.
	Timeout *metav1.Duration `json:"timeout,omitempty"`
	// UnusedFor makes the operator delete the resource when nothing has used its control plane for that long, such as 1h:
	// no sidecar, namespace or tag, and no gateway of its own. An old revision goes so by itself.
	UnusedFor *metav1.Duration `json:"unusedFor,omitempty"`
}

// The removal policies.
const (
	RemovalWarn  = "Warn"
	RemovalBlock = "Block"
	RemovalForce = "Force"
)

// WorkloadsSpec says how workloads get new sidecars. A workload with the annotation install.operator.istio.io/restart set
// to "false" is left alone.
type WorkloadsSpec struct {
	// Restart Never, the default, counts them in status; Stale restarts them, batch by batch.
	// +kubebuilder:validation:Enum=Never;Stale
	Restart string `json:"restart,omitempty"`
	// BatchSize is how many workloads restart at a time; 1 if it is not set.
	// +kubebuilder:validation:Minimum=1
	BatchSize *int32 `json:"batchSize,omitempty"`
	// Timeout is how long a workload may take to become ready again before all stops; 10m if it is not set.
	Timeout *metav1.Duration `json:"timeout,omitempty"`
}

// The restart policies.
const (
	RestartNever = "Never"
	RestartStale = "Stale"
)
