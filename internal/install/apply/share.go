package apply

import (
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/version"
)

// Some fields of some objects are not the installer's alone. This file is the list of them.

const crd = "CustomResourceDefinition"

// keepLive says whether the live object is to be left as it is: a CRD that serves a version that ours does not is newer
// or another's, and applying ours could drop what is stored.
func keepLive(desired, live Object) bool {
	if desired.GetKind() != crd {
		return false
	}
	ours := crdVersions(desired)
	for name := range crdVersions(live) {
		if !ours[name] && newerThanAll(name, ours) {
			return true
		}
	}
	return false
}

func newerThanAll(name string, others map[string]bool) bool {
	for other := range others {
		if version.CompareKubeAwareVersionStrings(name, other) <= 0 {
			return false
		}
	}
	return true
}

func crdVersions(object Object) map[string]bool {
	names := map[string]bool{}
	list, _, _ := unstructured.NestedSlice(object.Object, "spec", "versions")
	for _, v := range list {
		if m, ok := v.(map[string]any); ok {
			if name, ok := m["name"].(string); ok {
				names[name] = true
			}
		}
	}
	return names
}

// prepareCreate: a webhook configuration is created to fail open. Nobody answers it yet, and a closed one would block
// every pod until somebody does. The control plane closes it when it answers.
func prepareCreate(object Object) {
	eachWebhook(object, func(webhook map[string]any) { webhook["failurePolicy"] = "Ignore" })
}

// Deactivated is the label in a webhook's namespaceSelector that takes it out of use: no namespace has it. Who sets it
// is asked for by a revision tag; it is not undone here.
const Deactivated = "istio.io/deactivated"

// handOver leaves to the control plane what it has taken over of a live webhook configuration: with a caBundle set, the
// failurePolicy is the control plane's too.
func handOver(desired, live Object) {
	answered, off := map[string]bool{}, map[string]any{}
	eachWebhook(live, func(webhook map[string]any) {
		config, _ := webhook["clientConfig"].(map[string]any)
		bundle, _ := config["caBundle"].(string)
		name, _ := webhook["name"].(string)
		answered[name] = bundle != ""
		if mark, ok, _ := unstructured.NestedString(webhook, "namespaceSelector", "matchLabels", Deactivated); ok {
			off[name] = mark
		}
	})
	eachWebhook(desired, func(webhook map[string]any) {
		name, _ := webhook["name"].(string)
		switch {
		case webhook["failurePolicy"] == "Ignore": // it is to fail open for ever
		case answered[name]:
			delete(webhook, "failurePolicy")
		default:
			webhook["failurePolicy"] = "Ignore"
		}
		if mark, ok := off[name]; ok {
			_ = unstructured.SetNestedField(webhook, mark, "namespaceSelector", "matchLabels", Deactivated)
		}
	})
}

// handOverReplicas keeps the live number where ours is not set: an autoscaler or a person owns it.
func handOverReplicas(desired, live Object) {
	if desired.GetKind() != "Deployment" {
		return
	}
	if _, set, _ := unstructured.NestedFieldNoCopy(desired.Object, "spec", "replicas"); set {
		return
	}
	for _, entry := range live.GetManagedFields() {
		// We owned it before and do not any more: without a value it would fall back to one replica.
		if entry.Manager == FieldManager && entry.FieldsV1 != nil && strings.Contains(string(entry.FieldsV1.GetRawBytes()), `"f:replicas"`) {
			if n, ok, _ := unstructured.NestedInt64(live.Object, "spec", "replicas"); ok {
				_ = unstructured.SetNestedField(desired.Object, n, "spec", "replicas")
			}
		}
	}
}

func eachWebhook(object Object, do func(webhook map[string]any)) {
	if !strings.HasSuffix(object.GetKind(), "WebhookConfiguration") {
		return
	}
	list, _ := object.Object["webhooks"].([]any)
	for _, w := range list {
		if webhook, ok := w.(map[string]any); ok {
			do(webhook)
		}
	}
}
