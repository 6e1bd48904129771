package inject

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
)

const (
	proxyName     = "istio-proxy"
	initName      = "istio-init"
	proxyUserID   = 1337
	keyTemplates  = "inject.istio.io/templates"
	keyImage      = "sidecar.istio.io/proxyImage"
	keyImageType  = "sidecar.istio.io/proxyImageType"
	keyNative     = "sidecar.istio.io/nativeSidecar"
	keyProxy      = "proxy.istio.io/config"
	canonicalName = "service.istio.io/canonical-name"
	canonicalRev  = "service.istio.io/canonical-revision"
)

// Request is one pod to inject.
type Request struct {
	Pod       *corev1.Pod
	Namespace string
	// Owner is the workload that makes the pod, such as a Deployment; empty fields are guessed from the pod.
	Owner     metav1.ObjectMeta
	OwnerType metav1.TypeMeta
	Revision  string
	// Native says that the nodes run sidecars as restartable init containers.
	Native bool
	// Compliance is the policy that the proxy's own TLS keeps to; empty is none.
	Compliance string
}

// status is the annotation that says what the template added, so that it can be taken out again.
type status struct {
	InitContainers   []string `json:"initContainers"`
	Containers       []string `json:"containers"`
	Volumes          []string `json:"volumes"`
	ImagePullSecrets []string `json:"imagePullSecrets"`
	Revision         string   `json:"revision"`
	Version          string   `json:"version,omitempty"` // of the configuration, see Config
}

// Pod returns the pod with its proxy. A pod that has one gets a new one in its place. The given pod is not changed.
func Pod(config *Config, request Request) (*corev1.Pod, error) {
	if err := checkAnnotations(request.Pod.Annotations); err != nil {
		return nil, err
	}
	pod := strip(request.Pod.DeepCopy())
	own := takeOverrides(pod)
	d := templateData(config, request, pod)
	names := config.DefaultTemplates
	if asked := pod.Annotations[keyTemplates]; asked != "" {
		names = strings.Split(asked, ",")
	}
	before := pod.DeepCopy()
	for _, name := range expand(config, names) {
		template, ok := config.Templates[name]
		if !ok {
			return nil, fmt.Errorf("annotation %s: unknown template %q; there are %s", keyTemplates, name, strings.Join(templateNames(config), ", "))
		}
		patch, err := template.render(d)
		if err == nil {
			pod, err = merge(pod, patch)
		}
		if err != nil {
			return nil, fmt.Errorf("template %s: %w", name, err)
		}
	}
	if err := own.apply(pod); err != nil {
		return nil, err
	}
	reorder(pod, d.Hold || waitedFor(pod))
	for name, value := range config.InjectedAnnotations {
		setAnnotation(pod, name, value)
	}
	metricsAnnotations(pod, config, d.StatusPort)
	rewriteProbes(pod, config, d.StatusPort)
	added := addedTo(before, pod, request.Revision)
	added.Version = config.Version
	text, err := json.Marshal(added)
	if err != nil {
		return nil, err
	}
	setAnnotation(pod, keyStatus, string(text))
	return pod, nil
}

func expand(config *Config, names []string) []string {
	var out []string
	for _, name := range names {
		name = strings.TrimSpace(name)
		if alias, ok := config.Aliases[name]; ok {
			out = append(out, alias...)
		} else {
			out = append(out, name)
		}
	}
	return out
}

func templateNames(config *Config) []string {
	var names []string
	for name := range config.Templates {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// strip takes out what an earlier injection put in.
func strip(pod *corev1.Pod) *corev1.Pod {
	text, ok := pod.Annotations[keyStatus]
	if !ok {
		return pod
	}
	var was status
	if json.Unmarshal([]byte(text), &was) != nil {
		return pod
	}
	in := func(list []string) func(corev1.Container) bool {
		return func(c corev1.Container) bool { return slices.Contains(list, c.Name) }
	}
	restoreScrape(pod)
	restoreProbes(pod)
	pod.Spec.InitContainers = slices.DeleteFunc(pod.Spec.InitContainers, in(was.InitContainers))
	pod.Spec.Containers = slices.DeleteFunc(pod.Spec.Containers, in(was.Containers))
	pod.Spec.Volumes = slices.DeleteFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return slices.Contains(was.Volumes, v.Name) })
	pod.Spec.ImagePullSecrets = slices.DeleteFunc(pod.Spec.ImagePullSecrets, func(r corev1.LocalObjectReference) bool { return slices.Contains(was.ImagePullSecrets, r.Name) })
	delete(pod.Annotations, keyStatus)
	putBack(pod)
	return pod
}

// merge lays a template's pod, which is used up, over another, which is not changed.
func merge(pod *corev1.Pod, change map[string]any) (*corev1.Pod, error) {
	original, err := runtime.DefaultUnstructuredConverter.ToUnstructured(pod)
	if err != nil {
		return nil, err
	}
	merged, err := strategicpatch.StrategicMergeMapPatch(original, change, corev1.Pod{})
	if err != nil {
		return nil, err
	}
	out := &corev1.Pod{}
	return out, runtime.DefaultUnstructuredConverter.FromUnstructured(merged, out)
}

// reorder: the init container that captures comes first when the proxy is one after it, so that the pod's own init
// containers go through the proxy; otherwise last, as they have no proxy to go through. The proxy's container is first
// where the application must wait for it.
func reorder(pod *corev1.Pod, hold bool) {
	native := slices.ContainsFunc(pod.Spec.InitContainers, func(c corev1.Container) bool { return c.Name == proxyName })
	rank := func(c corev1.Container) int {
		switch {
		case c.Name == initName && native:
			return 0
		case c.Name == proxyName:
			return 1
		case c.Name == initName:
			return 3
		}
		return 2
	}
	slices.SortStableFunc(pod.Spec.InitContainers, func(a, b corev1.Container) int { return rank(a) - rank(b) })
	slices.SortStableFunc(pod.Spec.Containers, func(a, b corev1.Container) int {
		first := map[bool]int{true: -1, false: 1}[hold]
		switch {
		case a.Name == proxyName && b.Name != proxyName:
			return first
		case b.Name == proxyName && a.Name != proxyName:
			return -first
		}
		return 0
	})
}

// waitedFor says whether the template lets the applications wait for the proxy.
func waitedFor(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Spec.Containers, func(c corev1.Container) bool {
		return c.Name == proxyName && c.Lifecycle != nil && c.Lifecycle.PostStart != nil
	})
}

func addedTo(before, after *corev1.Pod, revision string) status {
	out := status{Revision: revision}
	if out.Revision == "" {
		out.Revision = "default"
	}
	had := map[string]bool{}
	for _, c := range append(before.Spec.InitContainers, before.Spec.Containers...) {
		had["c/"+c.Name] = true
	}
	for _, v := range before.Spec.Volumes {
		had["v/"+v.Name] = true
	}
	for _, s := range before.Spec.ImagePullSecrets {
		had["s/"+s.Name] = true
	}
	for _, c := range after.Spec.InitContainers {
		if !had["c/"+c.Name] {
			out.InitContainers = append(out.InitContainers, c.Name)
		}
	}
	for _, c := range after.Spec.Containers {
		if !had["c/"+c.Name] {
			out.Containers = append(out.Containers, c.Name)
		}
	}
	for _, v := range after.Spec.Volumes {
		if !had["v/"+v.Name] {
			out.Volumes = append(out.Volumes, v.Name)
		}
	}
	for _, s := range after.Spec.ImagePullSecrets {
		if !had["s/"+s.Name] {
			out.ImagePullSecrets = append(out.ImagePullSecrets, s.Name)
		}
	}
	return out
}

func setAnnotation(pod *corev1.Pod, name, value string) {
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	pod.Annotations[name] = value
}

// resources are the values', or only what annotations say if there is any.
func resources(config *Config, meta metav1.ObjectMeta) corev1.ResourceRequirements {
	var out corev1.ResourceRequirements
	set := func(list *corev1.ResourceList, name corev1.ResourceName, key string) {
		if quantity, err := resource.ParseQuantity(meta.Annotations[key]); err == nil {
			if *list == nil {
				*list = corev1.ResourceList{}
			}
			(*list)[name] = quantity
		}
	}
	set(&out.Requests, corev1.ResourceCPU, "sidecar.istio.io/proxyCPU")
	set(&out.Requests, corev1.ResourceMemory, "sidecar.istio.io/proxyMemory")
	set(&out.Limits, corev1.ResourceCPU, "sidecar.istio.io/proxyCPULimit")
	set(&out.Limits, corev1.ResourceMemory, "sidecar.istio.io/proxyMemoryLimit")
	if out.Requests != nil || out.Limits != nil {
		return out
	}
	text, err := json.Marshal(at(config.Values, "global", "proxy", "resources"))
	if err == nil {
		_ = json.Unmarshal(text, &out)
	}
	return out
}
