package report

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
)

// Object is one whose way to the proxies is told in its status.
type Object struct{ Kind, Namespace, Name, Version string }

// Progress tells in the status of objects how many proxies hold what they make.
type Progress struct {
	Dynamic dynamic.Interface
	// Pending lists the objects that have changed since they were told to have arrived, and Done strikes one off.
	Pending func() []Object
	Done    func(Object)
	// Reach counts the proxies of all replicas; ok is false while one cannot be asked.
	Reach func(context.Context, Object) (reached, of int, ok bool)

	since map[Object]time.Time
	told  map[Object]bool // that it is on its way
}

const (
	perStep  = 50              // objects that are looked at in one step
	patience = 3 * time.Second // after which what is on its way is told
)

// Run tells until the context ends.
func (p *Progress) Run(ctx context.Context) {
	p.since, p.told = map[Object]time.Time{}, map[Object]bool{}
	for {
		pending := p.Pending()
		for _, object := range pending[:min(len(pending), perStep)] {
			p.look(ctx, object)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(period):
		}
	}
}

func (p *Progress) look(ctx context.Context, o Object) {
	reached, of, ok := p.Reach(ctx, o)
	if !ok {
		return
	}
	if p.since[o].IsZero() {
		p.since[o] = time.Now()
	}
	arrived := reached == of
	if !arrived && (p.told[o] || time.Since(p.since[o]) < patience) {
		return
	}
	if err := p.tell(ctx, o, arrived, fmt.Sprintf("%d of %d proxies hold it", reached, of)); err != nil {
		slog.Warn("report: how far an object has come cannot be told in its status", "object", o, "error", err)
		return
	}
	if p.told[o] = true; arrived {
		p.Done(o)
		delete(p.since, o)
		delete(p.told, o)
	}
}

// followed are the kinds whose objects are told of.
var followed = map[string]schema.GroupVersionResource{
	"VirtualService": networkingResource("virtualservices"), "DestinationRule": networkingResource("destinationrules"), "Gateway": networkingResource("gateways"),
	"ServiceEntry": networkingResource("serviceentries"), "Sidecar": networkingResource("sidecars"), "WorkloadEntry": networkingResource("workloadentries"),
	"PeerAuthentication": securityResource("peerauthentications"), "RequestAuthentication": securityResource("requestauthentications"), "AuthorizationPolicy": securityResource("authorizationpolicies"),
}

func networkingResource(name string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: "networking.istio.io", Version: "v1", Resource: name}
}

func securityResource(name string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: "security.istio.io", Version: "v1", Resource: name}
}

// Follows says whether objects of a kind are told of.
func Follows(kind string) bool {
	_, yes := followed[kind]
	return yes
}

// tell writes the condition.
func (p *Progress) tell(ctx context.Context, o Object, arrived bool, message string) error {
	objects := p.Dynamic.Resource(followed[o.Kind]).Namespace(o.Namespace)
	object, err := objects.Get(ctx, o.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	status, reason := metav1.ConditionFalse, "Pending"
	if arrived {
		status, reason = metav1.ConditionTrue, "Arrived"
	}
	if said(object, status, message) {
		return nil
	}
	patch, err := statusPatch(object, status, reason, message)
	if err != nil {
		return err
	}
	_, err = objects.Patch(ctx, o.Name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: "pilot-discovery"}, "status")
	return err
}

// said says whether the condition says so already of the object as it is now, or tells of a rejection: that is told elsewhere.
func said(object *unstructured.Unstructured, status metav1.ConditionStatus, message string) bool {
	list, _, _ := unstructured.NestedSlice(object.Object, "status", "conditions")
	for _, entry := range list {
		c, _ := entry.(map[string]any)
		if c["type"] != condition {
			continue
		}
		same := c["status"] == string(status) && c["message"] == message && fmt.Sprint(c["observedGeneration"]) == fmt.Sprint(object.GetGeneration())
		return same || c["reason"] == "Rejected"
	}
	return false
}
