package apply

import (
	"context"
	"errors"
	"fmt"

	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Prune deletes the objects for which ours says yes; CRDs and Namespaces are never deleted, since users' objects would
// go with them. Those that are gone already are not in the ChangeSet. It does not stop at an error.
func (c Cluster) Prune(ctx context.Context, refs []Ref, ours func(Object) bool) (ChangeSet, error) {
	var changes ChangeSet
	var all []error
	for _, ref := range refs {
		if ref.Kind == crd || ref.Kind == "Namespace" {
			continue
		}
		gone, err := c.pruneOne(ctx, ref, ours)
		switch {
		case err != nil:
			all = append(all, fmt.Errorf("delete %s: %w", ref, err))
		case gone:
			changes = append(changes, Change{Ref: ref, Action: Pruned})
		}
	}
	return changes, errors.Join(all...)
}

func (c Cluster) pruneOne(ctx context.Context, ref Ref, ours func(Object) bool) (bool, error) {
	live, err := c.live(ctx, ref)
	if err != nil || live == nil || !ours(live) {
		return false, err
	}
	// Background: the workload's pods must go too, and a foreground deletion would wait for them here. The UID keeps us
	// from deleting an object that somebody made anew in between.
	uid := live.GetUID()
	options := []client.DeleteOption{client.PropagationPolicy("Background"), client.Preconditions{UID: &uid}}
	if c.DryRun {
		options = append(options, client.DryRunAll)
	}
	return true, client.IgnoreNotFound(c.Client.Delete(ctx, live, options...))
}

// Exists says whether any of the objects is still there, for which ours says yes.
func (c Cluster) Exists(ctx context.Context, refs []Ref, ours func(Object) bool) (Ref, bool, error) {
	for _, ref := range refs {
		if ref.Kind == crd || ref.Kind == "Namespace" {
			continue
		}
		live, err := c.live(ctx, ref)
		if err != nil {
			return ref, false, err
		}
		if live != nil && ours(live) {
			return ref, true, nil
		}
	}
	return Ref{}, false, nil
}
