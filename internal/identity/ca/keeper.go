package ca

import (
	"context"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
)

// Keeper has the authority that is in force. A rotation puts another in its place.
type Keeper struct {
	mu      sync.Mutex
	current *Authority
	changed chan struct{} // closed when another is in force
	refused *Authority    // what was told of already
}

// NewKeeper begins with an authority.
func NewKeeper(a *Authority) *Keeper { return &Keeper{current: a, changed: make(chan struct{})} }

// Current is the authority in force.
func (k *Keeper) Current() *Authority {
	now, _ := k.Watch()
	return now
}

// Watch is the authority in force, with what is closed when another is.
func (k *Keeper) Watch() (*Authority, <-chan struct{}) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.current, k.changed
}

// offer puts an authority in force, if that breaks nothing.
func (k *Keeper) offer(next *Authority) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if next.equal(k.current) || k.refused != nil && next.equal(k.refused) {
		return
	}
	if err := next.Follows(k.current); err != nil {
		slog.Error("authority: another one is there and is not used", "error", err)
		k.refused = next
		return
	}
	slog.Info("authority: another one is in force", "roots", len(next.roots), "until", next.certificate.NotAfter)
	k.current, k.refused = next, nil
	close(k.changed)
	k.changed = make(chan struct{})
}

// pluggedLook is how often a plugged-in authority's files are looked at: what mounts them replaces whole folders.
const pluggedLook = 5 * time.Second

// Follow keeps a Keeper in step with where the authority is kept, until the context ends.
func (s Store) Follow(ctx context.Context, keeper *Keeper) error {
	if s.Plugged() {
		return s.followFolder(ctx, keeper)
	}
	factory := informers.NewSharedInformerFactoryWithOptions(s.Kube, 0, informers.WithNamespace(s.Namespace),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector("metadata.name", SecretName).String()
		}))
	informer := factory.Core().V1().Secrets().Informer()
	take := func(object any) {
		secret, ok := object.(*corev1.Secret)
		if !ok {
			return
		}
		next, err := fromSecret(secret)
		if err != nil {
			slog.Error("authority: the Secret cannot be read", "name", SecretName, "error", err)
			return
		}
		keeper.offer(next)
	}
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: take, UpdateFunc: func(_, object any) { take(object) }}); err != nil {
		return err
	}
	factory.Start(ctx.Done())
	<-ctx.Done()
	return nil
}

func (s Store) followFolder(ctx context.Context, keeper *Keeper) error {
	told := ""
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pluggedLook):
		}
		switch next, err := loadPlugged(s.Folder); {
		case err != nil:
			if err.Error() != told {
				slog.Error("authority: the plugged-in one cannot be read; the last one goes on", "error", err)
			}
			told = err.Error()
		case next != nil:
			keeper.offer(next)
			told = ""
		}
	}
}
