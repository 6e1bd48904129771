package enroll

import (
	"context"
	"log/slog"
	"time"

	networking "istio.io/client-go/pkg/apis/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Sweep removes the entries of proxies that have been gone for longer than the grace, for ever: one replica does it for all. entries are
// those that are kept for groups; alive says whether a replica is there.
func (r *Registrar) Sweep(ctx context.Context, entries func() []*networking.WorkloadEntry, alive func(instance string) bool) {
	period := max(r.grace/4, 250*time.Millisecond)
	orphaned := map[types.NamespacedName]time.Time{} // since when nobody has been known to be connected
	for {
		seen := map[types.NamespacedName]bool{}
		for _, entry := range entries() {
			name := types.NamespacedName{Namespace: entry.Namespace, Name: entry.Name}
			since, gone := time.Parse(time.RFC3339Nano, entry.Annotations[DisconnectedAnnotation])
			if gone != nil && r.served(name, entry, alive) {
				continue
			}
			seen[name] = true
			if _, noted := orphaned[name]; !noted {
				orphaned[name] = time.Now()
			}
			if gone != nil {
				since = orphaned[name]
			}
			if time.Since(since) > r.grace {
				r.remove(ctx, name, entry.ResourceVersion)
			}
		}
		for name := range orphaned {
			if !seen[name] {
				delete(orphaned, name)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(period):
		}
	}
}

// served says whether the proxy of an entry is connected somewhere, as far as is known. Its own entries every replica knows, those of a
// process before it under its name excepted.
func (r *Registrar) served(name types.NamespacedName, entry *networking.WorkloadEntry, alive func(instance string) bool) bool {
	controller := entry.Annotations[ControllerAnnotation]
	if controller != r.instance {
		return alive(controller)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	m := r.members[name]
	return m != nil && m.streams > 0
}

// remove deletes an entry in the form in which it was seen: a proxy that just came back has changed it.
func (r *Registrar) remove(ctx context.Context, name types.NamespacedName, version string) {
	err := r.client.NetworkingV1().WorkloadEntries(name.Namespace).Delete(ctx, name.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &version}})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) && ctx.Err() == nil {
		slog.Warn("WorkloadEntry: cannot be removed", "entry", name.String(), "error", err)
	}
}
