package v1alpha1

import (
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// KubernetesResourcesSpec sets what the rendered objects of a component say to Kubernetes.
type KubernetesResourcesSpec struct {
	Affinity *corev1.Affinity `json:"affinity,omitempty"`
	// Env is merged with the container's by name.
	// +listType=map
	// +listMapKey=name
	Env                 []corev1.EnvVar                   `json:"env,omitempty"`
	HpaSpec             *HorizontalPodAutoscalerSpec      `json:"hpaSpec,omitempty"`
	ImagePullPolicy     corev1.PullPolicy                 `json:"imagePullPolicy,omitempty"`
	NodeSelector        map[string]string                 `json:"nodeSelector,omitempty"`
	PodDisruptionBudget *policyv1.PodDisruptionBudgetSpec `json:"podDisruptionBudget,omitempty"`
	PodAnnotations      map[string]string                 `json:"podAnnotations,omitempty"`
	PriorityClassName   string                            `json:"priorityClassName,omitempty"`
	ReadinessProbe      *corev1.Probe                     `json:"readinessProbe,omitempty"`
	// +kubebuilder:validation:Minimum=0
	ReplicaCount       *int32                       `json:"replicaCount,omitempty"`
	Resources          *corev1.ResourceRequirements `json:"resources,omitempty"`
	Service            *corev1.ServiceSpec          `json:"service,omitempty"`
	Strategy           *appsv1.DeploymentStrategy   `json:"strategy,omitempty"`
	Tolerations        []corev1.Toleration          `json:"tolerations,omitempty"`
	ServiceAnnotations map[string]string            `json:"serviceAnnotations,omitempty"`
	SecurityContext    *corev1.PodSecurityContext   `json:"securityContext,omitempty"`
	// +listType=map
	// +listMapKey=name
	Volumes []corev1.Volume `json:"volumes,omitempty"`
	// +listType=map
	// +listMapKey=mountPath
	VolumeMounts []corev1.VolumeMount `json:"volumeMounts,omitempty"`
	// Overlays patch rendered objects by path, after everything else.
	Overlays []Overlay `json:"overlays,omitempty"`
}

// Overlay patches one rendered object.
type Overlay struct {
	APIVersion string  `json:"apiVersion,omitempty"`
	Kind       string  `json:"kind"`
	Name       string  `json:"name"`
	Patches    []Patch `json:"patches,omitempty"`
}

// Patch sets the value at a path; without a value it deletes what is there.
type Patch struct {
	// Path is such as spec.template.spec.containers.[name:discovery].args.[-1].
	Path string `json:"path"`
	// +kubebuilder:pruning:PreserveUnknownFields
	// +kubebuilder:validation:Schemaless
	Value *runtime.RawExtension `json:"value,omitempty"`
}

// HorizontalPodAutoscalerSpec is Kubernetes' with every field optional, since it is merged over the chart's.
type HorizontalPodAutoscalerSpec struct {
	ScaleTargetRef *autoscalingv2.CrossVersionObjectReference     `json:"scaleTargetRef,omitempty"`
	MinReplicas    *int32                                         `json:"minReplicas,omitempty"`
	MaxReplicas    *int32                                         `json:"maxReplicas,omitempty"`
	Metrics        []autoscalingv2.MetricSpec                     `json:"metrics,omitempty"`
	Behavior       *autoscalingv2.HorizontalPodAutoscalerBehavior `json:"behavior,omitempty"`
}
