// Package apply makes a cluster hold a set of objects. Objects enter, a ChangeSet leaves. It knows objects only, and
// must not know what an IstioOperator is.
package apply

import (
	"context"
	"errors"
	"fmt"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// FieldManager is who owns the fields that this package applies.
const FieldManager = "slipway"

// Object is one Kubernetes object.
type Object = *unstructured.Unstructured

// Cluster is where objects are applied. The client must not read from a cache: what it answers decides what is written.
type Cluster struct {
	Client client.Client
	// DryRun asks the server what each step would do, and stores nothing.
	DryRun bool
	Policy Policy
	// Hashes remembers those of rendered objects between calls; nil computes them each time. It is not safe for two calls
	// at once.
	Hashes map[Object]string

	seen map[Ref]Object // by Look
}

// Apply applies the objects in order by server-side apply and says what happened to each. Objects that are as they
// should be are not written: known maps those that were applied before to what was recorded of them. An object that
// cannot be applied does not stop the others; the error joins them all.
func (c Cluster) Apply(ctx context.Context, objects []Object, known Inventory) (ChangeSet, error) {
	var changes ChangeSet
	var all []error
	for _, object := range objects {
		change, err := c.applyOne(ctx, object, known[RefOf(object)])
		if err != nil {
			all = append(all, fmt.Errorf("apply %s: %w", change.Ref, err))
			continue
		}
		changes = append(changes, change)
	}
	return changes, errors.Join(all...)
}

// task is one object on its way.
type task struct {
	// desired is what is sent; the server's answer takes its place. live is what is there, nil for nothing.
	desired, live Object
	// shape has the fields that are ours to say; what desired has beside them is taken from live.
	shape Object
	hash  string // of the object as it was rendered
	// asBefore says that the same was applied before: what is different is somebody else's doing.
	asBefore bool
	// seized says that another installer's fields are ours since just now.
	seized bool
	change Change
}

// applyOne decides what becomes of one object, and does it. recorded is the Change.Record of its last application.
func (c Cluster) applyOne(ctx context.Context, object Object, recorded string) (Change, error) {
	t := task{hash: c.hash(object), change: Change{Ref: RefOf(object), Record: recorded}}
	t.asBefore = strings.HasPrefix(recorded, t.hash+recordMark)
	if t.change.Ref.Kind == crd && t.asBefore {
		if same, err := c.sameCRD(ctx, t, object); same || err != nil {
			t.change.Action = Unchanged
			return t.change, err
		}
	}
	t.desired = object.DeepCopy()
	var err error
	if t.live = c.seen[t.change.Ref]; t.live == nil || t.change.Ref.Kind == crd {
		t.live, err = c.live(ctx, t.change.Ref)
	}
	if err != nil {
		return t.change, err
	}
	if t.live == nil {
		return c.create(ctx, t)
	}
	owner, shared := c.Policy.foreign(t.live)
	switch {
	case owner != "" && !shared:
		return t.change, fmt.Errorf("it belongs to %s: give it up there, or leave it out here", owner)
	case owner != "":
		t.change.Action, t.change.Reason = Kept, "it belongs to "+owner
		return t.change, nil
	case keepLive(t.desired, t.live):
		t.change.Action, t.change.Reason = Kept, "it is newer"
		return t.change, nil
	}
	if err := c.migrate(ctx, t.desired, t.live); err != nil {
		return t.change, err
	}
	if !Ours(t.live) {
		if t.live, t.seized, err = c.seize(ctx, t.live); err != nil {
			return t.change, err
		}
	}
	handOver(t.desired, t.live)
	t.shape = t.desired.DeepCopy()
	c.Policy.leave(t.shape, nil)
	handOverReplicas(t.desired, t.live)
	c.Policy.leave(t.desired, t.live)
	if t.asBefore && recorded == record(t.hash, t.live, t.shape) {
		t.change.Action = Unchanged
		return t.change, nil
	}
	return c.update(ctx, t)
}

// hash is the object's, computed once where the caller keeps the hashes.
func (c Cluster) hash(object Object) string {
	if known, ok := c.Hashes[object]; ok {
		return known
	}
	made := Hash(object)
	if c.Hashes != nil {
		c.Hashes[object] = made
	}
	return made
}

// sameCRD says whether a CRD is what was recorded of it; only its metadata is read.
func (c Cluster) sameCRD(ctx context.Context, t task, object Object) (bool, error) {
	live, err := c.metadata(ctx, t.change.Ref)
	if live == nil || err != nil {
		return false, err
	}
	metadata, _ := object.Object["metadata"].(map[string]any)
	shape := (&unstructured.Unstructured{Object: map[string]any{"kind": crd, "metadata": metadata}}).DeepCopy()
	c.Policy.leave(shape, nil)
	return t.change.Record == record(t.hash, live, shape), nil
}

func (c Cluster) create(ctx context.Context, t task) (Change, error) {
	t.change.Action = Created
	if t.asBefore { // somebody deleted it
		if t.change.Action = c.Policy.onDrift(t.change.Ref); t.change.Action != Corrected {
			return t.change, nil
		}
	}
	prepareCreate(t.desired)
	t.shape = t.desired.DeepCopy()
	c.Policy.leave(t.shape, nil)
	err := c.send(ctx, &t)
	if c.DryRun && apierrors.IsNotFound(err) {
		return t.change, nil // its namespace is to be made as well
	}
	return t.change, err
}

func (c Cluster) update(ctx context.Context, t task) (Change, error) {
	action := Configured
	if t.asBefore {
		action = c.Policy.onDrift(t.change.Ref)
		c.DryRun = c.DryRun || action == Drifted
	}
	if action == Unchanged {
		t.change.Action = Unchanged
		return t.change, nil
	}
	if err := c.send(ctx, &t); err != nil {
		return t.change, err
	}
	t.change.Action = Unchanged
	if t.change.Fields = differences(t.live.Object, t.desired.Object); len(t.change.Fields) > 0 {
		t.change.Action = action
	}
	if t.change.Action == Corrected || t.change.Action == Drifted {
		t.change.Manager = lastManager(t.live)
	}
	return t.change, nil
}

// send applies the desired object, which becomes what the server answers, and records it.
func (c Cluster) send(ctx context.Context, t *task) error {
	options := []client.ApplyOption{client.FieldOwner(FieldManager), client.ForceOwnership}
	if c.DryRun {
		options = append(options, client.DryRunAll)
	}
	var sent Object // the answer takes desired's place
	if c.DryRun && t.seized {
		sent = t.desired.DeepCopy()
	}
	if err := c.Client.Apply(ctx, client.ApplyConfigurationFromUnstructured(t.desired), options...); err != nil {
		return err
	}
	if !c.DryRun {
		t.change.Record = record(t.hash, t.desired, t.shape)
		return nil
	}
	if sent != nil {
		return c.lose(ctx, t.desired, sent, t.live)
	}
	return nil
}

// live reads an object; nil if it, or its kind, is not there.
func (c Cluster) live(ctx context.Context, ref Ref) (Object, error) {
	object := &unstructured.Unstructured{}
	object.SetGroupVersionKind(ref.gvk())
	err := c.Client.Get(ctx, client.ObjectKey{Namespace: ref.Namespace, Name: ref.Name}, object)
	if apierrors.IsNotFound(err) || meta.IsNoMatchError(err) {
		return nil, nil
	}
	return object, err
}

// metadata is an object's metadata, as Look has seen it or else as it is now; nil if it is not there.
func (c Cluster) metadata(ctx context.Context, ref Ref) (Object, error) {
	if seen := c.seen[ref]; seen != nil {
		return seen, nil
	}
	partial := &metav1.PartialObjectMetadata{}
	partial.SetGroupVersionKind(ref.gvk())
	err := c.Client.Get(ctx, client.ObjectKey{Namespace: ref.Namespace, Name: ref.Name}, partial)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return metadataOnly(partial, ref)
}
