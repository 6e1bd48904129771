// Package source watches a cluster's objects, and hands on what changed in batches. Objects enter by informers, Changes
// leave. It must not know what an object means.
package source

import (
	"context"
	"fmt"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/tools/cache"
)

// Change is one object that is new, changed or gone.
type Change struct {
	Kind            string // such as Service
	Namespace, Name string
	Object          any // nil when it is gone
}

// Key names an object.
type Key struct{ Kind, Namespace, Name string }

// Key is that of the object that changed.
func (c Change) Key() Key { return Key{c.Kind, c.Namespace, c.Name} }

// Source watches one cluster.
type Source struct {
	informers []kindInformer
	queue     *Queue
	selection selection
}

type kindInformer struct {
	kind     string
	informer cache.SharedIndexInformer
	keep     func(labels.Labels) bool
}

// changeOf is the change that leads to an object's being as it is.
func (k kindInformer) changeOf(object metav1.Object, gone bool) Change {
	change := Change{Kind: k.kind, Namespace: object.GetNamespace(), Name: object.GetName()}
	if !gone && k.keep(labels.Set(object.GetLabels())) {
		change.Object = object
	}
	return change
}

// Run watches until the context ends. Changes go to the queue, which never blocks.
func (s *Source) Run(ctx context.Context) {
	var group sync.WaitGroup
	for _, k := range s.informers {
		group.Go(func() { k.informer.RunWithContext(ctx) })
	}
	group.Wait()
}

// Synced waits until everything that is in the cluster has been queued.
func (s *Source) Synced(ctx context.Context) error {
	for _, k := range s.informers {
		if !cache.WaitForCacheSync(ctx.Done(), k.informer.HasSynced) {
			return fmt.Errorf("read all objects of kind %s: %w", k.kind, ctx.Err())
		}
	}
	return nil
}

// add registers an informer. keep says which objects are taken; slim drops what nobody reads.
func (s *Source) add(kind string, informer cache.SharedIndexInformer, keep func(labels.Labels) bool, slim func(any)) error {
	if err := informer.SetTransform(func(object any) (any, error) {
		if accessor, err := meta.Accessor(object); err == nil {
			accessor.SetManagedFields(nil)
		}
		if slim != nil {
			slim(object)
		}
		return typed(kind)(object)
	}); err != nil {
		return err
	}
	k := kindInformer{kind, informer, keep}
	tell := func(object any, gone bool) {
		if unknown, ok := object.(cache.DeletedFinalStateUnknown); ok {
			object = unknown.Obj
		}
		accessor, err := meta.Accessor(object)
		if err != nil {
			return // no object has ever come here that is none
		}
		s.queue.Add(k.changeOf(accessor, gone))
	}
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { tell(object, false) },
		UpdateFunc: func(_, object any) { tell(object, false) },
		DeleteFunc: func(object any) { tell(object, true) },
	})
	s.informers = append(s.informers, k)
	return err
}

// Queue holds what changed until it is taken. A later change of an object replaces an earlier one.
type Queue struct {
	mu      sync.Mutex
	pending map[Key]Change
	order   []Key
	ready   chan struct{}
}

// NewQueue is an empty queue.
func NewQueue() *Queue {
	return &Queue{pending: map[Key]Change{}, ready: make(chan struct{}, 1)}
}

// Add puts a change in and returns at once.
func (q *Queue) Add(change Change) {
	key := change.Key()
	q.mu.Lock()
	if _, there := q.pending[key]; !there {
		q.order = append(q.order, key)
	}
	q.pending[key] = change
	q.mu.Unlock()
	select {
	case q.ready <- struct{}{}:
	default:
	}
}

// Ready tells when there may be something to take.
func (q *Queue) Ready() <-chan struct{} { return q.ready }

// Take returns all that is pending, in the order in which each object first changed.
func (q *Queue) Take() []Change {
	q.mu.Lock()
	defer q.mu.Unlock()
	changes := make([]Change, 0, len(q.order))
	for _, key := range q.order {
		changes = append(changes, q.pending[key])
	}
	q.pending, q.order = map[Key]Change{}, nil
	return changes
}

// resync is off: an informer's relisting tells what was missed.
const resync = time.Duration(0)
