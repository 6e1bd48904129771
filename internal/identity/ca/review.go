package identity

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
)

// Audience is what tokens must be for.
const Audience = "istio-ca"

// Reviewer authenticates callers by their service account's token.
type Reviewer struct {
	kube        kubernetes.Interface
	trustDomain string

	mu   sync.Mutex
	seen map[[32]byte]reviewed
}

type reviewed struct {
	id    ID
	until time.Time
}

// reviewLifetime is how long an answer is used again, so that a storm of reconnects is not one of TokenReviews.
const reviewLifetime = 30 * time.Second

// NewReviewer asks the cluster's API server.
func NewReviewer(kube kubernetes.Interface, trustDomain string) *Reviewer {
	return &Reviewer{kube: kube, trustDomain: trustDomain, seen: map[[32]byte]reviewed{}}
}

// Review asks whose token it is.
func (r *Reviewer) Review(ctx context.Context, token string) (ID, error) {
	key := sha256.Sum256([]byte(token))
	now := time.Now()
	r.mu.Lock()
	known, ok := r.seen[key]
	r.mu.Unlock()
	if ok && now.Before(known.until) {
		return known.id, nil
	}
	review := &authv1.TokenReview{Spec: authv1.TokenReviewSpec{Token: token, Audiences: []string{Audience}}}
	review, err := r.kube.AuthenticationV1().TokenReviews().Create(ctx, review, metav1.CreateOptions{})
	if err != nil {
		return ID{}, fmt.Errorf("review the token: %w", err)
	}
	id, err := r.identityOf(&review.Status)
	if err != nil {
		return ID{}, err
	}
	r.remember(key, reviewed{id, now.Add(reviewLifetime)}, now)
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

func (r *Reviewer) identityOf(status *authv1.TokenReviewStatus) (ID, error) {
	if !status.Authenticated {
		return ID{}, errors.New("the token is not valid")
	}
	if !slices.Contains(status.Audiences, Audience) {
		return ID{}, errors.New("the token is for another audience")
	}
	if !slices.Contains(status.User.Groups, "system:serviceaccounts") {
		return ID{}, errors.New("the token is not a service account's")
	}
	parts := strings.Split(status.User.Username, ":")
	if len(parts) != 4 || parts[0] != "system" || parts[1] != "serviceaccount" {
		return ID{}, fmt.Errorf("the token's user %q is not a service account", status.User.Username)
	}
	return ID{r.trustDomain, parts[2], parts[3]}, nil
}
