package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// IstioOperator describes one mesh installation: a profile and what differs from it.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:path=istiooperators,singular=istiooperator,shortName=iop;io,scope=Namespaced
// +kubebuilder:printcolumn:name="Revision",type=string,JSONPath=`.spec.revision`
// +kubebuilder:printcolumn:name="Status",type=string,JSONPath=`.status.status`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type IstioOperator struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +optional
	// +nullable
	Spec *IstioOperatorSpec `json:"spec,omitempty"`
	// +optional
	Status IstioOperatorStatus `json:"status,omitempty"`
}

// IstioOperatorList is a list of IstioOperators.
//
// +kubebuilder:object:root=true
type IstioOperatorList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []IstioOperator `json:"items"`
}

// IstioOperatorSpec is merged over its profile; a field that is absent keeps the profile's value.
type IstioOperatorSpec struct {
	// Profile is the name of a built-in profile, or the path of a profile file. Empty means "default".
	Profile string `json:"profile,omitempty"`
	// InstallPackagePath is a local folder with charts/ and profiles/ to use in place of the built-in ones (CLI only).
	InstallPackagePath string `json:"installPackagePath,omitempty"`
	// Hub is the image registry and path of all components, such as docker.io/istio.
	Hub string `json:"hub,omitempty"`
	// Tag is the image tag of all components. A number is taken as its decimal text.
	// +kubebuilder:validation:XIntOrString
	Tag *intstr.IntOrString `json:"tag,omitempty"`
	// ResourceSuffix is accepted and has no effect.
	ResourceSuffix string `json:"resourceSuffix,omitempty"`
	// Namespace is where the control plane is installed. Empty means the namespace of the resource.
	Namespace string `json:"namespace,omitempty"`
	// Revision names the control plane; empty or "default" is the one without a suffix.
	// +kubebuilder:validation:MaxLength=56
	// +kubebuilder:validation:Pattern=`^([a-z0-9]([-a-z0-9]*[a-z0-9])?)?$`
	Revision string `json:"revision,omitempty"`
	// CompatibilityVersion asks for the defaults of an earlier minor version, such as "1.24".
	CompatibilityVersion string `json:"compatibilityVersion,omitempty"`
	// MeshConfig is Istio's MeshConfig for this mesh.
	// +kubebuilder:pruning:PreserveUnknownFields
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=object
	MeshConfig *runtime.RawExtension `json:"meshConfig,omitempty"`
	// Components says which components to install, and how.
	Components *ComponentsSpec `json:"components,omitempty"`
	// AddonComponents is accepted for compatibility; an enabled addon is refused.
	// +kubebuilder:pruning:PreserveUnknownFields
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=object
	AddonComponents *runtime.RawExtension `json:"addonComponents,omitempty"`
	// Values are Helm values, given to the charts.
	// +kubebuilder:pruning:PreserveUnknownFields
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=object
	Values *runtime.RawExtension `json:"values,omitempty"`
	// UnvalidatedValues are Helm values that are merged last and never checked.
	// +kubebuilder:pruning:PreserveUnknownFields
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=object
	UnvalidatedValues *runtime.RawExtension `json:"unvalidatedValues,omitempty"`
	// Lifecycle says how the operator treats the installation.
	Lifecycle *LifecycleSpec `json:"lifecycle,omitempty"`
}

// ComponentsSpec has one entry a component. Gateways are lists, merged with the profile's by name.
type ComponentsSpec struct {
	Base         *ComponentSpec `json:"base,omitempty"`
	Pilot        *ComponentSpec `json:"pilot,omitempty"`
	Cni          *ComponentSpec `json:"cni,omitempty"`
	Ztunnel      *ComponentSpec `json:"ztunnel,omitempty"`
	IstiodRemote *ComponentSpec `json:"istiodRemote,omitempty"`
	// +listType=map
	// +listMapKey=name
	IngressGateways []GatewaySpec `json:"ingressGateways,omitempty"`
	// +listType=map
	// +listMapKey=name
	EgressGateways []GatewaySpec `json:"egressGateways,omitempty"`
}

// ComponentSpec configures one component.
type ComponentSpec struct {
	Enabled *bool `json:"enabled,omitempty"`
	// Namespace overrides spec.namespace for this component.
	Namespace string `json:"namespace,omitempty"`
	Hub       string `json:"hub,omitempty"`
	// +kubebuilder:validation:XIntOrString
	Tag *intstr.IntOrString `json:"tag,omitempty"`
	// Spec is accepted and has no effect.
	// +kubebuilder:pruning:PreserveUnknownFields
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=object
	Spec *runtime.RawExtension    `json:"spec,omitempty"`
	K8s  *KubernetesResourcesSpec `json:"k8s,omitempty"`
}

// GatewaySpec configures one gateway, known by its name.
type GatewaySpec struct {
	ComponentSpec `json:",inline"`
	// +kubebuilder:validation:Pattern=`^[a-z0-9.-]{1,254}$`
	Name string `json:"name"`
	// Label replaces the gateway's selector labels.
	Label map[string]string `json:"label,omitempty"`
}
