package ca

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A root is replaced in phases, which the Secret tells: first all are to trust the new one beside the old, then it signs and
// certificates of the old one are renewed, and last the old one is trusted no more. Each begins when every proxy has followed
// the one before. What is plugged in is replaced by whoever plugged it in, in the same phases.

// Phase is how far a rotation is.
type Phase string

// The phases.
const (
	Settled    Phase = "" // there is no rotation
	Distribute Phase = "Distribute"
	Sign       Phase = "Sign"
)

// The Secret's annotations.
const (
	// RotateAnnotation asks for another root when its value is another than that of the last rotation.
	RotateAnnotation = "ca.slipway-mesh/rotate"

	rotatedAnnotation = "ca.slipway-mesh/rotated"
	phaseAnnotation   = "ca.slipway-mesh/phase"
	sinceAnnotation   = "ca.slipway-mesh/phase-since"
)

// The keys of the root that signs next.
const nextCertKey, nextKeyKey = "next-cert.pem", "next-key.pem"

// rotateAt is the part of a root's life after which it is replaced without being asked to.
const rotateAt = 0.8

// Rotation moves the rotations of a self-signed root on.
type Rotation struct {
	Store  Store
	Keeper *Keeper
	// Settle is how long each phase lasts at least: files that are mounted into pods follow in their own time.
	Settle time.Duration
	// Followed says whether all proxies that are connected have followed the authority.
	Followed func(context.Context, *Authority) bool

	led time.Time // since when this replica has led
}

// Run looks again and again until the context ends. Several may run: the API server takes the step of one.
func (r Rotation) Run(ctx context.Context) {
	if r.Store.Plugged() {
		return
	}
	r.led = time.Now()
	period := min(10*time.Second, max(r.Settle/4, 100*time.Millisecond))
	for {
		if err := r.look(ctx); err != nil && ctx.Err() == nil {
			slog.Error("authority: the rotation does not go on", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(period):
		}
	}
}

func (r Rotation) look(ctx context.Context) error {
	secrets := r.Store.Kube.CoreV1().Secrets(r.Store.Namespace)
	secret, err := secrets.Get(ctx, SecretName, metav1.GetOptions{})
	if err != nil {
		return err
	}
	now := time.Now()
	if !r.due(secret, now) {
		return nil
	}
	next, err := step(secret, r.Store.TrustDomain, now, func(since time.Time) bool {
		// Who does not follow what is told, or is not connected, has a new certificate and with it the roots when the last one ended.
		return r.holds(ctx, secret) || now.Sub(since) > DefaultLifetime
	})
	if err != nil || next == nil {
		return err
	}
	if _, err = secrets.Update(ctx, next, metav1.UpdateOptions{}); apierrors.IsConflict(err) {
		return nil // another replica was first
	}
	phase, _ := PhaseOf(next)
	slog.Info("authority: rotation", "phase", phase)
	return err
}

// due says whether a phase has lasted long enough. Those who had not followed before this replica began to lead may not be connected again yet,
// and nobody would be waited for.
func (r Rotation) due(secret *corev1.Secret, now time.Time) bool {
	phase, since := PhaseOf(secret)
	return phase == Settled || now.Sub(since) >= r.Settle && now.Sub(r.led) >= r.Settle
}

// holds says whether what the Secret says is in force here, and all proxies have followed it.
func (r Rotation) holds(ctx context.Context, secret *corev1.Secret) bool {
	stored, err := fromSecret(secret)
	current := r.Keeper.Current()
	return err == nil && stored.equal(current) && r.Followed(ctx, current)
}

// PhaseOf reads how far the rotation of a Secret's root is, and since when.
func PhaseOf(secret *corev1.Secret) (Phase, time.Time) {
	since, err := time.Parse(time.RFC3339Nano, secret.Annotations[sinceAnnotation])
	if err != nil {
		since = secret.CreationTimestamp.Time
	}
	return Phase(secret.Annotations[phaseAnnotation]), since
}

// step returns what the Secret is to be next; nil if it stays as it is.
func step(secret *corev1.Secret, trustDomain string, now time.Time, followed func(since time.Time) bool) (*corev1.Secret, error) {
	authority, err := fromSecret(secret)
	if err != nil {
		return nil, err
	}
	phase, since := PhaseOf(secret)
	next := secret.DeepCopy()
	if next.Annotations == nil {
		next.Annotations = map[string]string{}
	}
	switch phase {
	case Settled:
		if !asked(secret, authority, now) {
			return nil, nil
		}
		made, err := NewRoot(trustDomain, now)
		if err != nil {
			return nil, err
		}
		if err := put(next, nextCertKey, nextKeyKey, made); err != nil {
			return nil, err
		}
		next.Data[rootKey] = append(authority.RootPEM(), made.RootPEM()...)
		next.Annotations[phaseAnnotation], next.Annotations[rotatedAnnotation] = string(Distribute), secret.Annotations[RotateAnnotation]
	case Distribute:
		if !followed(since) {
			return nil, nil
		}
		if len(next.Data[nextCertKey]) == 0 {
			return nil, fmt.Errorf("%s has no %s, though its rotation says %s", SecretName, nextCertKey, phase)
		}
		next.Data[certKey], next.Data[keyKey], next.Data[chainKey] = next.Data[nextCertKey], next.Data[nextKeyKey], nil
		delete(next.Data, nextCertKey)
		delete(next.Data, nextKeyKey)
		next.Annotations[phaseAnnotation] = string(Sign)
	case Sign:
		if !followed(since) {
			return nil, nil
		}
		next.Data[rootKey] = bytes.Clone(next.Data[certKey])
		delete(next.Annotations, phaseAnnotation)
	default:
		return nil, fmt.Errorf("%s is in phase %q, which this version does not know", SecretName, phase)
	}
	next.Annotations[sinceAnnotation] = now.UTC().Format(time.RFC3339Nano)
	return next, nil
}

// asked says whether another root is due: somebody asks for it, or the one that is there has lived long.
func asked(secret *corev1.Secret, a *Authority, now time.Time) bool {
	if secret.Annotations[RotateAnnotation] != secret.Annotations[rotatedAnnotation] {
		return true
	}
	root := a.roots[0]
	life := root.NotAfter.Sub(root.NotBefore)
	return now.After(root.NotBefore.Add(time.Duration(float64(life) * rotateAt)))
}
