// Package enroll keeps a WorkloadEntry for each connected proxy that says of which WorkloadGroup it is, as workloads outside Kubernetes do.
// Proxies that come, go and tell of their health enter; writes to the API server leave. It must not know Envoy or streams.
// https://istio.io/latest/docs/reference/config/networking/workload-group/
package enroll

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"time"

	meta "istio.io/api/meta/v1alpha1"
	networking "istio.io/client-go/pkg/apis/networking/v1"
	istio "istio.io/client-go/pkg/clientset/versioned"
	istioinformers "istio.io/client-go/pkg/informers/externalversions"
	listers "istio.io/client-go/pkg/listers/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"

	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
)

// The annotations by which Istio knows the entries that it keeps.
const (
	GroupAnnotation        = "istio.io/autoRegistrationGroup"
	ControllerAnnotation   = "istio.io/workloadController"
	ConnectedAnnotation    = "istio.io/connectedAt"
	DisconnectedAnnotation = "istio.io/disconnectedAt"
	// HealthAnnotation says that the workload tells of its health: until it has, it is not called.
	HealthAnnotation = "proxy.istio.io/health-checks-enabled"
	// Healthy is the condition that then counts.
	Healthy = "Healthy"
)

// Registrar writes entries. A proxy that is connected to another replica is that one's.
type Registrar struct {
	client   istio.Interface
	instance string
	grace    time.Duration
	groups   listers.WorkloadGroupLister
	synced   func(context.Context) bool
	queue    workqueue.TypedRateLimitingInterface[types.NamespacedName]

	mu      sync.Mutex
	members map[types.NamespacedName]*member
}

// member is a workload that is or was connected here.
type member struct {
	proxy   *mesh.Proxy
	streams int       // of the proxy
	at      time.Time // since when it is so
	told    bool      // something of its health
	illness string    // empty is healthy
}

// New prepares a registrar of a replica. grace is how long the entry of a proxy that went away is kept.
func New(client istio.Interface, instance string, grace time.Duration) *Registrar {
	r := &Registrar{client: client, instance: instance, grace: grace, members: map[types.NamespacedName]*member{},
		queue: workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[types.NamespacedName](200*time.Millisecond, 10*time.Second))}
	factory := istioinformers.NewSharedInformerFactory(client, 0)
	informer := factory.Networking().V1().WorkloadGroups()
	r.groups = informer.Lister()
	_, err := informer.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: r.groupChanged, UpdateFunc: func(_, now any) { r.groupChanged(now) }})
	r.synced = func(ctx context.Context) bool {
		factory.Start(ctx.Done())
		return err == nil && cache.WaitForCacheSync(ctx.Done(), informer.Informer().HasSynced)
	}
	return r
}

// groupChanged looks again at the group's members.
func (r *Registrar) groupChanged(object any) {
	group, ok := object.(*networking.WorkloadGroup)
	if !ok {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for name, m := range r.members {
		if name.Namespace == group.Namespace && m.proxy.Group() == group.Name {
			r.queue.Add(name)
		}
	}
}

// entryName is Istio's name for the entry of a proxy.
func entryName(p *mesh.Proxy) types.NamespacedName {
	name := p.Group() + "-" + p.Addresses[0]
	if p.Network != "" {
		name += "-" + p.Network
	}
	name = strings.ReplaceAll(name, ":", "-")
	const longest = 253
	return types.NamespacedName{Namespace: p.Namespace, Name: name[max(0, len(name)-longest):]}
}

func (r *Registrar) change(p *mesh.Proxy, change func(*member)) {
	if p.Group() == "" {
		return
	}
	name := entryName(p)
	r.mu.Lock()
	defer r.mu.Unlock()
	m := r.members[name]
	if m == nil {
		m = &member{}
		r.members[name] = m
	}
	m.proxy = p
	change(m)
	r.queue.Add(name)
}

// Joined takes in a proxy that connected.
func (r *Registrar) Joined(p *mesh.Proxy) {
	r.change(p, func(m *member) {
		if m.streams++; m.streams == 1 {
			m.at = time.Now()
		}
	})
}

// Left is told of each that Joined was told of, when it goes.
func (r *Registrar) Left(p *mesh.Proxy) {
	r.change(p, func(m *member) {
		if m.streams--; m.streams == 0 {
			m.at = time.Now()
		}
	})
}

// Tell is told what a proxy says of its workload's health; no illness is healthy.
func (r *Registrar) Tell(p *mesh.Proxy, illness string) {
	r.change(p, func(m *member) { m.told, m.illness = true, illness })
}

// Run writes until the context ends.
func (r *Registrar) Run(ctx context.Context) {
	stop := context.AfterFunc(ctx, r.queue.ShutDown)
	defer stop()
	if !r.synced(ctx) {
		return
	}
	for {
		name, ended := r.queue.Get()
		if ended {
			return
		}
		if err := r.write(ctx, name); err != nil && ctx.Err() == nil {
			if !apierrors.IsConflict(err) {
				slog.Warn("WorkloadEntry: cannot be kept", "entry", name.String(), "error", err)
			}
			r.queue.AddRateLimited(name)
		} else {
			r.queue.Forget(name)
		}
		r.queue.Done(name)
	}
}

func (r *Registrar) write(ctx context.Context, name types.NamespacedName) error {
	r.mu.Lock()
	known := r.members[name]
	if known == nil {
		r.mu.Unlock()
		return nil
	}
	m := *known
	r.mu.Unlock()
	if m.streams > 0 {
		return r.keep(ctx, name, m)
	}
	if err := r.leave(ctx, name, m.at); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if known.streams == 0 && known.at.Equal(m.at) {
		delete(r.members, name)
	}
	return nil
}

// keep makes the entry say what the group and the proxy do.
func (r *Registrar) keep(ctx context.Context, name types.NamespacedName, m member) error {
	group, err := r.groups.WorkloadGroups(name.Namespace).Get(m.proxy.Group())
	if err != nil {
		return fmt.Errorf("the proxy is of a group that cannot be read: %w", err)
	}
	want := r.entryOf(group, m)
	if want.Spec.ServiceAccount != "" && m.proxy.Account != "" && want.Spec.ServiceAccount != m.proxy.Account {
		if err := r.leave(ctx, name, m.at); err != nil { // it may have been right before
			return err
		}
		return fmt.Errorf("WorkloadGroup %s/%s is of service account %s, and the proxy has %s", group.Namespace, group.Name, want.Spec.ServiceAccount, m.proxy.Account)
	}
	entries := r.client.NetworkingV1().WorkloadEntries(name.Namespace)
	entry, err := entries.Get(ctx, name.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		entry, err = entries.Create(ctx, want, metav1.CreateOptions{})
	case err != nil:
	case entry.Annotations[GroupAnnotation] == "":
		return errors.New("there is an entry of this name that was not made for a group; remove it, or give it another name")
	case !same(entry, want):
		entry.Labels, entry.Annotations = want.Labels, want.Annotations
		want.Spec.DeepCopyInto(&entry.Spec)
		entry, err = entries.Update(ctx, entry, metav1.UpdateOptions{})
	}
	if err != nil || !m.told || !setHealth(entry, m.illness) {
		return err
	}
	_, err = entries.UpdateStatus(ctx, entry, metav1.UpdateOptions{})
	return err
}

func same(a, b *networking.WorkloadEntry) bool {
	return maps.Equal(a.Labels, b.Labels) && maps.Equal(a.Annotations, b.Annotations) && a.Spec.String() == b.Spec.String()
}

// entryOf is the group's template with what the proxy says of itself, which goes before.
func (r *Registrar) entryOf(group *networking.WorkloadGroup, m member) *networking.WorkloadEntry {
	yes := true
	out := &networking.WorkloadEntry{ObjectMeta: metav1.ObjectMeta{Namespace: group.Namespace, Name: entryName(m.proxy).Name, Labels: map[string]string{}, Annotations: map[string]string{},
		OwnerReferences: []metav1.OwnerReference{{APIVersion: "networking.istio.io/v1", Kind: "WorkloadGroup", Name: group.Name, UID: group.UID, Controller: &yes}}}}
	if group.Spec.Template != nil {
		group.Spec.Template.DeepCopyInto(&out.Spec)
	}
	for _, labels := range []map[string]string{out.Spec.Labels, group.Spec.Metadata.GetLabels(), m.proxy.Labels} {
		maps.Copy(out.Labels, labels)
	}
	out.Spec.Labels = maps.Clone(out.Labels)
	out.Spec.Address = m.proxy.Addresses[0]
	if m.proxy.Network != "" {
		out.Spec.Network = m.proxy.Network
	}
	if l := m.proxy.Locality; l.Region != "" {
		out.Spec.Locality = strings.Trim(l.Region+"/"+l.Zone+"/"+l.SubZone, "/")
	}
	maps.Copy(out.Annotations, group.Spec.Metadata.GetAnnotations())
	out.Annotations[GroupAnnotation], out.Annotations[ControllerAnnotation] = group.Name, r.instance
	out.Annotations[ConnectedAnnotation] = m.at.UTC().Format(time.RFC3339Nano)
	if m.proxy.TellsHealth || group.Spec.Probe != nil {
		out.Annotations[HealthAnnotation] = "true"
	}
	return out
}

// setHealth sets the condition, and says whether it is another one than before.
func setHealth(entry *networking.WorkloadEntry, illness string) bool {
	want := &meta.IstioCondition{Type: Healthy, Status: "True"}
	if illness != "" {
		want.Status, want.Reason, want.Message = "False", "ApplicationUnhealthy", illness
	}
	for i, c := range entry.Status.Conditions {
		if c.Type == Healthy {
			changed := c.Status != want.Status || c.Message != want.Message
			entry.Status.Conditions[i] = want
			return changed
		}
	}
	entry.Status.Conditions = append(entry.Status.Conditions, want)
	return true
}

// leave notes that the proxy is gone, unless it is another replica's by now.
func (r *Registrar) leave(ctx context.Context, name types.NamespacedName, at time.Time) error {
	entries := r.client.NetworkingV1().WorkloadEntries(name.Namespace)
	entry, err := entries.Get(ctx, name.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil || entry.Annotations[ControllerAnnotation] != r.instance {
		return err
	}
	delete(entry.Annotations, ControllerAnnotation)
	delete(entry.Annotations, ConnectedAnnotation)
	entry.Annotations[DisconnectedAnnotation] = at.UTC().Format(time.RFC3339Nano)
	_, err = entries.Update(ctx, entry, metav1.UpdateOptions{})
	return err
}
