package apply

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// An object that another installer made has fields that only that one owns. Were they left so, they would stay for ever
// beside ours: its environment variables in our container. So the first application takes them over, and what we do not
// set goes with it.

// installers are the field managers of those who install meshes, and of the tools that they are installed with.
var installers = []string{
	"istio-operator", "istioctl", "helm", "Helm", "helm-controller", "sail-operator", "kubectl", "kubectl-client-side-apply",
	"kubectl-create", "kubectl-replace", "before-first-apply", "argocd-controller", "argocd-application-controller", "kustomize-controller",
}

// Ours says whether the object was ever applied by us.
func Ours(live Object) bool {
	return slices.ContainsFunc(live.GetManagedFields(), func(entry metav1.ManagedFieldsEntry) bool {
		return entry.Manager == FieldManager && entry.Operation == metav1.ManagedFieldsOperationApply
	})
}

// seize makes the fields that another installer owns ours, if there are any, and returns the object as it is then; in a
// dry run it is as it would be.
func (c Cluster) seize(ctx context.Context, live Object) (Object, bool, error) {
	entries, err := seized(live.GetManagedFields())
	if err != nil || entries == nil {
		return live, false, err
	}
	after := live.DeepCopy()
	after.SetManagedFields(entries)
	if c.DryRun {
		return after, true, nil
	}
	patch, err := json.Marshal([]map[string]any{
		{"op": "replace", "path": "/metadata/managedFields", "value": entries},
		{"op": "replace", "path": "/metadata/resourceVersion", "value": live.GetResourceVersion()},
	})
	if err != nil {
		return nil, false, err
	}
	if err := c.Client.Patch(ctx, after, client.RawPatch("application/json-patch+json", patch), client.FieldOwner(FieldManager)); err != nil {
		return nil, false, fmt.Errorf("take over the fields of its installer: %w", err)
	}
	return after, true, nil
}

// seized puts the installers' entries into one of ours; nil if there is none.
func seized(entries []metav1.ManagedFieldsEntry) ([]metav1.ManagedFieldsEntry, error) {
	taken := fieldpath.NewSet()
	var rest []metav1.ManagedFieldsEntry
	var mine *metav1.ManagedFieldsEntry
	for _, entry := range entries {
		if !slices.Contains(installers, entry.Manager) || entry.Subresource != "" || entry.FieldsV1 == nil {
			rest = append(rest, entry)
			continue
		}
		fields := &fieldpath.Set{}
		if err := fields.FromJSON(bytes.NewReader(entry.FieldsV1.GetRawBytes())); err != nil {
			return nil, fmt.Errorf("read the fields of %s: %w", entry.Manager, err)
		}
		taken = taken.Union(fields)
		one := entry
		mine = &one
	}
	if mine == nil {
		return nil, nil
	}
	text, err := taken.ToJSON()
	if err != nil {
		return nil, err
	}
	mine.Manager, mine.Operation = FieldManager, metav1.ManagedFieldsOperationApply
	mine.FieldsV1 = metav1.NewFieldsV1(string(text))
	return append(rest, *mine), nil
}

// lose takes away from the answer of a dry run what a real application would have taken away: the fields that were
// seized, and that desired does not have. The server is asked again, for its defaults.
func (c Cluster) lose(ctx context.Context, answer, desired, live Object) error {
	gone, err := surplus(desired, live)
	if err != nil || gone.Empty() {
		return err
	}
	gone.Iterate(func(path fieldpath.Path) { removeAt(answer.Object, path) })
	answer.SetResourceVersion(live.GetResourceVersion())
	return c.Client.Update(ctx, answer, client.FieldOwner(FieldManager), client.DryRunAll)
}

// surplus is what only we own of a live object, and desired does not have.
func surplus(desired, live Object) (*fieldpath.Set, error) {
	had, others := fieldpath.NewSet(), fieldpath.NewSet()
	for _, entry := range live.GetManagedFields() {
		fields := &fieldpath.Set{}
		if entry.FieldsV1 == nil {
			continue
		}
		if err := fields.FromJSON(bytes.NewReader(entry.FieldsV1.GetRawBytes())); err != nil {
			return nil, err
		}
		if entry.Manager == FieldManager {
			had = had.Union(fields)
		} else {
			others = others.Union(fields)
		}
	}
	gone := fieldpath.NewSet()
	had.Difference(others).Leaves().Iterate(func(path fieldpath.Path) {
		if _, there := at(desired.Object, path); !there {
			gone.Insert(path.Copy())
		}
	})
	return gone, nil
}

// at finds what a path leads to. A path that ends in a list's element by key leads to that element.
func at(value any, path fieldpath.Path) (any, bool) {
	for _, step := range path {
		switch {
		case step.FieldName != nil:
			m, _ := value.(map[string]any)
			child, ok := m[*step.FieldName]
			if !ok {
				return nil, false
			}
			value = child
		case step.Key != nil || step.Value != nil:
			list, _ := value.([]any)
			index := indexOf(list, step)
			if index < 0 {
				return nil, false
			}
			value = list[index]
		default:
			return nil, false
		}
	}
	return value, true
}

func indexOf(list []any, step fieldpath.PathElement) int {
	return slices.IndexFunc(list, func(element any) bool {
		if step.Value != nil {
			return fmt.Sprint((*step.Value).Unstructured()) == fmt.Sprint(element)
		}
		m, ok := element.(map[string]any)
		if !ok {
			return false
		}
		for _, field := range *step.Key {
			have, there := m[field.Name]
			// A key that is not written has its default, which the answer of the server has.
			if there && fmt.Sprint(have) != fmt.Sprint(field.Value.Unstructured()) {
				return false
			}
		}
		return true
	})
}

// removeAt removes what the path leads to, and the maps that are empty without it.
func removeAt(root map[string]any, path fieldpath.Path) {
	last := path[len(path)-1]
	parent, ok := at(root, path[:len(path)-1])
	if !ok {
		return
	}
	switch p := parent.(type) {
	case map[string]any:
		if last.FieldName == nil {
			return
		}
		delete(p, *last.FieldName)
		if len(p) == 0 && len(path) > 1 {
			removeAt(root, path[:len(path)-1])
		}
	case []any:
		if index := indexOf(p, last); index >= 0 {
			setAt(root, path[:len(path)-1], slices.Delete(slices.Clone(p), index, index+1))
		}
	}
}

func setAt(root map[string]any, path fieldpath.Path, value any) {
	parent, ok := at(root, path[:len(path)-1])
	if m, isMap := parent.(map[string]any); ok && isMap && path[len(path)-1].FieldName != nil {
		m[*path[len(path)-1].FieldName] = value
	}
}
