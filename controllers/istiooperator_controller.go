// Package controllers holds the operator's reconcilers. An IstioOperator that changed, or an owned object that did,
// enters; a step of its lifecycle is taken, and a status leaves. What a step is, it must not know.
package controllers

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/slipway-mesh/slipway/api/v1alpha1"
	"github.com/slipway-mesh/slipway/internal/install/lifecycle"
	"github.com/slipway-mesh/slipway/internal/install/manifest"
)

const (
	// pollInterval is how soon an installation on its way is looked at again; owned objects' events come sooner.
	pollInterval = 2 * time.Second
	// resyncInterval is how often a healthy one is compared with the cluster, for what no event tells.
	resyncInterval = 5 * time.Minute
)

// IstioOperatorReconciler makes clusters follow IstioOperators.
type IstioOperatorReconciler struct {
	Client client.Client
	// Direct reads from the API server: what is installed is compared with what is there, not with a cache.
	Direct    client.Client
	Installer lifecycle.Installer
	Images    lifecycle.Images
	Events    events.EventRecorder
}

// Reconcile takes one step for one resource.
func (r *IstioOperatorReconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	resource := &v1alpha1.IstioOperator{}
	if err := r.Client.Get(ctx, request.NamespacedName, resource); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if resource.Annotations[v1alpha1.IgnoreReconcile] == "true" {
		return ctrl.Result{}, nil
	}
	owner := lifecycle.Owner{Namespace: resource.Namespace, Name: resource.Name}
	if !resource.DeletionTimestamp.IsZero() {
		return r.remove(ctx, resource, owner)
	}
	if controllerutil.AddFinalizer(resource, v1alpha1.Finalizer) {
		if err := r.addFinalizer(ctx, resource); err != nil {
			return ctrl.Result{}, err
		}
	}
	return r.install(ctx, resource, owner)
}

func (r *IstioOperatorReconciler) install(ctx context.Context, resource *v1alpha1.IstioOperator, owner lifecycle.Owner) (ctrl.Result, error) {
	spec, generation, err := r.rawSpec(ctx, resource)
	if err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	manifests, err := lifecycle.Render(r.Images, owner, spec)
	if err != nil {
		// Only an edit helps, and an edit wakes us: what runs keeps running.
		return ctrl.Result{}, r.writeStatus(ctx, resource, refused(resource.Status, generation, err))
	}
	report, err := r.Installer.Install(ctx, owner, manifests)
	if report.Changes.Wrote() {
		log.FromContext(ctx).Info("applied", "changes", report.Changes.String())
	}
	status := observed(resource.Status, generation, r.Images.Version, report, err)
	if err := errors.Join(err, r.writeStatus(ctx, resource, status)); err != nil {
		return ctrl.Result{}, err // tried again with backoff
	}
	if status.Status == v1alpha1.PhaseHealthy {
		return ctrl.Result{RequeueAfter: resyncInterval}, nil
	}
	return ctrl.Result{RequeueAfter: pollInterval}, nil
}

func (r *IstioOperatorReconciler) remove(ctx context.Context, resource *v1alpha1.IstioOperator, owner lifecycle.Owner) (ctrl.Result, error) {
	if !controllerutil.ContainsFinalizer(resource, v1alpha1.Finalizer) {
		return ctrl.Result{}, nil
	}
	remaining, err := r.Installer.Remove(ctx, owner)
	if err != nil || remaining != "" {
		message := "removing: " + remaining + " is still there"
		if err != nil {
			message = "removing: " + err.Error()
		}
		status := removing(resource.Status, resource.Generation, message)
		return ctrl.Result{RequeueAfter: pollInterval / 4}, errors.Join(err, r.writeStatus(ctx, resource, status))
	}
	patch := client.MergeFromWithOptions(resource.DeepCopy(), client.MergeFromWithOptimisticLock{})
	controllerutil.RemoveFinalizer(resource, v1alpha1.Finalizer)
	return ctrl.Result{}, client.IgnoreNotFound(r.Client.Patch(ctx, resource, patch))
}

// rawSpec reads the spec as it was written: a typed one would have lost false, 0 and null.
func (r *IstioOperatorReconciler) rawSpec(ctx context.Context, resource *v1alpha1.IstioOperator) (map[string]any, int64, error) {
	raw := &unstructured.Unstructured{}
	raw.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("IstioOperator"))
	if err := r.Direct.Get(ctx, client.ObjectKeyFromObject(resource), raw); err != nil {
		return nil, 0, fmt.Errorf("read the resource: %w", err)
	}
	spec, _, err := unstructured.NestedMap(raw.Object, "spec")
	if err != nil || spec == nil {
		spec = map[string]any{}
	}
	return spec, raw.GetGeneration(), nil
}

func (r *IstioOperatorReconciler) addFinalizer(ctx context.Context, resource *v1alpha1.IstioOperator) error {
	before := resource.DeepCopy()
	controllerutil.RemoveFinalizer(before, v1alpha1.Finalizer)
	return r.Client.Patch(ctx, resource, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}))
}

// writeStatus patches the status if it differs, once, and tells a change of phase as an event.
func (r *IstioOperatorReconciler) writeStatus(ctx context.Context, resource *v1alpha1.IstioOperator, status v1alpha1.IstioOperatorStatus) error {
	if reflect.DeepEqual(resource.Status, status) {
		return nil
	}
	if resource.Status.Status != status.Status {
		kind := corev1.EventTypeNormal
		if status.Status == v1alpha1.PhaseError || status.Status == v1alpha1.PhaseActionRequired {
			kind = corev1.EventTypeWarning
		}
		r.Events.Eventf(resource, nil, kind, string(status.Status), "Reconcile", "%s", eventText(status))
	}
	changed := resource.DeepCopy()
	changed.Status = status
	err := r.Client.Status().Patch(ctx, changed, client.MergeFrom(resource))
	return client.IgnoreNotFound(err)
}

// eventText is the message cut to what an Event may hold.
func eventText(status v1alpha1.IstioOperatorStatus) string {
	const limit = 1000
	if text := status.Message; text != "" {
		return text[:min(len(text), limit)]
	}
	return "status is " + string(status.Status)
}

// owners maps an owned object to the resource that owns it.
func owners(_ context.Context, object client.Object) []ctrl.Request {
	labels := object.GetLabels()
	name, namespace := labels[manifest.LabelOwner], labels[manifest.LabelOwnerNamespace]
	if name == "" || namespace == "" {
		return nil
	}
	return []ctrl.Request{{NamespacedName: client.ObjectKey{Namespace: namespace, Name: name}}}
}
