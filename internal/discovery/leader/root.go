// Package leader is what one replica of the control plane does for all: it keeps the root certificate where pods read it,
// and the webhook configurations in step with what answers them.
package leader

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

const (
	rootName  = "istio-ca-root-cert"
	rootKey   = "root-cert.pem"
	rootLabel = "istio.io/config"
)

// noRoot are the namespaces that get no root certificate: nothing that needs one runs there.
var noRoot = []string{"kube-public", "kube-node-lease", "local-path-storage"}

// retry is how soon what failed is tried again.
const retry = 2 * time.Second

// Bundle is the roots that are trusted now, in PEM, with what is closed when they are others.
type Bundle func() (pem []byte, changed <-chan struct{})

// KeepRoots puts the root certificates into a ConfigMap of every namespace, and keeps them there until the context ends.
func KeepRoots(ctx context.Context, kube kubernetes.Interface, bundle Bundle) error {
	all := informers.NewSharedInformerFactory(kube, 0)
	ours := informers.NewSharedInformerFactoryWithOptions(kube, 0, informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.LabelSelector = rootLabel + "=true" }))
	namespaces, configMaps := all.Core().V1().Namespaces(), ours.Core().V1().ConfigMaps()
	wake := make(chan struct{}, 1)
	poke := func(any) {
		select {
		case wake <- struct{}{}:
		default:
		}
	}
	handler := cache.ResourceEventHandlerFuncs{AddFunc: poke, UpdateFunc: func(_, o any) { poke(o) }, DeleteFunc: poke}
	for _, informer := range []cache.SharedIndexInformer{namespaces.Informer(), configMaps.Informer()} {
		if _, err := informer.AddEventHandler(handler); err != nil {
			return err
		}
	}
	all.Start(ctx.Done())
	ours.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), namespaces.Informer().HasSynced, configMaps.Informer().HasSynced) {
		return ctx.Err()
	}
	root, changed := bundle()
	poke(nil)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
			root, changed = bundle()
		case <-wake:
		}
		want := map[string]string{rootKey: string(root)}
		list, err := namespaces.Lister().List(labels.Everything())
		if err != nil {
			return err
		}
		for _, namespace := range list {
			if namespace.Status.Phase == corev1.NamespaceTerminating || slices.Contains(noRoot, namespace.Name) {
				continue
			}
			there, err := configMaps.Lister().ConfigMaps(namespace.Name).Get(rootName)
			if err == nil && maps.Equal(there.Data, want) {
				continue
			}
			if err := putRoot(ctx, kube, namespace.Name, want); err != nil {
				slog.Warn("root certificate: cannot write", "namespace", namespace.Name, "error", err)
				time.AfterFunc(retry, func() { poke(nil) })
			}
		}
	}
}

func putRoot(ctx context.Context, kube kubernetes.Interface, namespace string, data map[string]string) error {
	configMap := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: rootName, Namespace: namespace, Labels: map[string]string{rootLabel: "true"}}, Data: data}
	_, err := kube.CoreV1().ConfigMaps(namespace).Create(ctx, configMap, metav1.CreateOptions{})
	if !apierrors.IsAlreadyExists(err) {
		return err
	}
	if _, err = kube.CoreV1().ConfigMaps(namespace).Update(ctx, configMap, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("update: %w", err)
	}
	return nil
}
