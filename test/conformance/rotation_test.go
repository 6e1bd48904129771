package conformance

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"flag"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/slipway-mesh/slipway/internal/identity/ca"
	"github.com/slipway-mesh/slipway/test/kubetest"
	"github.com/slipway-mesh/slipway/test/nettest"
)

var soak = flag.Duration("soak", 0, "how long TestRotation goes on, beside the one rotation that it makes")

// certificateLife is that of the workloads' certificates here: each is renewed several times.
const certificateLife = "30s"

// startPair brings up two workloads with sidecars that want mutual TLS, a new connection for each request, and certificates that do
// not live long.
func startPair(t *testing.T, flags ...string) *mesh {
	t.Helper()
	m, network := startNetwork(t, flags...)
	m.kube.Apply(t, `apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec: {host: reviews, trafficPolicy: {connectionPool: {http: {maxRequestsPerConnection: 1}}}}
`)
	m.pods = &pods{network: network, client: network.Pod(t, "client"), v1: network.Pod(t, "v1"), plain: network.Pod(t, "plain")}
	m.backends = map[string]*backend{"v1": serveAll(t, m.pods.v1)}
	environment := []string{"SECRET_TTL=" + certificateLife}
	m.injectWith(t, m.pods.client, "default", "{app: client}", environment)
	m.injectWith(t, m.pods.v1, "default", "{app: reviews, version: v1}", environment)
	m.endpoints(t, "reviews", m.pods.v1)
	kubetest.Eventually(t, 30*time.Second, func() error { return served("v1", reviewsIP+":80", "reviews", "/")(m) })
	return m
}

// TestRotation replaces the mesh's root, and kills the control plane in every phase, while a request goes from one workload to the other
// every 10 ms, each over a connection of its own. Not one may be lost.
func TestRotation(t *testing.T) {
	t.Parallel() // its ports are its own
	// A phase is longer than Envoy waits between attempts to connect when the control plane has been away.
	m := startPair(t, "--rootSettle", "8s")
	clients, err := kubernetes.NewForConfig(m.kube.Config)
	if err != nil {
		t.Fatal(err)
	}
	secrets := clients.CoreV1().Secrets("istio-system")
	read := func() *corev1.Secret {
		secret, err := secrets.Get(t.Context(), "istio-ca-secret", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return secret
	}
	l := &load{from: m.pods.client, address: reviewsIP + ":80", host: "reviews"}
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	group.Go(func() { l.run(ctx, 100) })
	begun := time.Now()
	for round := 0; round == 0 || time.Since(begun) < *soak; round++ {
		before := read()
		patch := fmt.Sprintf(`{"metadata":{"annotations":{%q:"round-%d"}}}`, ca.RotateAnnotation, round)
		if _, err := secrets.Patch(t.Context(), before.Name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
		for _, phase := range []ca.Phase{ca.Distribute, ca.Sign, ca.Settled} {
			kubetest.Eventually(t, 2*time.Minute, func() error {
				now, _ := ca.PhaseOf(read())
				return expect(now == phase, "phase %q is not reached: it is %q", phase, now)
			})
			t.Logf("%s: phase %q", time.Since(begun).Round(time.Second), phase)
			m.restart()
			kubetest.Eventually(t, 30*time.Second, func() error { return ok(m.debug + "/ready") })
		}
		after := read()
		if string(after.Data["root-cert.pem"]) != string(after.Data["ca-cert.pem"]) || string(after.Data["ca-cert.pem"]) == string(before.Data["ca-cert.pem"]) {
			t.Error("another root alone is not in force")
		}
		for _, p := range []*nettest.Pod{m.pods.client, m.pods.v1} {
			kubetest.Eventually(t, 30*time.Second, func() error { return m.trusts(p, serial(t, after.Data["ca-cert.pem"])) })
		}
		if lost := l.lost(); len(lost) > 0 {
			t.Errorf("round %d: %d requests are lost, such as %s", round, len(lost), lost[0])
		}
	}
	time.Sleep(20 * time.Second) // certificates of the old root, if there were any, would be in use until now
	cancel()
	group.Wait()
	if lost := l.lost(); len(lost) > 0 {
		t.Errorf("%d requests are lost, such as %s", len(lost), lost[0])
	}
	t.Logf("%d requests in %s", l.sent, time.Since(begun).Round(time.Second))
	m.rejections(t)
}

// serial is that of a certificate, as Envoy writes it: in whole bytes.
func serial(t *testing.T, text []byte) string {
	t.Helper()
	block, _ := pem.Decode(text)
	if block == nil {
		t.Fatal("no certificate")
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(certificate.SerialNumber.Bytes())
}

// trusts says whether a pod's Envoy trusts one root alone.
func (m *mesh) trusts(p *nettest.Pod, root string) error {
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: p.Dial}}
	response, err := client.Get("http://127.0.0.1:15000/certs")
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	var certs struct {
		Certificates []struct {
			CA []struct {
				Serial string `json:"serial_number"`
			} `json:"ca_cert"`
			Own []struct {
				Ends time.Time `json:"expiration_time"`
			} `json:"cert_chain"`
		}
	}
	if err := json.NewDecoder(response.Body).Decode(&certs); err != nil {
		return err
	}
	seen := 0
	for _, certificate := range certs.Certificates {
		for _, one := range certificate.CA {
			seen++
			if one.Serial != root {
				return fmt.Errorf("%s: Envoy trusts the root %s, want %s alone; its own certificates are %v", p.Name, one.Serial, root, certificate.Own)
			}
		}
	}
	return expect(seen > 0, "%s: Envoy trusts no root", p.Name)
}
