// Package apply makes a cluster hold a set of objects. Objects enter, a ChangeSet leaves. It knows objects only, and
// must not know what an IstioOperator is.
package apply

import (
	"context"
	"errors"
	"fmt"
	"reflect"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
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
}

// Apply applies the objects in order by server-side apply and says what happened to each. Objects that are as they
// should be are not written: known maps those that were applied before to the hash of what was applied. An object that
// cannot be applied does not stop the others; the error joins them all.
func (c Cluster) Apply(ctx context.Context, objects []Object, known Inventory) (ChangeSet, error) {
	var changes ChangeSet
	var all []error
	for _, object := range objects {
		action, err := c.applyOne(ctx, object, known)
		if err != nil {
			all = append(all, fmt.Errorf("apply %s: %w", RefOf(object), err))
			continue
		}
		changes = append(changes, Change{Ref: RefOf(object), Action: action})
	}
	return changes, errors.Join(all...)
}

func (c Cluster) applyOne(ctx context.Context, object Object, known Inventory) (Action, error) {
	live := &unstructured.Unstructured{}
	live.SetGroupVersionKind(object.GroupVersionKind())
	err := c.Client.Get(ctx, client.ObjectKeyFromObject(object), live)
	exists := err == nil
	if err != nil && !apierrors.IsNotFound(err) {
		return "", err
	}
	desired := object.DeepCopy()
	if exists {
		if keep, action := keepLive(desired, live); keep {
			return action, nil
		}
		handOver(desired, live)
		if known[RefOf(object)] == Hash(object) && covers(live.Object, desired.Object) {
			return Unchanged, nil
		}
	} else {
		prepareCreate(desired)
	}
	err = c.Client.Apply(ctx, client.ApplyConfigurationFromUnstructured(desired), client.FieldOwner(FieldManager), client.ForceOwnership)
	switch {
	case err != nil:
		return "", err
	case !exists:
		return Created, nil
	case desired.GetResourceVersion() == live.GetResourceVersion():
		return Unchanged, nil
	}
	return Configured, nil
}

// covers says whether live has every value that desired has. Lists must be of one length and order. It may say no
// where the server would see no change (a quantity written another way); then the apply itself changes nothing.
func covers(live, desired any) bool {
	switch d := desired.(type) {
	case map[string]any:
		l, ok := live.(map[string]any)
		if !ok {
			return len(d) == 0 && live == nil
		}
		for name, value := range d {
			if !covers(l[name], value) {
				return false
			}
		}
		return true
	case []any:
		l, ok := live.([]any)
		if !ok || len(l) != len(d) {
			return len(d) == 0 && live == nil
		}
		for i := range d {
			if !covers(l[i], d[i]) {
				return false
			}
		}
		return true
	case float64:
		if n, ok := live.(int64); ok {
			return float64(n) == d
		}
	case int64:
		if f, ok := live.(float64); ok {
			return f == float64(d)
		}
	}
	return reflect.DeepEqual(live, desired)
}
