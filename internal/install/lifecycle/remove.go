package lifecycle

import (
	"context"
	"fmt"
	"slices"
	"sort"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/slipway-mesh/slipway/internal/install/apply"
	"github.com/slipway-mesh/slipway/internal/install/manifest"
)

// removalOrder: webhooks first, as one without a server would block pods; then what serves, then what it stood on.
var removalOrder = map[string]int{
	"ValidatingWebhookConfiguration": 0, "MutatingWebhookConfiguration": 0, "ValidatingAdmissionPolicyBinding": 0, "ValidatingAdmissionPolicy": 0, "HorizontalPodAutoscaler": 1,
	"PodDisruptionBudget": 1, "Deployment": 2, "Service": 3,
}

const removalLast = 4

// Remove takes one step of a removal and says what is still there; an empty text means that all is gone. CRDs and
// namespaces stay: users' objects would go with them. So does the base while there is another owner.
func (i Installer) Remove(ctx context.Context, owner Owner) (remaining string, err error) {
	inventory, err := i.Cluster.LoadInventory(ctx, owner.Namespace, owner.inventoryName())
	if err != nil {
		return "", err
	}
	others, err := i.others(ctx, owner)
	if err != nil {
		return "", err
	}
	goes := func(object apply.Object) bool {
		return owner.owns(object) && (!others || object.GetLabels()[manifest.LabelComponent] != "Base")
	}
	refs := inventory.Missing(nil)
	sort.SliceStable(refs, func(a, b int) bool { return removalRank(refs[a]) < removalRank(refs[b]) })
	if _, err := i.Cluster.Prune(ctx, refs, goes); err != nil {
		return "", err
	}
	ref, exists, err := i.Cluster.Exists(ctx, refs, goes)
	if err != nil {
		return "", err
	}
	if exists {
		return ref.String(), nil
	}
	if err := i.removeMade(ctx, refs); err != nil {
		return "", err
	}
	return "", i.forgetOwner(ctx, owner)
}

// others says whether anybody else has something installed.
func (i Installer) others(ctx context.Context, owner Owner) (bool, error) {
	owners, err := i.Owners(ctx)
	return slices.ContainsFunc(owners, func(o Owner) bool { return o != owner }), err
}

// forgetOwner removes the owner's history and then its inventory.
func (i Installer) forgetOwner(ctx context.Context, owner Owner) error {
	configMap := &corev1.ConfigMap{}
	err := i.Cluster.Client.Get(ctx, client.ObjectKey{Namespace: owner.Namespace, Name: owner.inventoryName()}, configMap)
	if err != nil {
		return client.IgnoreNotFound(err)
	}
	err = i.Cluster.Client.DeleteAllOf(ctx, &corev1.ConfigMap{}, client.InNamespace(owner.Namespace), client.MatchingLabels{historyLabel: owner.Name})
	if err != nil {
		return fmt.Errorf("forget history: %w", err)
	}
	return client.IgnoreNotFound(i.Cluster.Client.Delete(ctx, configMap))
}

func removalRank(ref apply.Ref) int {
	if rank, ok := removalOrder[ref.Kind]; ok {
		return rank
	}
	return removalLast
}

// removeMade removes what the control planes of the removed namespaces made by themselves: the root certificate's
// ConfigMaps, the leader's Lease and the authority's Secret. It leaves them while another control plane is there.
func (i Installer) removeMade(ctx context.Context, refs []apply.Ref) error {
	var namespace string
	for _, ref := range refs {
		if _, ok := controlPlane(ref); ok {
			namespace = ref.Namespace
		}
	}
	if namespace == "" {
		return nil
	}
	others := &metav1.PartialObjectMetadataList{}
	others.SetGroupVersionKind(schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "DeploymentList"})
	if err := i.Cluster.Client.List(ctx, others, client.MatchingLabels{"app": "istiod"}); err != nil {
		return fmt.Errorf("list control planes: %w", err)
	}
	if len(others.Items) > 0 {
		return nil
	}
	roots := &metav1.PartialObjectMetadataList{}
	roots.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("ConfigMapList"))
	if err := i.Cluster.Client.List(ctx, roots, client.MatchingLabels{"istio.io/config": "true"}); err != nil && !meta.IsNoMatchError(err) {
		return fmt.Errorf("list root certificates: %w", err)
	}
	for k := range roots.Items {
		if roots.Items[k].Name != "istio-ca-root-cert" {
			continue
		}
		if err := client.IgnoreNotFound(i.Cluster.Client.Delete(ctx, &roots.Items[k])); err != nil {
			return err
		}
	}
	leases := &coordinationv1.Lease{}
	if err := i.Cluster.Client.DeleteAllOf(ctx, leases, client.InNamespace(namespace), client.MatchingLabels{"app": "istiod"}); err != nil {
		return fmt.Errorf("delete leases: %w", err)
	}
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "istio-ca-secret"}}
	return client.IgnoreNotFound(i.Cluster.Client.Delete(ctx, secret))
}
