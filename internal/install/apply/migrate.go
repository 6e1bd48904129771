package apply

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// The API server refuses a CRD that lacks a version in which objects may be stored. Writing each object as it is stores it
// in the present storage version; then the older ones can be struck from the list.

// migratePage is how many objects are read at a time.
const migratePage = 250

// migrate brings the objects of a CRD to its storage version where the desired one drops a version in which some may be
// stored.
func (c Cluster) migrate(ctx context.Context, desired, live Object) error {
	if desired.GetKind() != crd || c.DryRun {
		return nil
	}
	stored, _, _ := unstructured.NestedStringSlice(live.Object, "status", "storedVersions")
	keeps := crdVersions(desired)
	if !slices.ContainsFunc(stored, func(name string) bool { return !keeps[name] }) {
		return nil
	}
	storage := storageVersion(live)
	if !keeps[storage] {
		return c.widen(ctx, desired, live)
	}
	group, _, _ := unstructured.NestedString(live.Object, "spec", "group")
	kind, _, _ := unstructured.NestedString(live.Object, "spec", "names", "kind")
	if err := c.rewrite(ctx, schema.GroupVersionKind{Group: group, Version: storage, Kind: kind}); err != nil {
		return fmt.Errorf("bring its objects to version %s: %w", storage, err)
	}
	patch, err := json.Marshal(map[string]any{"status": map[string]any{"storedVersions": []string{storage}}})
	if err != nil {
		return err
	}
	if err := c.Client.Status().Patch(ctx, live, client.RawPatch("application/merge-patch+json", patch), client.FieldOwner(FieldManager)); err != nil {
		return fmt.Errorf("strike the stored versions: %w", err)
	}
	return nil
}

// widen applies the desired CRD with the live one's versions beside its own, so that both can be read while objects go from
// one to the other. The API server takes a moment to store the new one: the next step goes on.
func (c Cluster) widen(ctx context.Context, desired, live Object) error {
	wide := desired.DeepCopy()
	versions, _, _ := unstructured.NestedSlice(wide.Object, "spec", "versions")
	ours := crdVersions(desired)
	old, _, _ := unstructured.NestedSlice(live.Object, "spec", "versions")
	for _, v := range old {
		if m, ok := v.(map[string]any); ok && !ours[fmt.Sprint(m["name"])] {
			m["storage"] = false
			versions = append(versions, m)
		}
	}
	if err := unstructured.SetNestedSlice(wide.Object, versions, "spec", "versions"); err != nil {
		return err
	}
	if err := c.Client.Apply(ctx, client.ApplyConfigurationFromUnstructured(wide), client.FieldOwner(FieldManager), client.ForceOwnership); err != nil {
		return err
	}
	return fmt.Errorf("its objects go from version %s to %s: the next step brings them", storageVersion(live), storageVersion(desired))
}

func storageVersion(definition Object) string {
	list, _, _ := unstructured.NestedSlice(definition.Object, "spec", "versions")
	for _, v := range list {
		if m, ok := v.(map[string]any); ok && m["storage"] == true {
			name, _ := m["name"].(string)
			return name
		}
	}
	return ""
}

// rewrite writes every object of a kind as it is. One that changed or went meanwhile is in the new version already.
func (c Cluster) rewrite(ctx context.Context, kind schema.GroupVersionKind) error {
	list := &unstructured.UnstructuredList{}
	for {
		list.SetGroupVersionKind(kind.GroupVersion().WithKind(kind.Kind + "List"))
		if err := c.Client.List(ctx, list, client.Limit(migratePage), client.Continue(list.GetContinue())); err != nil {
			return err
		}
		for i := range list.Items {
			err := c.Client.Update(ctx, &list.Items[i], client.FieldOwner(FieldManager))
			if err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
				return fmt.Errorf("%s/%s: %w", list.Items[i].GetNamespace(), list.Items[i].GetName(), err)
			}
		}
		if list.GetContinue() == "" {
			return nil
		}
	}
}
