// Package sds keeps the certificates that gateways name by credentialName, and gives them to proxies that may read them.
// Secrets enter by an informer, and leave only through Material: they are in no World, no View, no dump and no log.
package sds

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"time"

	authorization "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// Material is what a TLS server or client needs. For a name that ends in -cacert it has the authority only.
type Material struct{ Chain, Key, CA []byte }

// String says nothing.
func (Material) String() string { return "(certificate and key)" }

// Caller is a proxy that was authenticated.
type Caller struct{ Namespace, Account string }

// Store has the cluster's TLS secrets.
type Store struct {
	kube    kubernetes.Interface
	changed func()

	mu      sync.Mutex
	secrets map[string]map[string][]byte // by namespace/name
	allowed map[Caller]verdict
}

type verdict struct {
	ok    bool
	until time.Time
}

const (
	scheme     = "kubernetes://"
	authority  = "-cacert"
	allowedFor = 5 * time.Minute
	deniedFor  = 5 * time.Second // a role that is made later must not wait long
)

// New makes a store that calls changed when a secret is another one.
func New(kube kubernetes.Interface, changed func()) *Store {
	return &Store{kube: kube, changed: changed, secrets: map[string]map[string][]byte{}, allowed: map[Caller]verdict{}}
}

// Run follows the secrets until the context ends. Those that can hold no certificate are not asked for.
func (s *Store) Run(ctx context.Context) error {
	factory := informers.NewSharedInformerFactoryWithOptions(s.kube, 0, informers.WithTweakListOptions(func(o *metav1.ListOptions) {
		o.FieldSelector = "type!=helm.sh/release.v1,type!=kubernetes.io/service-account-token,type!=kubernetes.io/dockerconfigjson"
	}))
	informer := factory.Core().V1().Secrets().Informer()
	if err := informer.SetTransform(slim); err != nil {
		return err
	}
	handler := cache.ResourceEventHandlerFuncs{
		AddFunc: func(o any) { s.put(o, false) }, UpdateFunc: func(_, o any) { s.put(o, false) }, DeleteFunc: func(o any) { s.put(o, true) },
	}
	if _, err := informer.AddEventHandler(handler); err != nil {
		return err
	}
	factory.Start(ctx.Done())
	<-ctx.Done()
	factory.Shutdown()
	return nil
}

// keys are those that hold certificates: Istio's generic ones first, then those of kubernetes.io/tls.
var keys = []string{"cert", "key", "cacert", "tls.crt", "tls.key", "ca.crt"}

func slim(object any) (any, error) {
	secret, ok := object.(*corev1.Secret)
	if !ok {
		return object, nil
	}
	kept := map[string][]byte{}
	for _, key := range keys {
		if value := secret.Data[key]; len(value) > 0 {
			kept[key] = value
		}
	}
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: secret.Name, Namespace: secret.Namespace, ResourceVersion: secret.ResourceVersion, UID: secret.UID}, Data: kept}, nil
}

func (s *Store) put(object any, gone bool) {
	if unknown, ok := object.(cache.DeletedFinalStateUnknown); ok {
		object = unknown.Obj
	}
	secret, ok := object.(*corev1.Secret)
	if !ok {
		return
	}
	name := secret.Namespace + "/" + secret.Name
	s.mu.Lock()
	before := s.secrets[name]
	if gone || len(secret.Data) == 0 {
		delete(s.secrets, name)
	} else {
		s.secrets[name] = secret.Data
	}
	s.mu.Unlock()
	if !maps.EqualFunc(before, secret.Data, bytes.Equal) || gone {
		s.changed()
	}
}

// Material returns what a name such as kubernetes://NAME stands for, to a caller of the same namespace that may list secrets
// there; false where there is none, or none for this caller. What cannot be used is logged, by name only.
func (s *Store) Material(ctx context.Context, caller Caller, name string) (Material, bool) {
	name, ok := strings.CutPrefix(name, scheme)
	if !ok {
		return Material{}, false
	}
	if namespace, own, qualified := strings.Cut(name, "/"); qualified {
		if namespace != caller.Namespace {
			slog.Warn("SDS: a secret of another namespace is refused", "secret", name, "namespace", caller.Namespace)
			return Material{}, false
		}
		name = own
	}
	if !s.mayRead(ctx, caller) {
		return Material{}, false
	}
	base, forAuthority := strings.CutSuffix(name, authority)
	found := s.read(caller.Namespace, name)
	if forAuthority {
		if len(found.CA) == 0 {
			found = s.read(caller.Namespace, base)
		}
		return Material{CA: found.CA}, len(found.CA) > 0
	}
	if len(found.Chain) == 0 {
		return Material{}, false
	}
	if _, err := tls.X509KeyPair(found.Chain, found.Key); err != nil {
		slog.Error("SDS: a secret cannot be used", "secret", caller.Namespace+"/"+name, "error", err)
		return Material{}, false
	}
	return Material{Chain: found.Chain, Key: found.Key}, true
}

func (s *Store) read(namespace, name string) Material {
	s.mu.Lock()
	data := s.secrets[namespace+"/"+name]
	s.mu.Unlock()
	first := func(keys ...string) []byte {
		for _, key := range keys {
			if len(data[key]) > 0 {
				return data[key]
			}
		}
		return nil
	}
	return Material{Chain: first("cert", "tls.crt"), Key: first("key", "tls.key"), CA: first("cacert", "ca.crt")}
}

// mayRead asks the API server whether the caller's service account may list secrets, and remembers the answer for a while.
func (s *Store) mayRead(ctx context.Context, caller Caller) bool {
	now := time.Now()
	s.mu.Lock()
	known, ok := s.allowed[caller]
	s.mu.Unlock()
	if ok && now.Before(known.until) {
		return known.ok
	}
	review := &authorization.SubjectAccessReview{Spec: authorization.SubjectAccessReviewSpec{
		User: fmt.Sprintf("system:serviceaccount:%s:%s", caller.Namespace, caller.Account), Groups: []string{"system:serviceaccounts", "system:serviceaccounts:" + caller.Namespace},
		ResourceAttributes: &authorization.ResourceAttributes{Namespace: caller.Namespace, Verb: "list", Resource: "secrets"},
	}}
	answer, err := s.kube.AuthorizationV1().SubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
	if err != nil {
		slog.Warn("SDS: cannot ask who may read secrets", "account", caller.Account, "namespace", caller.Namespace, "error", err)
		return false
	}
	denied := ok && !known.ok // before as well
	known = verdict{answer.Status.Allowed, now.Add(deniedFor)}
	if known.ok {
		known.until = now.Add(allowedFor)
	} else {
		time.AfterFunc(deniedFor, s.changed) // who was refused asks again
	}
	if !known.ok && !denied {
		slog.Warn("SDS: a gateway may not read secrets; its service account needs a role to list them", "account", caller.Account, "namespace", caller.Namespace)
	}
	s.mu.Lock()
	s.allowed[caller] = known
	s.mu.Unlock()
	return known.ok
}
