package lifecycle

import (
	"context"
	"fmt"
	"sort"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/slipway-mesh/slipway/internal/install/apply"
)

// podPage is how many pods' metadata are read at a time.
const podPage = 500

// Attached lists the pods, as NAMESPACE/NAME and sorted, whose sidecars use a control plane that the owner installed.
func (i Installer) Attached(ctx context.Context, owner Owner) ([]string, error) {
	inventory, err := i.Cluster.LoadInventory(ctx, owner.Namespace, owner.inventoryName())
	if err != nil {
		return nil, err
	}
	revisions := map[string]bool{}
	for ref := range inventory {
		if revision, ok := controlPlane(ref); ok {
			revisions[revision] = true
		}
	}
	if len(revisions) == 0 {
		return nil, nil
	}
	var names []string
	err = i.eachSidecar(ctx, func(pod *metav1.PartialObjectMetadata) {
		if revisions[pod.Annotations["istio.io/rev"]] {
			names = append(names, pod.Namespace+"/"+pod.Name)
		}
	})
	sort.Strings(names)
	return names, err
}

// controlPlane says whether an object is a control plane's Deployment, and of which revision.
func controlPlane(ref apply.Ref) (revision string, ok bool) {
	if ref.Kind != "Deployment" {
		return "", false
	}
	if ref.Name == "istiod" {
		return "default", true
	}
	return strings.CutPrefix(ref.Name, "istiod-")
}

// eachSidecar visits the metadata of the pods that have a sidecar.
func (i Installer) eachSidecar(ctx context.Context, visit func(*metav1.PartialObjectMetadata)) error {
	pods := &metav1.PartialObjectMetadataList{}
	for {
		pods.SetGroupVersionKind(schema.GroupVersionKind{Version: "v1", Kind: "PodList"})
		err := i.Cluster.Client.List(ctx, pods, client.HasLabels{"security.istio.io/tlsMode"}, client.Limit(podPage), client.Continue(pods.Continue))
		if err != nil {
			return fmt.Errorf("list pods with sidecars: %w", err)
		}
		for k := range pods.Items {
			visit(&pods.Items[k])
		}
		if pods.Continue == "" {
			return nil
		}
	}
}
