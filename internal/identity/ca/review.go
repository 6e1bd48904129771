package ca

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/slipway-mesh/slipway/internal/identity"
)

// Reviewer authenticates callers by their service account's token.
type Reviewer struct {
	// Alive says whether a pod is known to be there still. What was answered of the token of one that is not, is asked again. Nil is always.
	Alive func(namespace, name, uid string) bool

	kube        kubernetes.Interface
	trustDomain string

	mu   sync.Mutex
	seen map[[32]byte]reviewed
}

type reviewed struct {
	id       identity.ID
	pod, uid string // that the token is bound to; empty where it is to none
	until    time.Time
}

// reviewLifetime is how long an answer is used again, so that a storm of reconnects is not one of TokenReviews.
const reviewLifetime = 30 * time.Second

// NewReviewer asks the cluster's API server.
func NewReviewer(kube kubernetes.Interface, trustDomain string) *Reviewer {
	return &Reviewer{kube: kube, trustDomain: trustDomain, seen: map[[32]byte]reviewed{}}
}

// Review asks whose token it is.
func (r *Reviewer) Review(ctx context.Context, token string) (identity.ID, error) {
	key := sha256.Sum256([]byte(token))
	now := time.Now()
	r.mu.Lock()
	known, ok := r.seen[key]
	r.mu.Unlock()
	if ok && now.Before(known.until) && (known.pod == "" || r.Alive == nil || r.Alive(known.id.Namespace, known.pod, known.uid)) {
		return known.id, nil
	}
	review := &authv1.TokenReview{Spec: authv1.TokenReviewSpec{Token: token, Audiences: []string{identity.Audience}}}
	review, err := r.kube.AuthenticationV1().TokenReviews().Create(ctx, review, metav1.CreateOptions{})
	if err != nil {
		return identity.ID{}, fmt.Errorf("review the token: %w", err)
	}
	id, err := r.identityOf(&review.Status)
	if err != nil {
		return identity.ID{}, err
	}
	extra := func(name string) string {
		return strings.Join(review.Status.User.Extra["authentication.kubernetes.io/"+name], "")
	}
	r.remember(key, reviewed{id: id, pod: extra("pod-name"), uid: extra("pod-uid"), until: now.Add(reviewLifetime)}, now)
	return id, nil
}

func (r *Reviewer) remember(key [32]byte, answer reviewed, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for k, old := range r.seen {
		if now.After(old.until) {
			delete(r.seen, k)
		}
	}
	r.seen[key] = answer
}

func (r *Reviewer) identityOf(status *authv1.TokenReviewStatus) (identity.ID, error) {
	if !status.Authenticated {
		return identity.ID{}, errors.New("the token is not valid")
	}
	if !slices.Contains(status.Audiences, identity.Audience) {
		return identity.ID{}, errors.New("the token is for another audience")
	}
	if !slices.Contains(status.User.Groups, "system:serviceaccounts") {
		return identity.ID{}, errors.New("the token is not a service account's")
	}
	parts := strings.Split(status.User.Username, ":")
	if len(parts) != 4 || parts[0] != "system" || parts[1] != "serviceaccount" {
		return identity.ID{}, fmt.Errorf("the token's user %q is not a service account", status.User.Username)
	}
	return identity.ID{TrustDomain: r.trustDomain, Namespace: parts[2], Account: parts[3]}, nil
}
