// Package adopt finds the meshes that other installers made in a cluster, and turns them into what an IstioOperator says.
// Live objects enter; a spec, what it cannot say, and the objects as they are to be kept leave. It must not change anything.
package adopt

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/slipway-mesh/slipway/internal/install/apply"
	"github.com/slipway-mesh/slipway/internal/install/manifest"
)

// The installers.
const (
	ByHelm      = "Helm"
	ByIstioctl  = "istioctl"
	ByOperator  = "an in-cluster operator"
	ByManifests = "manifests"
)

// Mesh is a control plane that another installer made, with what belongs to it.
type Mesh struct {
	Installer string
	// Namespace is the control plane's. Revision is "" for the one without a name. Version is as the objects say, or "".
	Namespace, Revision, Version string
	// Releases are Helm's, each as NAMESPACE/NAME.
	Releases []string
	// Resource is the IstioOperator that the mesh was made of, with what was written in it; nil if there is none.
	Resource *unstructured.Unstructured
	// Objects are those of the mesh, as they are in the cluster, without CRDs.
	Objects []apply.Object

	releases []release
}

// Name is what a person calls the mesh, such as default or canary.
func (m *Mesh) Name() string { return cmp.Or(m.Revision, "default") }

// kinds are those of the objects that installers make.
var kinds = []schema.GroupVersionKind{
	{Version: "v1", Kind: "ServiceAccount"},
	{Version: "v1", Kind: "Service"},
	{Version: "v1", Kind: "ConfigMap"},
	{Group: "apps", Version: "v1", Kind: "Deployment"},
	{Group: "apps", Version: "v1", Kind: "DaemonSet"},
	{Group: "autoscaling", Version: "v2", Kind: "HorizontalPodAutoscaler"},
	{Group: "policy", Version: "v1", Kind: "PodDisruptionBudget"},
	{Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "Role"},
	{Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "RoleBinding"},
	{Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "ClusterRole"},
	{Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "ClusterRoleBinding"},
	{Group: "admissionregistration.k8s.io", Version: "v1", Kind: "MutatingWebhookConfiguration"},
	{Group: "admissionregistration.k8s.io", Version: "v1", Kind: "ValidatingWebhookConfiguration"},
}

// Find lists the meshes of other installers, by namespace and revision.
func Find(ctx context.Context, kube client.Reader) ([]*Mesh, error) {
	objects, err := labelled(ctx, kube)
	if err != nil {
		return nil, err
	}
	releases, err := releasesOf(ctx, kube)
	if err != nil {
		return nil, err
	}
	for _, one := range releases {
		of, err := one.objects(ctx, kube)
		if err != nil {
			return nil, err
		}
		for _, object := range of {
			objects[apply.RefOf(object)] = object
		}
	}
	var meshes []*Mesh
	for _, object := range objects {
		if object.GetKind() == "Deployment" && object.GetLabels()["app"] == "istiod" {
			meshes = append(meshes, meshOf(object))
		}
	}
	slices.SortFunc(meshes, func(a, b *Mesh) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Revision, b.Revision))
	})
	share(meshes, objects, releases)
	for _, mesh := range meshes {
		if err := mesh.origin(ctx, kube); err != nil {
			return nil, err
		}
	}
	return meshes, nil
}

func meshOf(istiod apply.Object) *Mesh {
	labels := istiod.GetLabels()
	mesh := &Mesh{Namespace: istiod.GetNamespace(), Revision: labels[manifest.LabelRevision]}
	if mesh.Revision == "default" {
		mesh.Revision = ""
	}
	mesh.Version = cmp.Or(labels[manifest.LabelVersion], labels["app.kubernetes.io/version"], imageTag(istiod))
	return mesh
}

// labelled reads the objects that carry the label of Istio's components. What we applied is ours already.
func labelled(ctx context.Context, kube client.Reader) (map[apply.Ref]apply.Object, error) {
	found := map[apply.Ref]apply.Object{}
	for _, kind := range kinds {
		list := &unstructured.UnstructuredList{}
		list.SetGroupVersionKind(kind.GroupVersion().WithKind(kind.Kind + "List"))
		if err := kube.List(ctx, list, client.HasLabels{manifest.LabelComponent}); err != nil {
			return nil, fmt.Errorf("list %s: %w", kind.Kind, err)
		}
		for i := range list.Items {
			if object := &list.Items[i]; !apply.Ours(object) {
				found[apply.RefOf(object)] = object
			}
		}
	}
	return found, nil
}

// share gives every object to the mesh of its revision. What says no revision, or one that has no control plane, is the
// first mesh's: so are the roles and gateways of all.
func share(meshes []*Mesh, objects map[apply.Ref]apply.Object, releases []release) {
	if len(meshes) == 0 {
		return
	}
	of := func(revision string) *Mesh {
		if revision == "default" {
			revision = ""
		}
		for _, mesh := range meshes {
			if mesh.Revision == revision {
				return mesh
			}
		}
		return meshes[0]
	}
	for _, object := range objects {
		mesh := of(object.GetLabels()[manifest.LabelRevision])
		mesh.Objects = append(mesh.Objects, object)
	}
	for _, one := range releases {
		mesh := of(one.revision())
		mesh.releases = append(mesh.releases, one)
		mesh.Releases = append(mesh.Releases, one.Namespace+"/"+one.Name)
	}
	for _, mesh := range meshes {
		slices.SortFunc(mesh.Objects, func(a, b apply.Object) int {
			return strings.Compare(apply.RefOf(a).String(), apply.RefOf(b).String())
		})
	}
}

// origin finds out who made the mesh, and what that was told.
func (m *Mesh) origin(ctx context.Context, kube client.Reader) error {
	m.Installer = ByManifests
	if len(m.releases) > 0 {
		m.Installer = ByHelm
		return nil
	}
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(schema.GroupVersionKind{Group: "install.istio.io", Version: "v1alpha1", Kind: "IstioOperatorList"})
	if err := kube.List(ctx, list, client.InNamespace(m.Namespace)); err != nil {
		if meta.IsNoMatchError(err) {
			return nil
		}
		return client.IgnoreNotFound(err)
	}
	for i := range list.Items {
		resource := &list.Items[i]
		revision, _, _ := unstructured.NestedString(resource.Object, "spec", "revision")
		if revision == "default" {
			revision = ""
		}
		if revision != m.Revision {
			continue
		}
		m.Resource, m.Installer = resource, ByOperator
		if strings.HasPrefix(resource.GetName(), "installed-state") {
			m.Installer = ByIstioctl
			return nil
		}
	}
	return nil
}

// imageTag is the tag of the first container's image.
func imageTag(deployment apply.Object) string {
	containers, _, _ := unstructured.NestedSlice(deployment.Object, "spec", "template", "spec", "containers")
	if len(containers) == 0 {
		return ""
	}
	container, _ := containers[0].(map[string]any)
	image, _ := container["image"].(string)
	if i := strings.LastIndex(image, ":"); i > strings.LastIndex(image, "/") {
		return image[i+1:]
	}
	return ""
}
