// Package report tells users where they look what proxies reject: an Event, and a condition in the status of the object
// that the rejected resource was made of. Rejections enter; it must not know what a stream is.
package report

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sort"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
)

const (
	period = time.Second
	// condition is Istio's type for whether an object has reached the proxies.
	condition = "Reconciled"
	// maxMessage is what an Event may hold.
	maxMessage = 1000
)

// Rejection is one resource that a build of Envoy does not take.
type Rejection struct {
	// Owner is the path of the object, /apis/GROUP/VERSION/namespaces/NAMESPACE/KIND/NAME; empty if none is known.
	Owner string
	// Type and Name are the resource's, Build is Envoy's, and Error is in Envoy's words.
	Type, Name, Build, Error string
}

// Reporter tells.
type Reporter struct {
	Dynamic dynamic.Interface
	Kube    kubernetes.Interface
	// Instance is this replica's name, for Events.
	Instance string
	// List returns what is rejected now.
	List func() []Rejection

	told map[string]string // what was said, by owner
}

// Run tells of rejections, and of their end, until the context ends.
func (r *Reporter) Run(ctx context.Context) {
	r.told = map[string]string{}
	for {
		r.step(ctx)
		select {
		case <-ctx.Done():
			return
		case <-time.After(period):
		}
	}
}

// step tells what is new. What cannot be told now is tried again.
func (r *Reporter) step(ctx context.Context) {
	now := messages(r.List())
	for owner, message := range now {
		if r.told[owner] == message {
			continue
		}
		if err := r.tell(ctx, owner, metav1.ConditionFalse, "Rejected", message); err != nil {
			slog.Warn("report: a rejection cannot be told on its object", "owner", owner, "error", err)
			continue
		}
		r.told[owner] = message
	}
	for owner := range r.told {
		if _, still := now[owner]; still {
			continue
		}
		if err := r.tell(ctx, owner, metav1.ConditionTrue, "Accepted", "no proxy rejects what it makes any more"); err != nil {
			slog.Warn("report: the end of a rejection cannot be told on its object", "owner", owner, "error", err)
			continue
		}
		delete(r.told, owner)
	}
}

// messages has one text an owner.
func messages(list []Rejection) map[string]string {
	lines := map[string][]string{}
	for _, one := range list {
		if one.Owner != "" {
			lines[one.Owner] = append(lines[one.Owner], fmt.Sprintf("Envoy %s rejects %s %s: %s", one.Build, strings.ToUpper(one.Type), one.Name, one.Error))
		}
	}
	out := map[string]string{}
	for owner, texts := range lines {
		sort.Strings(texts)
		text := strings.Join(texts, "; ")
		out[owner] = text[:min(len(text), maxMessage)]
	}
	return out
}

func (r *Reporter) tell(ctx context.Context, owner string, status metav1.ConditionStatus, reason, message string) error {
	parts := strings.Split(strings.TrimPrefix(owner, "/"), "/")
	if len(parts) != 7 {
		return fmt.Errorf("%s is not an object's path", owner)
	}
	gvr := schema.GroupVersionResource{Group: parts[1], Version: parts[2], Resource: strings.ReplaceAll(parts[5], "-", "") + "s"}
	objects := r.Dynamic.Resource(gvr).Namespace(parts[4])
	object, err := objects.Get(ctx, parts[6], metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil // there is nobody to tell any more
	}
	if err != nil {
		return err
	}
	patch, err := statusPatch(object, status, reason, message)
	if err != nil {
		return err
	}
	if _, err := objects.Patch(ctx, object.GetName(), types.MergePatchType, patch, metav1.PatchOptions{FieldManager: "pilot-discovery"}, "status"); err != nil {
		return err
	}
	return r.event(ctx, object, status, reason, message)
}

// statusPatch sets our condition and keeps the others. It fails if somebody else was faster, and is tried again.
func statusPatch(object *unstructured.Unstructured, status metav1.ConditionStatus, reason, message string) ([]byte, error) {
	list, _, _ := unstructured.NestedSlice(object.Object, "status", "conditions")
	kept := []any{}
	for _, entry := range list {
		if c, ok := entry.(map[string]any); ok && c["type"] != condition {
			kept = append(kept, entry)
		}
	}
	kept = append(kept, map[string]any{"type": condition, "status": string(status), "reason": reason, "message": message,
		"observedGeneration": object.GetGeneration(), "lastTransitionTime": time.Now().UTC().Format(time.RFC3339)})
	return json.Marshal(map[string]any{"metadata": map[string]any{"resourceVersion": object.GetResourceVersion()}, "status": map[string]any{"conditions": kept}})
}

func (r *Reporter) event(ctx context.Context, object *unstructured.Unstructured, status metav1.ConditionStatus, reason, message string) error {
	kind := corev1.EventTypeNormal
	if status == metav1.ConditionFalse {
		kind = corev1.EventTypeWarning
	}
	_, err := r.Kube.EventsV1().Events(object.GetNamespace()).Create(ctx, &eventsv1.Event{
		ObjectMeta: metav1.ObjectMeta{Namespace: object.GetNamespace(), GenerateName: object.GetName() + "-"},
		EventTime:  metav1.NowMicro(), Type: kind, Reason: reason, Note: message, Action: "Push",
		ReportingController: "istiod", ReportingInstance: r.Instance,
		Regarding: corev1.ObjectReference{APIVersion: object.GetAPIVersion(), Kind: object.GetKind(), Namespace: object.GetNamespace(), Name: object.GetName(), UID: object.GetUID()},
	}, metav1.CreateOptions{})
	return err
}
