package apply

import (
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Look reads what the cluster has of the kinds of the objects, as far as it carries the labels, with one question a kind,
// and returns a Cluster that need not ask for each object again. Of CRDs it reads the metadata only.
func (c Cluster) Look(ctx context.Context, objects []Object, labels map[string]string) (Cluster, error) {
	c.seen = map[Ref]Object{}
	asked := map[Ref]bool{}
	for _, object := range objects {
		kind := RefOf(object)
		kind.Namespace, kind.Name = "", ""
		if asked[kind] {
			continue
		}
		asked[kind] = true
		found, err := c.list(ctx, kind, labels)
		if err != nil {
			return c, fmt.Errorf("list %s: %w", kind.Kind, err)
		}
		for _, one := range found {
			c.seen[RefOf(one)] = one
		}
	}
	return c, nil
}

func (c Cluster) list(ctx context.Context, kind Ref, labels map[string]string) ([]Object, error) {
	gvk := kind.gvk()
	gvk.Kind += "List"
	if kind.Kind != crd {
		list := &unstructured.UnstructuredList{}
		list.SetGroupVersionKind(gvk)
		err := c.Client.List(ctx, list, client.MatchingLabels(labels))
		found := make([]Object, 0, len(list.Items))
		for i := range list.Items {
			found = append(found, &list.Items[i])
		}
		return found, client.IgnoreNotFound(err)
	}
	list := &metav1.PartialObjectMetadataList{}
	list.SetGroupVersionKind(gvk)
	if err := c.Client.List(ctx, list, client.MatchingLabels(labels)); err != nil {
		return nil, err
	}
	found := make([]Object, 0, len(list.Items))
	for i := range list.Items {
		one, err := metadataOnly(&list.Items[i], kind)
		if err != nil {
			return nil, err
		}
		found = append(found, one)
	}
	return found, nil
}

func metadataOnly(partial *metav1.PartialObjectMetadata, kind Ref) (Object, error) {
	partial.SetGroupVersionKind(kind.gvk())
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(partial)
	return &unstructured.Unstructured{Object: content}, err
}
