package lifecycle

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"sort"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/slipway-mesh/slipway/internal/install/apply"
	"github.com/slipway-mesh/slipway/internal/install/manifest"
)

// Workload is what owns pods with sidecars, and how they stand to what they ask for.
type Workload struct {
	Ref apply.Ref `json:"-"`
	// Name is such as Deployment shop/cart; that of a pod without an owner is Pod shop/x.
	Name string `json:"name"`
	// Revision is what the sidecars are of; Asked is the revision that new pods would get, empty for none.
	Revision string `json:"revision"`
	Asked    string `json:"asked"`
	// Stale says why a restart would change the sidecars; empty if it would not.
	Stale string `json:"stale,omitempty"`
	Pods  int    `json:"pods"`
	// goal names what a restart now would give.
	goal string
}

// Workloads lists what has sidecars, sorted by name.
func (i Installer) Workloads(ctx context.Context) ([]Workload, error) {
	world, err := i.injection(ctx)
	if err != nil {
		return nil, err
	}
	owners := map[apply.Ref]apply.Ref{}
	all := map[apply.Ref]*Workload{}
	var failed error
	err = i.eachSidecar(ctx, func(pod *metav1.PartialObjectMetadata) {
		ref, err := i.workloadOf(ctx, pod, owners)
		if err != nil {
			failed = err
			return
		}
		w := all[ref]
		if w == nil {
			w = &Workload{Ref: ref, Name: ref.String()}
			all[ref] = w
		}
		w.Pods++
		w.Revision, w.Asked = pod.Annotations[manifest.LabelRevision], world.asked(pod)
		w.goal = w.Asked + "/" + world.versions[w.Asked]
		if why := world.stale(pod, w.Asked); why != "" {
			w.Stale = why
		}
	})
	if err == nil {
		err = failed
	}
	list := make([]Workload, 0, len(all))
	for _, w := range all {
		list = append(list, *w)
	}
	sort.Slice(list, func(a, b int) bool { return list[a].Name < list[b].Name })
	return list, err
}

// injection is what decides which sidecar a new pod would get.
type injection struct {
	namespaces map[string]map[string]string // labels by name
	tags       map[string]string            // revision by tag
	versions   map[string]string            // of the injector's configuration, by revision
}

func (i Installer) injection(ctx context.Context) (*injection, error) {
	world := &injection{namespaces: map[string]map[string]string{}, tags: map[string]string{}, versions: map[string]string{}}
	tags, err := i.Tags(ctx)
	if err != nil {
		return nil, err
	}
	for _, tag := range tags {
		world.tags[tag.Name] = tag.Revision
	}
	namespaces := &metav1.PartialObjectMetadataList{}
	namespaces.SetGroupVersionKind(schema.GroupVersionKind{Version: "v1", Kind: "NamespaceList"})
	if err := i.Cluster.Client.List(ctx, namespaces); err != nil {
		return nil, fmt.Errorf("list namespaces: %w", err)
	}
	for _, namespace := range namespaces.Items {
		world.namespaces[namespace.Name] = namespace.Labels
	}
	configMaps := &corev1.ConfigMapList{}
	if err := i.Cluster.Client.List(ctx, configMaps, client.MatchingLabels{"app": "istiod"}); err != nil {
		return nil, fmt.Errorf("list the injectors' configurations: %w", err)
	}
	for _, configMap := range configMaps.Items {
		if strings.HasPrefix(configMap.Name, "istio-sidecar-injector") {
			world.versions[configMap.Labels[manifest.LabelRevision]] = configVersion(configMap.Data["config"], configMap.Data["values"])
		}
	}
	return world, nil
}

// configVersion is what the injector writes into a pod's status: see there.
func configVersion(config, values string) string {
	sum := sha256.Sum256([]byte(config + "\n" + values))
	return hex.EncodeToString(sum[:8])
}

// asked is the revision that a new pod of this kind would get a sidecar from; empty for none.
func (w *injection) asked(pod *metav1.PartialObjectMetadata) string {
	asks := AsksFor(w.namespaces[pod.Namespace])
	if asks == "" {
		if asks = pod.Labels[manifest.LabelRevision]; asks == "" && pod.Labels["sidecar.istio.io/inject"] == "true" {
			asks = defaultTag
		}
	}
	if pod.Labels["sidecar.istio.io/inject"] == "false" {
		return ""
	}
	if revision, ok := w.tags[asks]; ok {
		return revision
	}
	return asks
}

func (w *injection) stale(pod *metav1.PartialObjectMetadata, asked string) string {
	revision := pod.Annotations[manifest.LabelRevision]
	if asked == "" || w.versions[asked] == "" {
		return "" // by hand, or nobody is there to do it better
	}
	if revision != asked {
		return fmt.Sprintf("its sidecar is of revision %s, and it asks for %s", revision, asked)
	}
	var status struct{ Version string }
	if err := json.Unmarshal([]byte(pod.Annotations["sidecar.istio.io/status"]), &status); err == nil && status.Version != w.versions[asked] {
		return "its sidecar is of an older configuration"
	}
	return ""
}

// workloadOf finds what owns a pod. A ReplicaSet's owner is asked for once.
func (i Installer) workloadOf(ctx context.Context, pod *metav1.PartialObjectMetadata, known map[apply.Ref]apply.Ref) (apply.Ref, error) {
	self := apply.Ref{Version: "v1", Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name}
	owner := metav1.GetControllerOf(pod)
	if owner == nil {
		return self, nil
	}
	ref, err := refOfOwner(owner, pod.Namespace)
	if err != nil || owner.Kind != "ReplicaSet" {
		return ref, err
	}
	if found, ok := known[ref]; ok {
		return found, nil
	}
	set := &metav1.PartialObjectMetadata{}
	set.SetGroupVersionKind(schema.FromAPIVersionAndKind(owner.APIVersion, owner.Kind))
	if err := i.Cluster.Client.Get(ctx, client.ObjectKey{Namespace: pod.Namespace, Name: owner.Name}, set); err != nil {
		return ref, client.IgnoreNotFound(err)
	}
	known[ref] = ref
	if above := metav1.GetControllerOf(set); above != nil {
		if known[ref], err = refOfOwner(above, pod.Namespace); err != nil {
			return ref, err
		}
	}
	return known[ref], nil
}

func refOfOwner(owner *metav1.OwnerReference, namespace string) (apply.Ref, error) {
	version, err := schema.ParseGroupVersion(owner.APIVersion)
	return apply.Ref{Group: version.Group, Version: version.Version, Kind: owner.Kind, Namespace: namespace, Name: owner.Name}, err
}
