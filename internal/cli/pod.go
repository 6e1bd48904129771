package cli

import (
	"context"
	"fmt"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// podOf finds the pod that a name means: NAME[.NAMESPACE], or of a workload deploy/NAME[.NAMESPACE] the first that runs.
func podOf(ctx context.Context, g *global, name string) (namespace, pod string, err error) {
	kind, rest, typed := strings.Cut(name, "/")
	if !typed {
		kind, rest = "pod", name
	}
	rest, namespace, ok := strings.Cut(rest, ".")
	if !ok {
		if namespace, err = g.currentNamespace(); err != nil {
			return "", "", err
		}
	}
	if kind == "pod" || kind == "po" || kind == "pods" {
		return namespace, rest, nil
	}
	kube, err := g.client()
	if err != nil {
		return "", "", err
	}
	selector, err := selectorOf(ctx, kube, kind, client.ObjectKey{Namespace: namespace, Name: rest})
	if err != nil {
		return "", "", err
	}
	pod, err = running(ctx, kube, namespace, selector, name)
	return namespace, pod, err
}

// running is the first pod of a selector that runs; of says in words what it is of.
func running(ctx context.Context, kube client.Client, namespace string, selector labels.Selector, of string) (string, error) {
	pods := &corev1.PodList{}
	if err := kube.List(ctx, pods, client.InNamespace(namespace), client.MatchingLabelsSelector{Selector: selector}); err != nil {
		return "", err
	}
	for i := range pods.Items {
		if pods.Items[i].Status.Phase == corev1.PodRunning && pods.Items[i].DeletionTimestamp == nil {
			return pods.Items[i].Name, nil
		}
	}
	return "", fmt.Errorf("no pod of %s runs in namespace %s", of, namespace)
}

func selectorOf(ctx context.Context, kube client.Client, kind string, key client.ObjectKey) (labels.Selector, error) {
	var selector *metav1.LabelSelector
	var err error
	switch kind {
	case "deploy", "deployment", "deployments":
		object := &appsv1.Deployment{}
		err = kube.Get(ctx, key, object)
		selector = object.Spec.Selector
	case "sts", "statefulset", "statefulsets":
		object := &appsv1.StatefulSet{}
		err = kube.Get(ctx, key, object)
		selector = object.Spec.Selector
	case "ds", "daemonset", "daemonsets":
		object := &appsv1.DaemonSet{}
		err = kube.Get(ctx, key, object)
		selector = object.Spec.Selector
	case "svc", "service", "services":
		object := &corev1.Service{}
		err = kube.Get(ctx, key, object)
		selector = &metav1.LabelSelector{MatchLabels: object.Spec.Selector}
	default:
		return nil, fmt.Errorf("%s/%s: the type must be pod, deploy, sts, ds or svc", kind, key.Name)
	}
	if err != nil {
		return nil, err
	}
	return metav1.LabelSelectorAsSelector(selector)
}
