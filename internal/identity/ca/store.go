package ca

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// SecretName is Istio's name of the self-signed authority's Secret.
const SecretName = "istio-ca-secret"

// The keys of the Secret, and the files of a plugged-in authority.
const certKey, keyKey, chainKey, rootKey = "ca-cert.pem", "ca-key.pem", "cert-chain.pem", "root-cert.pem"

// Store is where the authority is kept: plugged in under Folder (the Secret cacerts mounted; "" is nowhere), or else in a Secret
// of the namespace.
type Store struct {
	Kube        kubernetes.Interface
	Namespace   string
	TrustDomain string
	Folder      string
}

// Plugged says whether the authority is plugged in, and is not this control plane's own to replace.
func (s Store) Plugged() bool {
	plugged, err := loadPlugged(s.Folder)
	return plugged != nil || err != nil
}

// Load finds the authority, or makes one now and stores it. Of two replicas that make one at once, the later reads the
// earlier's.
func (s Store) Load(ctx context.Context) (*Authority, error) {
	if plugged, err := loadPlugged(s.Folder); plugged != nil || err != nil {
		return plugged, err
	}
	secrets := s.Kube.CoreV1().Secrets(s.Namespace)
	for range 5 {
		secret, err := secrets.Get(ctx, SecretName, metav1.GetOptions{})
		if err == nil {
			return fromSecret(secret)
		}
		if !apierrors.IsNotFound(err) {
			return nil, fmt.Errorf("read %s/%s: %w", s.Namespace, SecretName, err)
		}
		made, err := NewRoot(s.TrustDomain, time.Now())
		if err != nil {
			return nil, err
		}
		secret = &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: SecretName, Namespace: s.Namespace}, Type: "istio.io/ca-root", Data: map[string][]byte{chainKey: nil}}
		if err := put(secret, certKey, keyKey, made); err != nil {
			return nil, err
		}
		secret.Data[rootKey] = made.RootPEM()
		_, err = secrets.Create(ctx, secret, metav1.CreateOptions{})
		if err == nil {
			return made, nil
		}
		if !apierrors.IsAlreadyExists(err) {
			return nil, fmt.Errorf("store %s/%s: %w", s.Namespace, SecretName, err)
		}
	}
	return nil, errors.New("the authority's Secret is made and deleted over and over")
}

func fromSecret(secret *corev1.Secret) (*Authority, error) {
	return LoadAuthority(secret.Data[certKey], secret.Data[keyKey], secret.Data[chainKey], secret.Data[rootKey])
}

// put writes an authority's certificate and key into a Secret.
func put(secret *corev1.Secret, certificate, key string, a *Authority) error {
	private, err := a.KeyPEM()
	if err != nil {
		return err
	}
	secret.Data[certificate], secret.Data[key] = a.CertificatePEM(), private
	return nil
}

// loadPlugged reads a plugged-in authority, by Istio's file names or by cert-manager's. None is nil; half of one is an
// error: signing with another root would cut the mesh in two.
func loadPlugged(dir string) (*Authority, error) {
	if dir == "" {
		return nil, nil
	}
	for _, names := range [][4]string{{certKey, keyKey, chainKey, rootKey}, {"tls.crt", "tls.key", "", "ca.crt"}} {
		var texts [4][]byte
		found := 0
		for i, name := range names {
			if name == "" {
				continue
			}
			text, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil && !os.IsNotExist(err) {
				return nil, err
			}
			if err == nil {
				found++
			}
			texts[i] = text
		}
		if found == 0 {
			continue
		}
		if texts[0] == nil || texts[1] == nil || texts[3] == nil {
			return nil, fmt.Errorf("the plugged-in authority in %s is not complete: %s, %s and %s are needed", dir, names[0], names[1], names[3])
		}
		plugged, err := LoadAuthority(texts[0], texts[1], texts[2], texts[3])
		if err != nil {
			return nil, fmt.Errorf("the plugged-in authority in %s: %w", dir, err)
		}
		return plugged, nil
	}
	return nil, nil
}
