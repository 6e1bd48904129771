package controllers

import (
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/selection"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"github.com/slipway-mesh/slipway/api/v1alpha1"
	"github.com/slipway-mesh/slipway/internal/install/manifest"
)

// watched lists the kinds that the operator installs and so watches: their metadata only, and only those that carry
// an owner's label. Pods are not among them.
var watched = []schema.GroupVersionKind{
	{Version: "v1", Kind: "ServiceAccount"},
	{Version: "v1", Kind: "Service"},
	{Version: "v1", Kind: "ConfigMap"},
	{Group: "apps", Version: "v1", Kind: "Deployment"},
	{Group: "autoscaling", Version: "v2", Kind: "HorizontalPodAutoscaler"},
	{Group: "policy", Version: "v1", Kind: "PodDisruptionBudget"},
	{Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "Role"},
	{Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "RoleBinding"},
	{Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "ClusterRole"},
	{Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "ClusterRoleBinding"},
	{Group: "admissionregistration.k8s.io", Version: "v1", Kind: "MutatingWebhookConfiguration"},
	{Group: "admissionregistration.k8s.io", Version: "v1", Kind: "ValidatingWebhookConfiguration"},
	{Group: "admissionregistration.k8s.io", Version: "v1", Kind: "ValidatingAdmissionPolicy"},
	{Group: "admissionregistration.k8s.io", Version: "v1", Kind: "ValidatingAdmissionPolicyBinding"},
	{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition"},
}

// CacheOptions limits the manager's cache to what the controllers watch. namespaces is a comma-separated list of where
// IstioOperators are read; empty means everywhere.
func CacheOptions(namespaces string) cache.Options {
	owned, err := labels.NewRequirement(manifest.LabelOwner, selection.Exists, nil)
	if err != nil {
		panic(err) // the label is a constant
	}
	byObject := map[client.Object]cache.ByObject{}
	for _, kind := range watched {
		byObject[metadata(kind)] = cache.ByObject{Label: labels.NewSelector().Add(*owned)}
	}
	resources := cache.ByObject{}
	if namespaces != "" {
		resources.Namespaces = map[string]cache.Config{}
		for _, name := range strings.Split(namespaces, ",") {
			resources.Namespaces[strings.TrimSpace(name)] = cache.Config{}
		}
	}
	byObject[&v1alpha1.IstioOperator{}] = resources
	return cache.Options{ByObject: byObject}
}

// SetupWithManager registers the controller and its watches.
func (r *IstioOperatorReconciler) SetupWithManager(manager ctrl.Manager) error {
	b := ctrl.NewControllerManagedBy(manager).
		For(&v1alpha1.IstioOperator{}, builder.WithPredicates(predicate.Or(
			predicate.GenerationChangedPredicate{}, predicate.AnnotationChangedPredicate{})))
	for _, kind := range watched {
		b = b.WatchesMetadata(metadata(kind), handler.EnqueueRequestsFromMapFunc(owners))
	}
	return b.Complete(r)
}

func metadata(kind schema.GroupVersionKind) *metav1.PartialObjectMetadata {
	object := &metav1.PartialObjectMetadata{}
	object.SetGroupVersionKind(kind)
	return object
}
