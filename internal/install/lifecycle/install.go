// Package lifecycle is what the controller and the CLI do with an IstioOperator, step by step: install, follow, remove.
// Each step looks at the cluster, takes the action that its state asks for, and returns at once; the caller comes
// again. So nothing that it knows is lost with the process.
package lifecycle

import (
	"context"
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/slipway-mesh/slipway/api/v1alpha1"
	"github.com/slipway-mesh/slipway/internal/install/apply"
	"github.com/slipway-mesh/slipway/internal/install/manifest"
)

// Component is how one component stands.
type Component struct {
	Phase v1alpha1.Phase
	// Reason is why it is not HEALTHY.
	Reason string
}

// Report is how an installation stands after a step.
type Report struct {
	// Components by name, such as Pilot. Gateways of one kind share an entry, which shows the worst of them.
	Components map[string]Component
	Changes    apply.ChangeSet
}

// Healthy says that all is installed and ready.
func (r Report) Healthy() bool {
	for _, component := range r.Components {
		if component.Phase != v1alpha1.PhaseHealthy {
			return false
		}
	}
	return true
}

// Installer takes the steps.
type Installer struct {
	Cluster apply.Cluster
	// Yield names objects that are not corrected when somebody changes them; nil is none.
	Yield func(apply.Ref) bool
	// Kubernetes is the version of the cluster, for prechecks; empty is not known.
	Kubernetes string
}

// cluster is the cluster with the target's policy, as it is now.
func (i Installer) cluster(ctx context.Context, target *Target) (apply.Cluster, error) {
	policy, err := i.policy(ctx, target)
	if err != nil {
		return i.Cluster, err
	}
	cluster := i.Cluster
	cluster.Policy, cluster.Hashes = policy, target.hashes
	return cluster.Look(ctx, target.Objects(), map[string]string{manifest.LabelOwner: target.Owner.Name, manifest.LabelOwnerNamespace: target.Owner.Namespace})
}

// Install takes one step: it applies every component whose predecessors are ready, and prunes when all are.
func (i Installer) Install(ctx context.Context, target *Target) (Report, error) {
	report := Report{Components: map[string]Component{}}
	for _, namespace := range namespacesOf(target) {
		if err := i.ensureNamespace(ctx, namespace); err != nil {
			return report, err
		}
	}
	known, err := i.Cluster.LoadInventory(ctx, target.Owner.Namespace, target.Owner.inventoryName())
	if err != nil {
		return report, err
	}
	if err := i.remember(ctx, target, known); err != nil {
		return report, err
	}
	cluster, err := i.cluster(ctx, target)
	if err != nil {
		return report, err
	}
	for _, component := range target.Components {
		state := Component{Phase: v1alpha1.PhaseReconciling}
		if blocker := blockedBy(report, component.Name); blocker != "" {
			state.Reason = "waits for " + blocker
		} else {
			state = installComponent(ctx, cluster, component, known, &report.Changes)
		}
		report.add(component.Name, state)
	}
	return report, i.settle(ctx, target, known, &report)
}

// remember writes down what is about to be applied, before it is: what a crash leaves behind can then be found.
func (i Installer) remember(ctx context.Context, target *Target, known apply.Inventory) error {
	all := apply.InventoryOf(target.Objects())
	maps.Copy(all, known)
	return i.saveInventory(ctx, target.Owner, all)
}

func (i Installer) saveInventory(ctx context.Context, owner Owner, inventory apply.Inventory) error {
	return i.Cluster.SaveInventory(ctx, owner.Namespace, owner.inventoryName(), inventory)
}

// settle records what was applied. When all is healthy it removes what is no longer asked for, and keeps the
// installation as a good one.
func (i Installer) settle(ctx context.Context, target *Target, known apply.Inventory, report *Report) error {
	wanted := apply.InventoryOf(target.Objects())
	final := maps.Clone(wanted)
	maps.Copy(final, known)
	for _, change := range report.Changes {
		final[change.Ref] = change.Record
	}
	if !report.Healthy() {
		return i.saveInventory(ctx, target.Owner, final)
	}
	obsolete := known.Missing(wanted)
	pruned, err := i.Cluster.Prune(ctx, obsolete, target.Owner.owns)
	report.Changes = append(report.Changes, pruned...)
	if err != nil {
		return err
	}
	for _, ref := range obsolete {
		delete(final, ref)
	}
	if err := i.saveInventory(ctx, target.Owner, final); err != nil {
		return err
	}
	if err := i.supersede(ctx, target); err != nil || target.kept {
		return err
	}
	return i.keep(ctx, target)
}

// supersede forgets the installation by the CLI whose objects a resource of the same revision has taken over.
func (i Installer) supersede(ctx context.Context, target *Target) error {
	former := CommandLine(target.Owner.Namespace, target.Revision)
	if target.Owner.IsCommandLine() {
		return nil
	}
	return i.forgetOwner(ctx, former)
}

func installComponent(ctx context.Context, cluster apply.Cluster, c manifest.Component, known apply.Inventory, changes *apply.ChangeSet) Component {
	changed, err := cluster.Apply(ctx, c.Objects, known)
	*changes = append(*changes, changed...)
	if err != nil {
		return Component{v1alpha1.PhaseError, err.Error()}
	}
	unready, err := cluster.Unready(ctx, c.Objects)
	if err != nil {
		return Component{v1alpha1.PhaseError, err.Error()}
	}
	if len(unready) == 0 {
		return Component{Phase: v1alpha1.PhaseHealthy}
	}
	reason := fmt.Sprintf("%s: %s", unready[0].Ref, unready[0].Reason)
	switch {
	case unready[0].Failing:
		return Component{v1alpha1.PhaseError, reason}
	case changed.Wrote():
		return Component{v1alpha1.PhaseUpdating, reason}
	}
	return Component{v1alpha1.PhaseReconciling, reason}
}

// blockedBy returns the name of a component that must be ready before the named one and is not.
func blockedBy(report Report, name string) string {
	for _, before := range manifest.After(name) {
		if state, ok := report.Components[before]; ok && state.Phase != v1alpha1.PhaseHealthy {
			return before
		}
	}
	return ""
}

// severity orders phases so that the worst of several gateways shows.
var severity = map[v1alpha1.Phase]int{
	v1alpha1.PhaseHealthy: 1, v1alpha1.PhaseReconciling: 2, v1alpha1.PhaseUpdating: 3, v1alpha1.PhaseError: 4,
}

func (r *Report) add(name string, state Component) {
	if there, ok := r.Components[name]; ok && severity[there.Phase] >= severity[state.Phase] {
		return
	}
	r.Components[name] = state
}

func namespacesOf(target *Target) []string {
	names := []string{target.Owner.Namespace}
	seen := map[string]bool{target.Owner.Namespace: true}
	for _, object := range target.Objects() {
		if ns := object.GetNamespace(); ns != "" && !seen[ns] {
			seen[ns] = true
			names = append(names, ns)
		}
	}
	return names
}

func (i Installer) ensureNamespace(ctx context.Context, name string) error {
	namespace := &corev1.Namespace{}
	err := i.Cluster.Client.Get(ctx, client.ObjectKey{Name: name}, namespace)
	if apierrors.IsNotFound(err) {
		namespace.ObjectMeta = metav1.ObjectMeta{Name: name}
		err = i.Cluster.Client.Create(ctx, namespace, client.FieldOwner(apply.FieldManager))
	}
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("namespace %s: %w", name, err)
	}
	return nil
}
