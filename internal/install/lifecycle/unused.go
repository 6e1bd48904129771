package lifecycle

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/slipway-mesh/slipway/internal/install/manifest"
)

// InUse says what uses the target's control plane: sidecars, namespaces that ask for its revision, tags that stand for it,
// and gateways that the target itself has. Nothing does if it is empty.
func (i Installer) InUse(ctx context.Context, target *Target) ([]string, error) {
	var by []string
	for _, component := range target.Components {
		if len(manifest.After(component.Name)) > 0 && component.Name != "Pilot" {
			by = append(by, "its gateway "+component.Instance)
		}
	}
	pods, err := i.Attached(ctx, target.Owner)
	if err != nil {
		return nil, err
	}
	if len(pods) > 0 {
		by = append(by, fmt.Sprintf("%d pods with sidecars", len(pods)))
	}
	revision := target.Revision
	if revision == "" {
		revision = defaultTag
	}
	namespaces := &corev1.NamespaceList{}
	if err := i.Cluster.Client.List(ctx, namespaces); err != nil {
		return nil, fmt.Errorf("list namespaces: %w", err)
	}
	for k := range namespaces.Items {
		if AsksFor(namespaces.Items[k].Labels) == revision {
			by = append(by, "namespace "+namespaces.Items[k].Name)
		}
	}
	tags, err := i.Tags(ctx)
	if err != nil {
		return nil, err
	}
	for _, tag := range tags {
		if tag.Revision == revision && tag.Name != revision {
			by = append(by, "tag "+tag.Name)
		}
	}
	return by, nil
}
