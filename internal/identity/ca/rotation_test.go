package ca

import (
	"bytes"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

func secretOf(t *testing.T, a *Authority) *corev1.Secret {
	t.Helper()
	secret := &corev1.Secret{Data: map[string][]byte{}}
	if err := put(secret, certKey, keyKey, a); err != nil {
		t.Fatal(err)
	}
	secret.Data[rootKey] = a.RootPEM()
	return secret
}

// TestRotation: a root is replaced in phases, each when all have followed the one before, and no phase breaks the next.
func TestRotation(t *testing.T) {
	now := time.Now()
	first, err := NewRoot("cluster.local", now)
	if err != nil {
		t.Fatal(err)
	}
	secret := secretOf(t, first)
	for _, all := range []bool{true, false} {
		if next, err := step(secret, "cluster.local", now, func(time.Time) bool { return all }); err != nil || next != nil {
			t.Fatalf("nobody asks for a rotation: %v %v", next, err)
		}
	}
	secret.Annotations = map[string]string{RotateAnnotation: "now"}
	last := first
	for _, c := range []struct {
		phase          Phase
		roots          int
		signs, trusted *Authority
	}{{phase: Distribute, roots: 2, signs: first}, {phase: Sign, roots: 2}, {phase: Settled, roots: 1}} {
		if phase, _ := PhaseOf(secret); phase != Settled {
			if next, err := step(secret, "cluster.local", now, func(time.Time) bool { return false }); err != nil || next != nil {
				t.Fatalf("before %s: goes on though somebody has not followed: %v", c.phase, err)
			}
		}
		next, err := step(secret, "cluster.local", now.Add(time.Minute), func(time.Time) bool { return true })
		if err != nil || next == nil {
			t.Fatalf("to %q: %v %v", c.phase, next, err)
		}
		phase, since := PhaseOf(next)
		authority, err := fromSecret(next)
		if err != nil || phase != c.phase || !since.Equal(now.Add(time.Minute)) || len(authority.roots) != c.roots {
			t.Fatalf("to %q: %q since %s, %d roots, %v", c.phase, phase, since, len(authority.roots), err)
		}
		if c.signs != nil && !authority.certificate.Equal(c.signs.certificate) {
			t.Errorf("%s: signs by another authority", c.phase)
		}
		if err := authority.Follows(last); err != nil {
			t.Errorf("%s: %v", c.phase, err)
		}
		secret, last = next, authority
	}
	if last.certificate.Equal(first.certificate) || len(secret.Data[nextKeyKey]) > 0 || bytes.Contains(secret.Data[rootKey], first.RootPEM()) {
		t.Error("the old root is still there")
	}
	if next, err := step(secret, "cluster.local", now, func(time.Time) bool { return true }); err != nil || next != nil {
		t.Errorf("one request rotates twice: %v", err)
	}
	if next, err := step(secret, "cluster.local", now.Add(RootLifetime*9/10), nil); err != nil || next == nil {
		t.Errorf("a root that ends soon is kept: %v", err)
	}
}

// TestDue: a phase lasts until it, and the replica that leads, have been there for a while.
func TestDue(t *testing.T) {
	now := time.Now()
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	for _, c := range []struct {
		phase      Phase
		since, led time.Duration
		want       bool
	}{{Settled, 0, 0, true}, {Distribute, time.Minute, time.Hour, false}, {Distribute, time.Hour, time.Minute, false}, {Sign, time.Hour, 2 * time.Minute, true}} {
		secret := &corev1.Secret{}
		secret.Annotations = map[string]string{phaseAnnotation: string(c.phase), sinceAnnotation: ago(c.since).UTC().Format(time.RFC3339Nano)}
		if got := (Rotation{Settle: 2 * time.Minute, led: ago(c.led)}).due(secret, now); got != c.want {
			t.Errorf("%q for %s, led for %s: due %t", c.phase, c.since, c.led, got)
		}
	}
}

// TestOffer: an authority that would cut the mesh in two is not put in force.
func TestOffer(t *testing.T) {
	made := func() *Authority {
		a, err := NewRoot("cluster.local", time.Now())
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	load := func(signs *Authority, roots ...*Authority) *Authority {
		var text []byte
		for _, root := range roots {
			text = append(text, root.RootPEM()...)
		}
		key, err := signs.KeyPEM()
		if err != nil {
			t.Fatal(err)
		}
		a, err := LoadAuthority(signs.CertificatePEM(), key, nil, text)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	a, b := made(), made()
	keeper := NewKeeper(a)
	for name, c := range map[string]*Authority{"another root": b, "another root that trusts the old": load(b, b, a)} {
		if keeper.offer(c); keeper.Current() != a {
			t.Errorf("%s is in force", name)
		}
	}
	for _, next := range []*Authority{load(a, a, b), load(b, a, b), load(b, b)} {
		_, changed := keeper.Watch()
		keeper.offer(next)
		select {
		case <-changed:
		default:
			t.Error("nobody is told of another authority")
		}
		if keeper.Current() != next || !next.roots[0].Equal(next.certificate) {
			t.Error("a step is not in force, or its own root is not first")
		}
	}
	if keeper.offer(load(b, b, a)); len(keeper.Current().roots) != 2 {
		t.Error("an old root cannot be trusted again")
	}
}
