// Package v1alpha1 is the IstioOperator API, install.istio.io/v1alpha1: what a user writes to describe a mesh.
// It holds types, defaults and pure checks. It knows no profile, no chart and no client.
// +kubebuilder:object:generate=true
// +groupName=install.istio.io
package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion is the group and version of everything in this package.
var GroupVersion = schema.GroupVersion{Group: "install.istio.io", Version: "v1alpha1"}

// AddToScheme registers the types with a scheme.
func AddToScheme(scheme *runtime.Scheme) error {
	scheme.AddKnownTypes(GroupVersion, &IstioOperator{}, &IstioOperatorList{})
	metav1.AddToGroupVersion(scheme, GroupVersion)
	return nil
}
