package conformance

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"
	security "istio.io/api/security/v1alpha1"
	authv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/slipway-mesh/slipway/internal/identity"
	"github.com/slipway-mesh/slipway/test/kubetest"
)

// attacker is somebody who calls the control plane over TLS with a token.
type attacker struct {
	m          *mesh
	connection *grpc.ClientConn
}

func newAttacker(t *testing.T, m *mesh) *attacker {
	t.Helper()
	transport := credentials.NewTLS(&tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}) // an attacker does not care who answers
	connection, err := grpc.NewClient(m.secure, grpc.WithTransportCredentials(transport))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = connection.Close() })
	return &attacker{m, connection}
}

// token asks the API server for one, for an audience and, if it is named, bound to a pod.
func (m *mesh) token(t *testing.T, namespace, account, audience, pod string) string {
	t.Helper()
	clients, err := kubernetes.NewForConfig(m.kube.Config)
	if err != nil {
		t.Fatal(err)
	}
	m.kube.Apply(t, fmt.Sprintf("apiVersion: v1\nkind: Namespace\nmetadata: {name: %s}\n---\napiVersion: v1\nkind: ServiceAccount\nmetadata: {name: %s, namespace: %s}\n", namespace, account, namespace))
	request := &authv1.TokenRequest{Spec: authv1.TokenRequestSpec{Audiences: []string{audience}}}
	if pod != "" {
		request.Spec.BoundObjectRef = &authv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod}
	}
	answer, err := clients.CoreV1().ServiceAccounts(namespace).CreateToken(t.Context(), account, request, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return answer.Status.Token
}

// expired is a token as the API server would have signed it a day ago.
func (m *mesh) expired(t *testing.T, token string) string {
	t.Helper()
	parts := strings.Split(token, ".")
	text, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	claims := map[string]any{}
	if err := json.Unmarshal(text, &claims); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"iat", "nbf", "exp"} {
		claims[name] = time.Now().Add(-24 * time.Hour).Unix()
	}
	key, err := os.ReadFile(m.kube.SigningKey)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(key)
	private, err := x509.ParsePKCS1PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	signed := parts[0] + "." + encode(claims)
	sum := sha256.Sum256([]byte(signed))
	signature, err := rsa.SignPKCS1v15(rand.Reader, private, crypto.SHA256, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return signed + "." + base64.RawURLEncoding.EncodeToString(signature)
}

// certificate asks for one in the name of an identity.
func (a *attacker) certificate(t *testing.T, token, name string) (*x509.Certificate, error) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	uri, err := url.Parse(name)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{URIs: []*url.URL{uri}, DNSNames: []string{"istiod.istio-system.svc"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	response, err := security.NewIstioCertificateServiceClient(a.connection).CreateCertificate(carrying(t, token), &security.IstioCertificateRequest{
		Csr: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))})
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode([]byte(response.CertChain[0]))
	return x509.ParseCertificate(block.Bytes)
}

func carrying(t *testing.T, token string) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	if token == "" {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
}

// subscribe says that it is a node, and returns how the stream goes on.
func (a *attacker) subscribe(t *testing.T, token, namespace, account string) error {
	t.Helper()
	stream, err := discovery.NewAggregatedDiscoveryServiceClient(a.connection).DeltaAggregatedResources(carrying(t, token))
	if err != nil {
		return err
	}
	meta, err := structpb.NewStruct(map[string]any{"NAMESPACE": namespace, "SERVICE_ACCOUNT": account})
	if err != nil {
		t.Fatal(err)
	}
	node := &core.Node{Id: "sidecar~10.0.0.9~victim." + namespace + "~" + namespace + ".svc.cluster.local", Metadata: meta}
	if err := stream.Send(&discovery.DeltaDiscoveryRequest{Node: node, TypeUrl: "type.googleapis.com/envoy.config.cluster.v3.Cluster"}); err != nil {
		return err
	}
	_, err = stream.Recv()
	return err
}

// bytesCodec sends what it is given as it is.
type bytesCodec struct{}

func (bytesCodec) Name() string { return "proto" }

func (bytesCodec) Marshal(v any) ([]byte, error) { return v.([]byte), nil }

func (bytesCodec) Unmarshal([]byte, any) error { return nil }

// send sends bytes as the first request of a stream, and returns how it goes on.
func (a *attacker) send(t *testing.T, token string, text []byte) error {
	t.Helper()
	stream, err := a.connection.NewStream(carrying(t, token), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources",
		grpc.ForceCodec(bytesCodec{}), grpc.MaxCallSendMsgSize(1<<30))
	if err != nil {
		return err
	}
	if err := stream.SendMsg(text); err != nil && err != io.EOF { //nolint:errorlint // io.EOF is how gRPC says that the answer tells
		return err
	}
	return stream.RecvMsg(&[]byte{})
}

// count reads a counter of slipwayd's, all its labels together.
func (m *mesh) count(t *testing.T, name string) float64 {
	t.Helper()
	response, err := http.Get(m.metrics)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, line := range strings.Split(string(text), "\n") {
		if strings.HasPrefix(line, name) {
			var value float64
			_, _ = fmt.Sscan(line[strings.LastIndexByte(line, ' ')+1:], &value)
			sum += value
		}
	}
	return sum
}

// TestAttacks: whoever is not who he says gets nothing, whatever he sends; it is counted, and no secret stands in the log.
func TestAttacks(t *testing.T) {
	t.Parallel() // its ports are its own
	m := startControlPlane(t)
	a := newAttacker(t, m)
	m.kube.Apply(t, "apiVersion: v1\nkind: Pod\nmetadata: {name: gone, namespace: default}\nspec: {serviceAccountName: gone, containers: [{name: app, image: app}]}\n")
	good := m.token(t, "default", "victim", identity.Audience, "")
	deleted := m.token(t, "default", "gone", identity.Audience, "gone")
	m.kube.Delete(t, "apiVersion: v1\nkind: Pod\nmetadata: {name: gone, namespace: default}\n")
	tokens := map[string]string{
		"no token": "", "nonsense": "nonsense", "another audience": m.token(t, "default", "victim", "https://kubernetes.default.svc", ""),
		"expired": m.expired(t, good), "a deleted pod's": deleted, "signed by nobody": good[:strings.LastIndexByte(good, '.')+1] + "AAAA",
	}
	const own = "spiffe://cluster.local/ns/default/sa/victim"
	for name, token := range tokens {
		t.Run(name, func(t *testing.T) {
			refused, unknown := m.count(t, "pilot_xds_connections_refused"), m.count(t, "citadel_server_authentication_failure_count")
			if _, err := a.certificate(t, token, own); grpcstatus.Code(err) != codes.Unauthenticated {
				t.Errorf("a certificate: %v", err)
			}
			if err := a.subscribe(t, token, "default", "victim"); grpcstatus.Code(err) != codes.Unauthenticated {
				t.Errorf("configuration: %v", err)
			}
			if m.count(t, "pilot_xds_connections_refused") != refused+1 || m.count(t, "citadel_server_authentication_failure_count") != unknown+1 {
				t.Error("it is not counted")
			}
		})
	}
	t.Run("a deleted pod's that was good a moment before", func(t *testing.T) {
		m.kube.Apply(t, "apiVersion: v1\nkind: Pod\nmetadata: {name: seen, namespace: default}\nspec: {serviceAccountName: seen, containers: [{name: app, image: app}]}\n")
		token := m.token(t, "default", "seen", identity.Audience, "seen")
		if _, err := a.certificate(t, token, own); err != nil {
			t.Fatal(err)
		}
		m.kube.Delete(t, "apiVersion: v1\nkind: Pod\nmetadata: {name: seen, namespace: default}\n")
		kubetest.Eventually(t, 20*time.Second, func() error { // the API server itself goes on for ten seconds
			_, err := a.certificate(t, token, own)
			return expect(grpcstatus.Code(err) == codes.Unauthenticated, "a certificate: %v", err)
		})
	})
	t.Run("a good token", func(t *testing.T) { // the control
		certificate, err := a.certificate(t, good, "spiffe://cluster.local/ns/istio-system/sa/istiod")
		if err != nil || len(certificate.URIs) != 1 || certificate.URIs[0].String() != own || len(certificate.DNSNames) != 0 || certificate.IsCA {
			t.Errorf("a request that says it is somebody else is signed for %v: %v", certificate, err)
		}
		if err := a.subscribe(t, good, "default", "victim"); err != nil {
			t.Errorf("configuration: %v", err)
		}
	})
	t.Run("another workload's node", func(t *testing.T) {
		for _, node := range [][2]string{{"istio-system", "victim"}, {"default", "somebody"}, {"other", ""}} {
			refused := m.count(t, "pilot_xds_connections_refused")
			if err := a.subscribe(t, good, node[0], node[1]); grpcstatus.Code(err) != codes.PermissionDenied || m.count(t, "pilot_xds_connections_refused") != refused+1 {
				t.Errorf("as %s/%s: %v", node[0], node[1], err)
			}
		}
	})
	t.Run("requests that are none", func(t *testing.T) {
		for name, text := range map[string][]byte{"no protobuf": bytes.Repeat([]byte{0xff}, 100), "no node": {}, "too large": make([]byte, 65<<20)} {
			refused := m.count(t, "pilot_xds_connections_refused")
			if err := a.send(t, good, text); err == nil || m.count(t, "pilot_xds_connections_refused") != refused+1 {
				t.Errorf("%s: %v, %v refused", name, err, m.count(t, "pilot_xds_connections_refused")-refused)
			}
		}
	})
	t.Run("reviews that are none", func(t *testing.T) { m.attackHooks(t) })
	if err := ok(m.debug + "/ready"); err != nil {
		t.Errorf("the control plane: %v", err)
	}
	log, err := os.ReadFile(filepath.Join(m.bin, "slipwayd.log"))
	if err != nil {
		t.Fatal(err)
	}
	for name, token := range tokens {
		if len(token) > 20 && (bytes.Contains(log, []byte(token)) || bytes.Contains(log, []byte(token[strings.LastIndexByte(token, '.')+1:]))) {
			t.Errorf("%s: the token stands in the log", name)
		}
	}
	if bytes.Contains(log, []byte("PRIVATE KEY")) || !bytes.Contains(log, []byte("refused")) {
		t.Error("a key stands in the log, or nothing of what was refused")
	}
}

func (m *mesh) attackHooks(t *testing.T) {
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	const review = "application/json"
	for _, c := range []struct {
		name, path, kind, body string
		status                 int
		counter                string
	}{
		{"no JSON's type", "/inject", "text/plain", "{}", http.StatusUnsupportedMediaType, "sidecar_injection_requests_total"},
		{"nothing", "/inject", review, "", http.StatusBadRequest, "sidecar_injection_requests_total"},
		{"no JSON", "/inject", review, "{", http.StatusOK, "sidecar_injection_requests_total"},
		{"no pod", "/inject", review, `{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{"uid":"1","object":"nonsense"}}`, http.StatusOK, "sidecar_injection_requests_total"},
		{"too large", "/inject", review, `"` + strings.Repeat("x", 11<<20) + `"`, http.StatusRequestEntityTooLarge, "sidecar_injection_requests_total"},
		{"no JSON", "/validate", review, "{", http.StatusBadRequest, "galley_validation_http_error"},
		{"too large", "/validate", review, `"` + strings.Repeat("x", 11<<20) + `"`, http.StatusRequestEntityTooLarge, "galley_validation_http_error"},
	} {
		before := m.count(t, c.counter)
		response, err := client.Post("https://"+m.hooks+c.path, c.kind, strings.NewReader(c.body))
		if err != nil {
			t.Errorf("%s %s: %v", c.path, c.name, err)
			continue
		}
		text, _ := io.ReadAll(response.Body)
		_ = response.Body.Close()
		if response.StatusCode != c.status || bytes.Contains(text, []byte(`"allowed":true`)) {
			t.Errorf("%s %s: %s %.200s", c.path, c.name, response.Status, text)
		}
		if m.count(t, c.counter) != before+1 {
			t.Errorf("%s %s: it is not counted", c.path, c.name)
		}
	}
}
