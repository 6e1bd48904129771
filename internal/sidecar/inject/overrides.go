package inject

import (
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
)

// A pod may have containers of the proxy's names itself. What they say goes before what the templates do, and the image "auto" means the
// template's.
// https://istio.io/latest/docs/setup/additional-setup/sidecar-injection/#customizing-injection

// keyOverrides keeps what a pod said itself, so that it can be injected again.
const keyOverrides = "proxy.istio.io/overrides"

// autoImage asks for the image that the template has.
const autoImage = "auto"

// overrides are the pod's own containers of the proxy's names.
type overrides struct {
	Containers     []corev1.Container `json:"containers,omitempty"`
	InitContainers []corev1.Container `json:"initContainers,omitempty"`
}

// takeOverrides takes them out of the pod.
func takeOverrides(pod *corev1.Pod) overrides {
	var out overrides
	pod.Spec.Containers, out.Containers = withoutProxy(pod.Spec.Containers)
	pod.Spec.InitContainers, out.InitContainers = withoutProxy(pod.Spec.InitContainers)
	return out
}

func withoutProxy(list []corev1.Container) (others, own []corev1.Container) {
	for _, c := range list {
		if c.Name == proxyName || c.Name == initName {
			own = append(own, c)
		} else {
			others = append(others, c)
		}
	}
	return others, own
}

// apply lays them over the containers that the templates have made, wherever these are. One that no template has made stays as it was.
func (o overrides) apply(pod *corev1.Pod) error {
	if len(o.Containers)+len(o.InitContainers) == 0 {
		return nil
	}
	for _, own := range []struct {
		list []corev1.Container
		into *[]corev1.Container
	}{{o.Containers, &pod.Spec.Containers}, {o.InitContainers, &pod.Spec.InitContainers}} {
		for _, c := range own.list {
			if made := find(pod, c.Name); made == nil {
				*own.into = append(*own.into, c)
			} else if err := overlay(made, c); err != nil {
				return err
			}
		}
	}
	text, err := json.Marshal(o)
	if err != nil {
		return err
	}
	setAnnotation(pod, keyOverrides, string(text))
	return nil
}

func find(pod *corev1.Pod, name string) *corev1.Container {
	for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}

func overlay(made *corev1.Container, own corev1.Container) error {
	if own.Image == autoImage { // the API server takes it for an image that is always to be pulled
		own.Image, own.ImagePullPolicy = "", ""
	}
	original, err := json.Marshal(made)
	if err != nil {
		return err
	}
	change, err := json.Marshal(own)
	if err != nil {
		return err
	}
	merged, err := strategicpatch.StrategicMergePatch(original, change, corev1.Container{})
	if err != nil {
		return fmt.Errorf("container %s: %w", own.Name, err)
	}
	*made = corev1.Container{}
	return json.Unmarshal(merged, made)
}

// putBack gives a pod that was injected before what it said itself.
func putBack(pod *corev1.Pod) {
	var was overrides
	if json.Unmarshal([]byte(pod.Annotations[keyOverrides]), &was) == nil {
		pod.Spec.Containers = append(pod.Spec.Containers, was.Containers...)
		pod.Spec.InitContainers = append(pod.Spec.InitContainers, was.InitContainers...)
	}
	delete(pod.Annotations, keyOverrides)
}
