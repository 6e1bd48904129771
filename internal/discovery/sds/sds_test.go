package sds

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"

	"github.com/slipway-mesh/slipway/test/kubetest"
)

// pair makes a certificate of its own and its key, as PEM indented for YAML.
func pair(t *testing.T) (chain, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1)}, &x509.Certificate{SerialNumber: big.NewInt(1)}, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	bytes, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	indented := func(kind string, der []byte) string {
		return strings.ReplaceAll(string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})), "\n", "\n    ")
	}
	return indented("CERTIFICATE", der), indented("EC PRIVATE KEY", bytes)
}

// TestWhoGetsWhat: only a service account that may list the secrets of its own namespace gets them, and only what can be used.
func TestWhoGetsWhat(t *testing.T) {
	server := kubetest.Start(t)
	chain, key := pair(t)
	_, otherKey := pair(t)
	secret := func(name, namespace, chain, key, more string) string {
		return fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: %s, namespace: %s}\nstringData:\n  tls.crt: |\n    %s\n  tls.key: |\n    %s\n%s---\n", name, namespace, chain, key, more)
	}
	server.Apply(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: other}\n---\n"+
		secret("good", "default", chain, key, "  ca.crt: authority\n")+secret("good", "other", chain, key, "")+secret("mixed", "default", chain, otherKey, "")+
		"apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: sds}\nrules: [{apiGroups: [\"\"], resources: [secrets], verbs: [list]}]\n---\n"+
		"apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {name: sds}\nroleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: sds}\nsubjects: [{kind: ServiceAccount, name: gateway, namespace: default}]\n")
	kube, err := kubernetes.NewForConfig(server.Config)
	if err != nil {
		t.Fatal(err)
	}
	changed := make(chan struct{}, 100)
	store := New(kube, func() { changed <- struct{}{} })
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- store.Run(ctx) }()
	t.Cleanup(func() { stop(); <-ended })
	gateway := Caller{"default", "gateway"}
	kubetest.Eventually(t, 30*time.Second, func() error {
		if _, ok := store.Material(ctx, gateway, "kubernetes://good"); !ok {
			return fmt.Errorf("not there yet")
		}
		return nil
	})
	for _, c := range []struct {
		name   string
		caller Caller
		secret string
		want   bool
	}{
		{"its own", gateway, "kubernetes://good", true},
		{"its own, by namespace", gateway, "kubernetes://default/good", true},
		{"the authority of it", gateway, "kubernetes://good-cacert", true},
		{"an authority that is not there", gateway, "kubernetes://mixed-cacert", false},
		{"another namespace's", gateway, "kubernetes://other/good", false},
		{"a key of another certificate", gateway, "kubernetes://mixed", false},
		{"none", gateway, "kubernetes://none", false},
		{"another scheme", gateway, "file://good", false},
		{"an account without the role", Caller{"default", "app"}, "kubernetes://good", false},
		{"the role of another namespace", Caller{"other", "gateway"}, "kubernetes://good", false},
	} {
		material, ok := store.Material(ctx, c.caller, c.secret)
		if ok != c.want {
			t.Errorf("%s: %t", c.name, ok)
		}
		if text := fmt.Sprintf("%v %+v %s", material, material, material); strings.Contains(text, "PRIVATE") || len(text) > 100 {
			t.Errorf("%s: printing it says %s", c.name, text)
		}
	}
	if authority, _ := store.Material(ctx, gateway, "kubernetes://good-cacert"); len(authority.Key)+len(authority.Chain) > 0 {
		t.Error("a request for the authority is given the key")
	}
	if len(changed) == 0 {
		t.Error("nobody was told of the secrets")
	}
}
