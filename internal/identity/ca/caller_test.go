package ca

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/http/httptest"
	"testing"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	kubetesting "k8s.io/client-go/testing"

	"github.com/slipway-mesh/slipway/internal/identity"
)

func account(trustDomain, namespace, name string) identity.ID {
	return identity.ID{TrustDomain: trustDomain, Namespace: namespace, Account: name}
}

// TestCallers: a caller is who its token says, or else who its certificate of this mesh says.
func TestCallers(t *testing.T) {
	now := time.Now()
	authority, err := NewRoot("cluster.local", now)
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := NewRoot("cluster.local", now)
	if err != nil {
		t.Fatal(err)
	}
	kube := fake.NewClientset()
	kube.PrependReactor("create", "tokenreviews", func(action kubetesting.Action) (bool, runtime.Object, error) {
		review := action.(kubetesting.CreateAction).GetObject().(*authv1.TokenReview).DeepCopy()
		if review.Spec.Token == "good" {
			review.Status = authv1.TokenReviewStatus{Authenticated: true, Audiences: []string{identity.Audience}, User: authv1.UserInfo{Username: "system:serviceaccount:shop:cart", Groups: []string{"system:serviceaccounts"}}}
		}
		return true, review, nil
	})
	callers := &Callers{Authorities: NewKeeper(authority), Reviewer: NewReviewer(kube, "cluster.local"), TrustDomain: "cluster.local"}
	certificate := func(by *Authority, id identity.ID, at time.Time) *x509.Certificate {
		chain, key, err := by.Serve([]string{"istiod"}, id, time.Hour, at)
		if err != nil {
			t.Fatal(err)
		}
		pair, err := tls.X509KeyPair(chain, key)
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := x509.ParseCertificate(pair.Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		return leaf
	}
	istiod, cart := account("cluster.local", "istio-system", "istiod"), account("cluster.local", "shop", "cart")
	for name, c := range map[string]struct {
		token       string
		certificate *x509.Certificate
		want        identity.ID
	}{
		"nothing":                         {},
		"a token":                         {token: "good", want: cart},
		"a bad token":                     {token: "bad"},
		"a certificate":                   {certificate: certificate(authority, istiod, now), want: istiod},
		"a token before a certificate":    {"good", certificate(authority, istiod, now), cart},
		"a certificate, the token ended":  {"bad", certificate(authority, istiod, now), istiod},
		"of another authority":            {certificate: certificate(foreign, istiod, now)},
		"of another trust domain":         {certificate: certificate(authority, account("elsewhere", "istio-system", "istiod"), now)},
		"of yesterday":                    {certificate: certificate(authority, istiod, now.Add(-48*time.Hour))},
		"the authority's own certificate": {certificate: authority.certificate},
	} {
		r := httptest.NewRequestWithContext(context.Background(), "GET", "/mesh", nil)
		if c.token != "" {
			r.Header.Set("Authorization", "Bearer "+c.token)
		}
		if c.certificate != nil {
			r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{c.certificate}}
		}
		got, err := callers.OfRequest(r)
		if got != c.want || (err == nil) != (c.want != identity.ID{}) {
			t.Errorf("%s: %v %v, not %v", name, got, err, c.want)
		}
	}
}
