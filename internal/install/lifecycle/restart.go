package lifecycle

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/slipway-mesh/slipway/api/v1alpha1"
	"github.com/slipway-mesh/slipway/internal/install/apply"
)

const (
	// restartAnnotation on a workload, with "false", keeps it from being restarted.
	restartAnnotation = "install.operator.istio.io/restart"
	// restartedAt is kubectl's: in a pod template it makes a rollout.
	restartedAt = "kubectl.kubernetes.io/restartedAt"
	// sinceAnnotation on a workload says that we restart it, and since when; forAnnotation, what it was to get by that.
	sinceAnnotation = "install.operator.istio.io/restarted-at"
	forAnnotation   = "install.operator.istio.io/restarted-for"

	restartTimeout = 10 * time.Minute
)

// restartable are the kinds that roll when their template changes.
var restartable = map[string]bool{"Deployment": true, "StatefulSet": true, "DaemonSet": true}

// Restart is how the workloads with sidecars stand, after a step.
type Restart struct {
	Current, Stale int
	// Restarting, Waiting (with the reason) and Failed are names of workloads.
	Restarting, Waiting, Failed []string
}

// Restart takes one step: it restarts stale workloads while fewer than a batch are on their way. A workload that may
// not lose a pod now waits. One that does not become ready in time stops all. With restart off it only looks.
func (i Installer) Restart(ctx context.Context, spec v1alpha1.WorkloadsSpec, now time.Time) (Restart, error) {
	all, err := i.Workloads(ctx)
	if err != nil {
		return Restart{}, err
	}
	var out Restart
	var stale []Workload
	for _, w := range all {
		state, err := i.restartState(ctx, w, spec, now)
		if err != nil {
			return out, err
		}
		switch {
		case state == stateFailed:
			out.Failed = append(out.Failed, w.Name)
		case state == stateRolling:
			out.Restarting = append(out.Restarting, w.Name)
		case w.Stale == "":
			out.Current++
		}
		if w.Stale != "" {
			out.Stale++
			if state == stateIdle {
				stale = append(stale, w)
			}
		}
	}
	if spec.Restart != v1alpha1.RestartStale || len(out.Failed) > 0 {
		return out, nil
	}
	batch := 1
	if spec.BatchSize != nil {
		batch = int(*spec.BatchSize)
	}
	for _, w := range stale {
		if len(out.Restarting) >= batch {
			break
		}
		if err := i.restartOne(ctx, w, now, &out); err != nil {
			return out, err
		}
	}
	return out, nil
}

type restartState int

const (
	stateIdle restartState = iota
	stateRolling
	stateFailed
)

// restartState says whether a restart of ours is on its way.
func (i Installer) restartState(ctx context.Context, w Workload, spec v1alpha1.WorkloadsSpec, now time.Time) (restartState, error) {
	if !restartable[w.Ref.Kind] {
		return stateIdle, nil
	}
	object, err := i.read(ctx, w.Ref)
	if err != nil || object == nil {
		return stateIdle, err
	}
	since, err := time.Parse(time.RFC3339, object.GetAnnotations()[sinceAnnotation])
	if err != nil {
		return stateIdle, nil //nolint:nilerr // not restarted by us
	}
	unready, err := i.Cluster.Unready(ctx, []apply.Object{object})
	if err != nil || len(unready) == 0 {
		return stateIdle, err
	}
	timeout := restartTimeout
	if spec.Timeout != nil {
		timeout = spec.Timeout.Duration
	}
	if now.Sub(since) > timeout {
		return stateFailed, nil
	}
	return stateRolling, nil
}

func (i Installer) read(ctx context.Context, ref apply.Ref) (apply.Object, error) {
	object := &unstructured.Unstructured{Object: map[string]any{"apiVersion": ref.APIVersion(), "kind": ref.Kind}}
	err := i.Cluster.Client.Get(ctx, client.ObjectKey{Namespace: ref.Namespace, Name: ref.Name}, object)
	if err != nil {
		return nil, client.IgnoreNotFound(err)
	}
	return object, nil
}

func (i Installer) restartOne(ctx context.Context, w Workload, now time.Time, out *Restart) error {
	object, err := i.read(ctx, w.Ref)
	if err != nil || object == nil {
		return err
	}
	reason := ""
	switch {
	case !restartable[w.Ref.Kind]:
		reason = "a " + w.Ref.Kind + " has to be made anew by hand"
	case object.GetAnnotations()[restartAnnotation] == "false":
		reason = "the annotation " + restartAnnotation + " says false"
	case object.GetAnnotations()[forAnnotation] == w.goal:
		reason = "it was restarted for this already, and its sidecar stayed as it was"
	default:
		if reason, err = i.budget(ctx, object); err != nil {
			return err
		}
	}
	if reason != "" {
		out.Waiting = append(out.Waiting, w.Name+": "+reason)
		return nil
	}
	stamp := now.UTC().Format(time.RFC3339)
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"annotations": map[string]any{sinceAnnotation: stamp, forAnnotation: w.goal}},
		"spec":     map[string]any{"template": map[string]any{"metadata": map[string]any{"annotations": map[string]any{restartedAt: stamp}}}},
	})
	if err != nil {
		return err
	}
	if err := i.Cluster.Client.Patch(ctx, object, client.RawPatch("application/merge-patch+json", patch), client.FieldOwner(restartManager)); err != nil {
		return fmt.Errorf("restart %s: %w", w.Name, err)
	}
	out.Restarting = append(out.Restarting, w.Name)
	return nil
}

// restartManager owns the annotations of a restart: they are not what is applied.
const restartManager = "slipway-restart"

// budget names a PodDisruptionBudget that allows no pod of the workload to go; empty if there is none.
func (i Installer) budget(ctx context.Context, workload apply.Object) (string, error) {
	podLabels, _, _ := unstructured.NestedStringMap(workload.Object, "spec", "template", "metadata", "labels")
	budgets := &policyv1.PodDisruptionBudgetList{}
	if err := i.Cluster.Client.List(ctx, budgets, client.InNamespace(workload.GetNamespace())); err != nil {
		return "", fmt.Errorf("list PodDisruptionBudgets: %w", err)
	}
	for _, budget := range budgets.Items {
		selector, err := metav1.LabelSelectorAsSelector(budget.Spec.Selector)
		if err != nil || selector.Empty() || !selector.Matches(labels.Set(podLabels)) {
			continue
		}
		if budget.Status.DisruptionsAllowed < 1 {
			return "PodDisruptionBudget " + budget.Name + " allows no disruption", nil
		}
	}
	return "", nil
}
