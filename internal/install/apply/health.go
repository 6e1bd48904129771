package apply

import (
	"context"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Health is why an object is not ready.
type Health struct {
	Ref Ref
	// Reason is in words, such as "0 of 1 replicas are ready: pod x: container y: ImagePullBackOff".
	Reason string
	// Failing says that it will not become ready by waiting: an image that cannot be had, a container that crashes.
	Failing bool
}

// Unready returns those of the objects that are not ready yet, in order.
func (c Cluster) Unready(ctx context.Context, objects []Object) ([]Health, error) {
	floors := autoscalerFloors(objects)
	var all []Health
	for _, object := range objects {
		var health *Health
		var err error
		switch object.GetKind() {
		case "Deployment":
			health, err = c.deploymentHealth(ctx, object, floors)
		case "StatefulSet", "DaemonSet":
			health, err = c.liveHealth(ctx, object, setHealth)
		case crd:
			health, err = c.crdHealth(ctx, object)
		case "MutatingWebhookConfiguration":
			health, err = c.liveHealth(ctx, object, webhookHealth)
		}
		if err != nil {
			return nil, err
		}
		if health != nil {
			health.Ref = RefOf(object)
			all = append(all, *health)
		}
	}
	return all, nil
}

// autoscalerFloors are the fewest replicas that the autoscalers among the objects keep, by the Deployment that they scale.
func autoscalerFloors(objects []Object) map[client.ObjectKey]int32 {
	floors := map[client.ObjectKey]int32{}
	for _, object := range objects {
		if object.GetKind() != "HorizontalPodAutoscaler" {
			continue
		}
		name, _, _ := unstructured.NestedString(object.Object, "spec", "scaleTargetRef", "name")
		floor, set, _ := unstructured.NestedInt64(object.Object, "spec", "minReplicas")
		if !set {
			floor = 1
		}
		floors[client.ObjectKey{Namespace: object.GetNamespace(), Name: name}] = int32(floor) //nolint:gosec // the API server knows it as an int32
	}
	return floors
}

// deploymentHealth asks for the replicas that the Deployment is to have. What an autoscaler adds to its fewest is there
// for a load and is no part of the installation: where the nodes have no room for it, the installation is healthy.
func (c Cluster) deploymentHealth(ctx context.Context, object Object, floors map[client.ObjectKey]int32) (*Health, error) {
	deployment := &appsv1.Deployment{}
	err := c.Client.Get(ctx, client.ObjectKeyFromObject(object), deployment)
	if apierrors.IsNotFound(err) {
		return &Health{Reason: "is not there"}, nil
	}
	if err != nil {
		return nil, err
	}
	want := int32(1)
	if deployment.Spec.Replicas != nil {
		want = *deployment.Spec.Replicas
	}
	if floor, scaled := floors[client.ObjectKeyFromObject(object)]; scaled {
		want = min(want, floor)
	}
	status := deployment.Status
	switch {
	case status.ObservedGeneration < deployment.Generation:
		return &Health{Reason: "its last change is not observed yet"}, nil
	case status.UpdatedReplicas < want:
		return c.podHealth(ctx, deployment, fmt.Sprintf("%d of %d replicas are updated", status.UpdatedReplicas, want))
	case status.Replicas > status.UpdatedReplicas: // those of the last version go when the new ones are ready
		return c.podHealth(ctx, deployment, fmt.Sprintf("%d replicas of the last version are still there", status.Replicas-status.UpdatedReplicas))
	case status.AvailableReplicas < want:
		return c.podHealth(ctx, deployment, fmt.Sprintf("%d of %d replicas are ready", status.AvailableReplicas, want))
	}
	return nil, nil
}

// liveHealth judges an object as it is in the cluster.
func (c Cluster) liveHealth(ctx context.Context, object Object, judge func(live Object) *Health) (*Health, error) {
	live, err := c.live(ctx, RefOf(object))
	switch {
	case err != nil:
		return nil, err
	case live == nil:
		return &Health{Reason: "is not there"}, nil
	}
	return judge(live), nil
}

// setHealth reads the status of a StatefulSet or a DaemonSet, whose fields differ in name only.
func setHealth(live Object) *Health {
	number := func(otherwise int64, path ...string) int64 {
		if n, ok, err := unstructured.NestedInt64(live.Object, path...); ok && err == nil {
			return n
		}
		return otherwise
	}
	want, updated, available := number(1, "spec", "replicas"), number(0, "status", "updatedReplicas"), number(0, "status", "availableReplicas")
	if live.GetKind() == "DaemonSet" {
		want = number(0, "status", "desiredNumberScheduled")
		updated, available = number(0, "status", "updatedNumberScheduled"), number(0, "status", "numberAvailable")
	}
	switch {
	case number(0, "status", "observedGeneration") < live.GetGeneration():
		return &Health{Reason: "its last change is not observed yet"}
	case updated < want:
		return &Health{Reason: fmt.Sprintf("%d of %d pods are updated", updated, want)}
	case available < want:
		return &Health{Reason: fmt.Sprintf("%d of %d pods are ready", available, want)}
	}
	return nil
}

// podHealth adds what the pods say is wrong.
func (c Cluster) podHealth(ctx context.Context, deployment *appsv1.Deployment, reason string) (*Health, error) {
	selector, err := metav1.LabelSelectorAsSelector(deployment.Spec.Selector)
	if err != nil {
		return nil, err
	}
	pods := &corev1.PodList{}
	if err := c.Client.List(ctx, pods, client.InNamespace(deployment.Namespace), client.MatchingLabelsSelector{Selector: selector}); err != nil {
		return nil, err
	}
	health := &Health{Reason: reason}
	for i := range pods.Items {
		if why, failing := podReason(&pods.Items[i]); why != "" {
			health.Reason = fmt.Sprintf("%s: pod %s: %s", reason, pods.Items[i].Name, why)
			health.Failing = failing
			if failing {
				return health, nil
			}
		}
	}
	return health, nil
}

// failing are the reasons of a waiting container that waiting does not mend.
var failing = map[string]bool{
	"ImagePullBackOff": true, "ErrImagePull": true, "ErrImageNeverPull": true, "InvalidImageName": true,
	"CrashLoopBackOff": true, "CreateContainerConfigError": true, "CreateContainerError": true, "RunContainerError": true,
}

func podReason(pod *corev1.Pod) (reason string, isFailing bool) {
	for _, status := range append(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses...) {
		if waiting := status.State.Waiting; waiting != nil && failing[waiting.Reason] {
			text := waiting.Reason
			if waiting.Message != "" {
				text += ": " + waiting.Message
			}
			return fmt.Sprintf("container %s: %s", status.Name, text), true
		}
		if ended := status.State.Terminated; ended != nil && ended.ExitCode != 0 {
			return fmt.Sprintf("container %s ended with %d", status.Name, ended.ExitCode), true
		}
	}
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodScheduled && condition.Status == corev1.ConditionFalse {
			return "cannot be scheduled: " + condition.Message, false
		}
	}
	return "", false
}

// webhookHealth waits for the authority that the control plane enters when it serves: until then the API server trusts
// no Service that is to answer, and pods that are created are refused or have no sidecar.
func webhookHealth(live Object) *Health {
	webhooks, _, _ := unstructured.NestedSlice(live.Object, "webhooks")
	for _, entry := range webhooks {
		webhook, _ := entry.(map[string]any)
		config, _ := webhook["clientConfig"].(map[string]any)
		if bundle, _ := config["caBundle"].(string); config["service"] != nil && bundle == "" {
			return &Health{Reason: fmt.Sprintf("webhook %v: the control plane has not entered its authority yet", webhook["name"])}
		}
	}
	return nil
}

// crdSettled is when a CRD is established for sure. An established one stays so, and reading it costs its schemas.
const crdSettled = time.Minute

func (c Cluster) crdHealth(ctx context.Context, object Object) (*Health, error) {
	known, err := c.metadata(ctx, RefOf(object))
	if err == nil && known != nil && time.Since(known.GetCreationTimestamp().Time) > crdSettled {
		return nil, nil
	}
	return c.liveHealth(ctx, object, establishedHealth)
}

func establishedHealth(live Object) *Health {
	conditions, _, _ := unstructured.NestedSlice(live.Object, "status", "conditions")
	for _, entry := range conditions {
		condition, _ := entry.(map[string]any)
		if condition["type"] == "Established" && condition["status"] == "True" {
			return nil
		}
	}
	return &Health{Reason: "is not established yet"}
}
