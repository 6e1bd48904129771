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
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/slipway-mesh/slipway/api/v1alpha1"
	"github.com/slipway-mesh/slipway/internal/install/apply"
	"github.com/slipway-mesh/slipway/internal/install/lifecycle"
	"github.com/slipway-mesh/slipway/internal/install/manifest"
)

const (
	// pollInterval is how soon an installation on its way is looked at again; owned objects' events come sooner.
	pollInterval = 2 * time.Second
	// statusInterval is how long a written status may take to be read again.
	statusInterval = 100 * time.Millisecond
	// resyncInterval is how often a healthy one is compared with the cluster, for what no event tells.
	resyncInterval = 5 * time.Minute
)

// IstioOperatorReconciler makes clusters follow IstioOperators.
type IstioOperatorReconciler struct {
	Client client.Client
	// Direct reads from the API server: what is installed is compared with what is there, not with a cache.
	Direct    client.Client
	Installer lifecycle.Installer
	Build     lifecycle.Build
	Events    events.EventRecorder
	Metrics   *Metrics

	fights   fights
	rendered rendered
}

// Reconcile takes one step for one resource.
func (r *IstioOperatorReconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	resource := &v1alpha1.IstioOperator{}
	if err := r.Client.Get(ctx, request.NamespacedName, resource); err != nil {
		r.Metrics.forget(request.Namespace, request.Name)
		r.rendered.forget(lifecycle.Owner{Namespace: request.Namespace, Name: request.Name})
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
	target, err := r.target(ctx, owner, spec)
	var mistake mistakenError
	switch {
	case errors.As(err, &mistake):
		// Only an edit helps, and an edit wakes us: what runs keeps running.
		r.Metrics.refused.Inc()
		return ctrl.Result{}, r.writeStatus(ctx, resource, refused(resource.Status, generation, err))
	case err != nil:
		return ctrl.Result{}, r.failed(ctx, resource, generation, err)
	}
	if wrote, err := r.preflight(ctx, resource, target, generation); wrote {
		return ctrl.Result{RequeueAfter: statusInterval}, err
	}
	installer := r.Installer
	installer.Yield = func(ref apply.Ref) bool { return r.fights.undecided(owner, ref, time.Now()) }
	attempt := attemptOf(resource.Status.Attempt, generation, r.Build.Version, metav1.Now())
	if target.Lifecycle.Mode == v1alpha1.ModePlan && resource.Status.Attempt == nil {
		plan, err := installer.Plan(ctx, target)
		if err != nil {
			return ctrl.Result{}, r.failed(ctx, resource, generation, err)
		}
		if status, waits := planned(resource.Status, generation, plan, target.Lifecycle.ApprovedPlan); waits {
			return ctrl.Result{RequeueAfter: resyncInterval}, r.writeStatus(ctx, resource, status)
		}
	}
	return r.step(ctx, resource, installer, target, attempt)
}

// mistakenError is a mistake in a spec.
type mistakenError struct{ error }

func (e mistakenError) Unwrap() error { return e.error }

// target is what a spec asks for: an installation of the past that it is kept at, or what it renders to.
func (r *IstioOperatorReconciler) target(ctx context.Context, owner lifecycle.Owner, spec map[string]any) (*lifecycle.Target, error) {
	if kept, err := r.Installer.Kept(ctx, owner, spec); kept != nil || err != nil {
		return kept, err
	}
	build := r.Build
	var err error
	if build.Profiles, err = r.Installer.Profiles(ctx, owner.Namespace); err != nil {
		return nil, err
	}
	target, err := r.rendered.render(build, owner, spec)
	if err != nil {
		return nil, mistakenError{err}
	}
	return target, nil
}

// step takes a step towards the target, or towards the last good installation where the target was given up.
func (r *IstioOperatorReconciler) step(ctx context.Context, resource *v1alpha1.IstioOperator, installer lifecycle.Installer, target *lifecycle.Target, attempt v1alpha1.AttemptStatus) (ctrl.Result, error) {
	if attempt.RolledBackTo != 0 {
		good, err := installer.LastGood(ctx, target.Owner, int(attempt.RolledBackTo))
		if err != nil {
			return ctrl.Result{}, r.failed(ctx, resource, attempt.Generation, err)
		}
		good.Target.Lifecycle = target.Lifecycle
		target = good.Target
	}
	report, err := installer.Install(ctx, target)
	r.tell(ctx, resource, target.Owner, report)
	status := observed(resource.Status, attempt.Generation, r.Build.Version, report, err)
	healthy := status.Status == v1alpha1.PhaseHealthy
	switch {
	case attempt.RolledBackTo != 0:
		status = gaveUp(status, attempt)
	case !healthy:
		if expired(attempt, target.Lifecycle.Rollback, time.Now()) {
			attempt = r.giveUp(ctx, installer, target, attempt, status.Message)
		}
		status.Attempt = &attempt
	}
	again := pollInterval
	if healthy {
		again = resyncInterval
		if workloads := target.Lifecycle.Workloads; workloads != nil {
			status.Workloads, again, err = r.workloads(ctx, installer, *workloads)
		}
		gone, lost := r.retire(ctx, resource, installer, target, &status)
		if err = errors.Join(err, lost); gone {
			return ctrl.Result{}, err
		}
		if removal := target.Lifecycle.Removal; removal != nil && removal.UnusedFor != nil {
			again = min(again, labelInterval)
		}
	}
	if err := errors.Join(err, r.writeStatus(ctx, resource, status)); err != nil {
		return ctrl.Result{}, err // tried again with backoff
	}
	return ctrl.Result{RequeueAfter: again}, nil
}

// workloads restarts what has stale sidecars, as far as it is asked for, and says when to look again.
func (r *IstioOperatorReconciler) workloads(ctx context.Context, installer lifecycle.Installer, spec v1alpha1.WorkloadsSpec) (*v1alpha1.WorkloadsStatus, time.Duration, error) {
	restart, err := installer.Restart(ctx, spec, time.Now())
	if err != nil {
		return nil, 0, err
	}
	return workloadsStatus(restart), workloadsInterval(restart), nil
}

// giveUp turns the attempt to the last good installation, if there is one that is another.
func (r *IstioOperatorReconciler) giveUp(ctx context.Context, installer lifecycle.Installer, target *lifecycle.Target, attempt v1alpha1.AttemptStatus, reason string) v1alpha1.AttemptStatus {
	good, err := installer.LastGood(ctx, target.Owner, 0)
	if err != nil || good.Is(target) {
		return attempt
	}
	attempt.RolledBackTo, attempt.Reason = int32(good.Number), reason
	return attempt
}

// failed tells an error of the cluster in the status; the step is tried again with backoff.
func (r *IstioOperatorReconciler) failed(ctx context.Context, resource *v1alpha1.IstioOperator, generation int64, err error) error {
	status := observed(resource.Status, generation, r.Build.Version, lifecycle.Report{}, err)
	status.ComponentStatus = resource.Status.ComponentStatus
	return errors.Join(err, r.writeStatus(ctx, resource, status))
}

// tell logs, counts and tells as events what the step changed.
func (r *IstioOperatorReconciler) tell(ctx context.Context, resource *v1alpha1.IstioOperator, owner lifecycle.Owner, report lifecycle.Report) {
	if report.Changes.Wrote() {
		log.FromContext(ctx).Info("applied", "changes", report.Changes.String())
	}
	r.Metrics.count(report.Changes)
	for _, change := range report.Changes {
		if change.Action == apply.Corrected {
			r.fights.corrected(owner, change.Ref, time.Now())
			r.Events.Eventf(resource, nil, corev1.EventTypeWarning, "DriftCorrected", "Reconcile", "%s", driftText(change))
		}
	}
}

func (r *IstioOperatorReconciler) remove(ctx context.Context, resource *v1alpha1.IstioOperator, owner lifecycle.Owner) (ctrl.Result, error) {
	if !controllerutil.ContainsFinalizer(resource, v1alpha1.Finalizer) {
		return ctrl.Result{}, nil
	}
	waits, err := r.attached(ctx, resource, owner)
	if err != nil || waits {
		return ctrl.Result{RequeueAfter: pollInterval}, err
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

// attached tells of the sidecars that still use what is to be removed, and says whether the removal waits for them.
func (r *IstioOperatorReconciler) attached(ctx context.Context, resource *v1alpha1.IstioOperator, owner lifecycle.Owner) (waits bool, err error) {
	policy := removalPolicy(resource.Spec)
	if policy.Policy == v1alpha1.RemovalForce || resource.Status.Status == v1alpha1.PhaseUpdating {
		return false, nil // not asked for, or told already and on its way
	}
	pods, err := r.Installer.Attached(ctx, owner)
	if err != nil || len(pods) == 0 {
		return false, err
	}
	blocked := policy.Policy == v1alpha1.RemovalBlock &&
		(policy.Timeout == nil || time.Since(resource.DeletionTimestamp.Time) < policy.Timeout.Duration)
	if !blocked {
		r.Events.Eventf(resource, nil, corev1.EventTypeWarning, "ProxiesAttached", "Remove", "%s", attachedText(pods))
		return false, nil
	}
	return true, r.writeStatus(ctx, resource, removalBlocked(resource.Status, resource.Generation, pods))
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
	r.Metrics.show(resource, status)
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
	if len(status.Drift) > 0 && !reflect.DeepEqual(resource.Status.Drift, status.Drift) {
		r.Events.Eventf(resource, nil, corev1.EventTypeWarning, "Drifted", "Reconcile", "%s", cut(driftedText(status.Drift)))
	}
	changed := resource.DeepCopy()
	changed.Status = status
	err := r.Client.Status().Patch(ctx, changed, client.MergeFrom(resource))
	return client.IgnoreNotFound(err)
}

// eventText is the message cut to what an Event may hold.
func eventText(status v1alpha1.IstioOperatorStatus) string {
	if status.Message != "" {
		return cut(status.Message)
	}
	return "status is " + string(status.Status)
}

// cut cuts a text to what an Event may hold.
func cut(text string) string {
	const limit = 1000
	return text[:min(len(text), limit)]
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
