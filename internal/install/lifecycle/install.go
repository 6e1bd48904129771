// Package lifecycle is what the controller and the CLI do with an IstioOperator, step by step: install, follow, remove.
// Each step looks at the cluster, takes the action that its state asks for, and returns at once; the caller comes
// again. So nothing that it knows is lost with the process.
package lifecycle

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/slipway-mesh/slipway/api/v1alpha1"
	"github.com/slipway-mesh/slipway/internal/install/apply"
	"github.com/slipway-mesh/slipway/internal/install/manifest"
)

// Owner is whose installation it is: an IstioOperator resource, or for `slipway install` a name that stands for one.
type Owner struct {
	Namespace, Name string
}

func (o Owner) inventoryName() string { return "istio-operator-inventory-" + o.Name }

// owns says whether an object carries the owner's labels.
func (o Owner) owns(object apply.Object) bool {
	labels := object.GetLabels()
	return labels[manifest.LabelOwner] == o.Name && labels[manifest.LabelOwnerNamespace] == o.Namespace
}

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
}

// Install takes one step: it applies every component whose predecessors are ready, and prunes when all are.
func (i Installer) Install(ctx context.Context, owner Owner, manifests *manifest.Manifests) (Report, error) {
	report := Report{Components: map[string]Component{}}
	for _, namespace := range namespacesOf(owner, manifests) {
		if err := i.ensureNamespace(ctx, namespace); err != nil {
			return report, err
		}
	}
	known, err := i.Cluster.LoadInventory(ctx, owner.Namespace, owner.inventoryName())
	if err != nil {
		return report, err
	}
	target := apply.InventoryOf(manifests.Objects())
	if err := i.remember(ctx, owner, known, target); err != nil {
		return report, err
	}
	applied := apply.Inventory{}
	for _, component := range manifests.Components {
		state := Component{Phase: v1alpha1.PhaseReconciling}
		if blocker := blockedBy(report, component.Name); blocker != "" {
			state.Reason = "waits for " + blocker
		} else {
			state = i.installComponent(ctx, component, known, &report.Changes)
			if state.Phase != v1alpha1.PhaseError {
				for _, object := range component.Objects {
					applied[apply.RefOf(object)] = target[apply.RefOf(object)]
				}
			}
		}
		report.add(component.Name, state)
	}
	return report, i.settle(ctx, owner, known, target, applied, &report)
}

// remember writes down what is about to be applied, before it is: what a crash leaves behind can then be found. The
// hashes stay those of what was applied.
func (i Installer) remember(ctx context.Context, owner Owner, known, target apply.Inventory) error {
	all := apply.Inventory{}
	for ref := range target {
		all[ref] = ""
	}
	for ref, hash := range known {
		all[ref] = hash
	}
	return i.Cluster.SaveInventory(ctx, owner.Namespace, owner.inventoryName(), all)
}

// settle records what was applied, and when all is healthy removes what is no longer asked for.
func (i Installer) settle(ctx context.Context, owner Owner, known, target, applied apply.Inventory, report *Report) error {
	final := apply.Inventory{}
	for ref, hash := range known {
		final[ref] = hash
	}
	for ref := range target {
		if _, ok := final[ref]; !ok {
			final[ref] = ""
		}
	}
	for ref, hash := range applied {
		final[ref] = hash
	}
	if report.Healthy() {
		pruned, err := i.Cluster.Prune(ctx, known.Missing(target), owner.owns)
		report.Changes = append(report.Changes, pruned...)
		if err != nil {
			return err
		}
		for _, ref := range known.Missing(target) {
			delete(final, ref)
		}
	}
	return i.Cluster.SaveInventory(ctx, owner.Namespace, owner.inventoryName(), final)
}

func (i Installer) installComponent(ctx context.Context, c manifest.Component, known apply.Inventory, changes *apply.ChangeSet) Component {
	changed, err := i.Cluster.Apply(ctx, c.Objects, known)
	*changes = append(*changes, changed...)
	if err != nil {
		return Component{v1alpha1.PhaseError, err.Error()}
	}
	unready, err := i.Cluster.Unready(ctx, c.Objects)
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

func namespacesOf(owner Owner, manifests *manifest.Manifests) []string {
	names := []string{owner.Namespace}
	seen := map[string]bool{owner.Namespace: true}
	for _, object := range manifests.Objects() {
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
