package lifecycle

import (
	"context"
	"encoding/base64"
	"fmt"
	"sort"

	admission "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/slipway-mesh/slipway/internal/install/apply"
	"github.com/slipway-mesh/slipway/internal/install/manifest"
)

// Tag is a name that namespaces ask for, and the revision that serves it.
type Tag struct {
	Name     string `json:"tag"`
	Revision string `json:"revision"`
	// Namespaces ask for it.
	Namespaces []string `json:"namespaces"`
	object     string
}

const defaultTag = "default"

// Tags lists the tags, sorted by name.
func (i Installer) Tags(ctx context.Context) ([]Tag, error) {
	list := &admission.MutatingWebhookConfigurationList{}
	if err := i.Cluster.Client.List(ctx, list, client.HasLabels{manifest.LabelTag}); err != nil {
		return nil, fmt.Errorf("list tags: %w", err)
	}
	namespaces := &corev1.NamespaceList{}
	if err := i.Cluster.Client.List(ctx, namespaces); err != nil {
		return nil, fmt.Errorf("list namespaces: %w", err)
	}
	tags := make([]Tag, 0, len(list.Items))
	for k := range list.Items {
		labels := list.Items[k].Labels
		tag := Tag{Name: labels[manifest.LabelTag], Revision: labels[manifest.LabelRevision], Namespaces: []string{}, object: list.Items[k].Name}
		for n := range namespaces.Items {
			if AsksFor(namespaces.Items[n].Labels) == tag.Name {
				tag.Namespaces = append(tag.Namespaces, namespaces.Items[n].Name)
			}
		}
		tags = append(tags, tag)
	}
	sort.Slice(tags, func(a, b int) bool { return tags[a].Name < tags[b].Name })
	return tags, nil
}

// AsksFor is the revision or tag that a namespace's labels ask injection from: istio-injection=enabled asks for the
// default one, and goes before istio.io/rev. Empty is none.
func AsksFor(labels map[string]string) string {
	switch labels["istio-injection"] {
	case "enabled":
		return defaultTag
	case "":
		return labels[manifest.LabelRevision]
	}
	return ""
}

// SetTag makes a tag stand for a revision, whose control plane must be there. A tag that stands for another one is
// moved only with overwrite.
func (i Installer) SetTag(ctx context.Context, o manifest.TagOptions, overwrite bool) error {
	object, err := manifest.RenderTag(o)
	if err != nil {
		return err
	}
	if err := i.tagPossible(ctx, o, overwrite); err != nil {
		return err
	}
	if err := i.trusted(ctx, o, object); err != nil {
		return err
	}
	err = i.Cluster.Client.Apply(ctx, client.ApplyConfigurationFromUnstructured(object), client.FieldOwner(apply.FieldManager), client.ForceOwnership)
	if err != nil {
		return fmt.Errorf("set tag %s: %w", o.Tag, err)
	}
	if o.Tag == defaultTag {
		return i.deactivateDefault(ctx, true)
	}
	return nil
}

// trusted gives the tag's webhooks the bundle that the revision's own have. Without one nobody would answer for a while,
// and pods that start then would have no sidecar.
func (i Installer) trusted(ctx context.Context, o manifest.TagOptions, object apply.Object) error {
	list := &admission.MutatingWebhookConfigurationList{}
	err := i.Cluster.Client.List(ctx, list, client.MatchingLabels{"app": "sidecar-injector", manifest.LabelRevision: o.Revision})
	if err != nil {
		return fmt.Errorf("list injectors: %w", err)
	}
	for k := range list.Items {
		config := &list.Items[k]
		if config.Labels[manifest.LabelTag] != "" || len(config.Webhooks) == 0 || len(config.Webhooks[0].ClientConfig.CABundle) == 0 {
			continue
		}
		bundle := base64.StdEncoding.EncodeToString(config.Webhooks[0].ClientConfig.CABundle)
		webhooks, _, _ := unstructured.NestedSlice(object.Object, "webhooks")
		for _, webhook := range webhooks {
			if err := unstructured.SetNestedField(webhook.(map[string]any), bundle, "clientConfig", "caBundle"); err != nil {
				return err
			}
		}
		return unstructured.SetNestedSlice(object.Object, webhooks, "webhooks")
	}
	return fmt.Errorf("the injector of revision %s does not answer yet: try again when its control plane is ready", o.Revision)
}

func (i Installer) tagPossible(ctx context.Context, o manifest.TagOptions, overwrite bool) error {
	planes := &metav1.PartialObjectMetadataList{}
	planes.SetGroupVersionKind(schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "DeploymentList"})
	err := i.Cluster.Client.List(ctx, planes, client.MatchingLabels{"app": "istiod", manifest.LabelRevision: o.Revision})
	if err != nil {
		return fmt.Errorf("list control planes: %w", err)
	}
	if len(planes.Items) == 0 {
		return fmt.Errorf("no control plane of revision %s is there: install it first", o.Revision)
	}
	tags, err := i.Tags(ctx)
	if err != nil {
		return err
	}
	for _, tag := range tags {
		if tag.Name == o.Tag && tag.Revision != o.Revision && !overwrite {
			return fmt.Errorf("tag %s stands for revision %s already: --overwrite moves it", tag.Name, tag.Revision)
		}
	}
	return nil
}

// RemoveTag removes a tag. The default one's removal lets the control plane without a revision inject again.
func (i Installer) RemoveTag(ctx context.Context, name string) error {
	tags, err := i.Tags(ctx)
	if err != nil {
		return err
	}
	for _, tag := range tags {
		if tag.Name != name {
			continue
		}
		config := &admission.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: tag.object}}
		if err := client.IgnoreNotFound(i.Cluster.Client.Delete(ctx, config)); err != nil {
			return fmt.Errorf("remove tag %s: %w", name, err)
		}
		if name == defaultTag {
			return i.deactivateDefault(ctx, false)
		}
		return nil
	}
	return fmt.Errorf("there is no tag %s", name)
}

// deactivateDefault takes the injector of the control plane without a revision out of use while the default tag is
// another's, and back: two injectors must not answer for one pod. The label is Istio's.
func (i Installer) deactivateDefault(ctx context.Context, off bool) error {
	config := &admission.MutatingWebhookConfiguration{}
	err := i.Cluster.Client.Get(ctx, client.ObjectKey{Name: "istio-sidecar-injector"}, config)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the default injector: %w", err)
	}
	before := config.DeepCopy()
	for k := range config.Webhooks {
		selector := config.Webhooks[k].NamespaceSelector
		if selector == nil {
			continue
		}
		if off {
			selector.MatchLabels = map[string]string{apply.Deactivated: "never-match"}
		} else {
			selector.MatchLabels = nil
		}
	}
	return i.Cluster.Client.Patch(ctx, config, client.MergeFrom(before), client.FieldOwner(tagManager))
}

// tagManager owns what a tag changes of another configuration, beside what is applied.
const tagManager = "slipway-tag"
