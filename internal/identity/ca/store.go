package identity

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

// secretName is Istio's name of the self-signed authority's Secret.
const secretName = "istio-ca-secret"

// LoadOrCreate finds the authority: plugged in under dir (the Secret cacerts mounted; "" is nowhere), or stored in the namespace's
// Secret, or made now and stored there. Of two replicas that make one at once, the later reads the earlier's.
func LoadOrCreate(ctx context.Context, kube kubernetes.Interface, namespace, trustDomain, dir string) (*Authority, error) {
	if dir != "" {
		if plugged, err := loadPlugged(dir); plugged != nil || err != nil {
			return plugged, err
		}
	}
	secrets := kube.CoreV1().Secrets(namespace)
	for range 5 {
		secret, err := secrets.Get(ctx, secretName, metav1.GetOptions{})
		if err == nil {
			return LoadAuthority(secret.Data["ca-cert.pem"], secret.Data["ca-key.pem"], secret.Data["cert-chain.pem"], secret.Data["root-cert.pem"])
		}
		if !apierrors.IsNotFound(err) {
			return nil, fmt.Errorf("read %s/%s: %w", namespace, secretName, err)
		}
		made, err := NewRoot(trustDomain, time.Now())
		if err != nil {
			return nil, err
		}
		key, err := made.KeyPEM()
		if err != nil {
			return nil, err
		}
		secret = &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: secretName, Namespace: namespace}, Type: "istio.io/ca-root",
			Data: map[string][]byte{"ca-cert.pem": made.CertificatePEM(), "ca-key.pem": key, "cert-chain.pem": nil, "root-cert.pem": made.RootPEM()}}
		_, err = secrets.Create(ctx, secret, metav1.CreateOptions{})
		if err == nil {
			return made, nil
		}
		if !apierrors.IsAlreadyExists(err) {
			return nil, fmt.Errorf("store %s/%s: %w", namespace, secretName, err)
		}
	}
	return nil, errors.New("the authority's Secret is made and deleted over and over")
}

// loadPlugged reads a plugged-in authority, by Istio's file names or by cert-manager's. None is nil; half of one is an
// error: signing with another root would cut the mesh in two.
func loadPlugged(dir string) (*Authority, error) {
	for _, names := range [][4]string{{"ca-cert.pem", "ca-key.pem", "cert-chain.pem", "root-cert.pem"}, {"tls.crt", "tls.key", "", "ca.crt"}} {
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
		return LoadAuthority(texts[0], texts[1], texts[2], texts[3])
	}
	return nil, nil
}
