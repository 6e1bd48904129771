package conformance

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	xdscreds "google.golang.org/grpc/credentials/xds"
	"google.golang.org/grpc/metadata"
	rpc "google.golang.org/grpc/status"
	"google.golang.org/grpc/xds"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/slipway-mesh/slipway/internal/identity"
	"github.com/slipway-mesh/slipway/test/kubetest"
	"github.com/slipway-mesh/slipway/test/nettest"
)

// call is what the applications of this file offer: whoever answers says which version it is, in a header. slowCall takes a second.
const call, slowCall = "/test.Echo/Say", "/test.Echo/Slow"

func echoing(version string) grpc.StreamHandler {
	return func(_ any, stream grpc.ServerStream) error {
		if err := stream.RecvMsg(&emptypb.Empty{}); err != nil {
			return err
		}
		if method, _ := grpc.MethodFromServerStream(stream); method == slowCall {
			time.Sleep(time.Second)
		}
		if err := stream.SetHeader(metadata.Pairs("version", version)); err != nil {
			return err
		}
		return stream.SendMsg(&emptypb.Empty{})
	}
}

// plainServer is a gRPC server that knows no mesh. It returns its port.
func plainServer(t *testing.T, version string) int {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.UnknownServiceHandler(echoing(version)))
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return listener.Addr().(*net.TCPAddr).Port
}

// bootstrap is what tells gRPC where its control plane is, and who it is itself: what an agent writes in a pod.
func (m *mesh) bootstrap(t *testing.T, name string, labels map[string]string) []byte {
	t.Helper()
	token, root := m.credentials(t, "default", name)
	dir := t.TempDir()
	id := identity.ID{TrustDomain: "cluster.local", Namespace: "default", Account: name}
	chain, key := m.certificate(t, id, token, root)
	for file, text := range map[string][]byte{"root.pem": []byte(root), "cert.pem": chain, "key.pem": key} {
		if err := os.WriteFile(filepath.Join(dir, file), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	text, err := json.Marshal(map[string]any{
		"xds_servers": []any{map[string]any{"server_uri": m.plain, "channel_creds": []any{map[string]any{"type": "insecure"}}, "server_features": []string{"xds_v3"}}},
		"node": map[string]any{"id": "sidecar~127.0.0.1~" + name + ".default~default.svc.cluster.local", "metadata": map[string]any{
			"GENERATOR": "grpc", "NAMESPACE": "default", "SERVICE_ACCOUNT": name, "LABELS": labels}},
		"certificate_providers": map[string]any{"default": map[string]any{"plugin_name": "file_watcher", "config": map[string]any{
			"certificate_file": filepath.Join(dir, "cert.pem"), "private_key_file": filepath.Join(dir, "key.pem"), "ca_certificate_file": filepath.Join(dir, "root.pem"), "refresh_interval": "900s"}}},
		"server_listener_resource_name_template": "xds.istio.io/grpc/lds/inbound/%s",
	})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// certificate is a workload's, by its token.
func (m *mesh) certificate(t *testing.T, id identity.ID, token, root string) (chain, key []byte) {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(root))
	connection, err := grpc.NewClient(m.secure, grpc.WithTransportCredentials(credentials.NewClientTLSFromCert(pool, "istiod.istio-system.svc")), grpc.WithPerRPCCredentials(bearer(token)))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = connection.Close() }()
	got, err := identity.Request(t.Context(), connection, id, identity.Workload{}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return got.ChainPEM, got.KeyPEM
}

type bearer string

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(b)}, nil
}

func (b bearer) RequireTransportSecurity() bool { return true }

// grpcCaller is a gRPC application that finds its services by xDS.
type grpcCaller struct{ options []grpc.DialOption }

func (m *mesh) newCaller(t *testing.T, name string) *grpcCaller {
	t.Helper()
	return callerOf(t, m.bootstrap(t, name, map[string]string{"app": name}))
}

func callerOf(t *testing.T, bootstrap []byte) *grpcCaller {
	t.Helper()
	resolver, err := xds.NewXDSResolverWithConfigForTesting(bootstrap)
	if err != nil {
		t.Fatal(err)
	}
	trust, err := xdscreds.NewClientCredentials(xdscreds.ClientOptions{FallbackCreds: insecure.NewCredentials()})
	if err != nil {
		t.Fatal(err)
	}
	return &grpcCaller{[]grpc.DialOption{grpc.WithTransportCredentials(trust), grpc.WithResolvers(resolver)}}
}

func (c *grpcCaller) open(target string) (*grpc.ClientConn, error) {
	return grpc.NewClient("xds:///"+target, c.options...)
}

// say calls a target once, on a channel of its own, and returns who answered: an open connection outlives the rules that it was made by.
func (c *grpcCaller) say(target, method string, headers ...string) (string, error) {
	channel, err := c.open(target)
	if err != nil {
		return "", err
	}
	defer func() { _ = channel.Close() }()
	return sayOn(channel, method, headers...)
}

func sayOn(channel *grpc.ClientConn, method string, headers ...string) (string, error) {
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(context.Background(), headers...), 3*time.Second)
	defer cancel()
	var got metadata.MD
	err := channel.Invoke(ctx, method, &emptypb.Empty{}, &emptypb.Empty{}, grpc.Header(&got))
	return strings.Join(got.Get("version"), ","), err
}

// meshServer is a gRPC server that takes what it does with calls from xDS.
func (m *mesh) meshServer(t *testing.T, version string) int {
	t.Helper()
	trust, err := xdscreds.NewServerCredentials(xdscreds.ServerOptions{FallbackCreds: insecure.NewCredentials()})
	if err != nil {
		t.Fatal(err)
	}
	labels := map[string]string{"app": "echo", "security.istio.io/tlsMode": "istio"}
	server, err := xds.NewGRPCServer(grpc.Creds(trust), grpc.UnknownServiceHandler(echoing(version)), xds.BootstrapContentsForTesting(m.bootstrap(t, "echo", labels)))
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return listener.Addr().(*net.TCPAddr).Port
}

// plainTarget is called by services that are no part of the mesh, and meshTarget by one whose server is.
const plainTarget, meshTarget = "plain.test:7070", "echo.test:7070"

func proxylessServices(v1, v2, inMesh int) string {
	return fmt.Sprintf(`apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: plain}
spec:
  hosts: [plain.test]
  resolution: STATIC
  ports: [{number: 7070, name: grpc, protocol: GRPC}]
  endpoints:
  - {address: 127.0.0.1, ports: {grpc: %d}, labels: {version: v1}}
  - {address: 127.0.0.1, ports: {grpc: %d}, labels: {version: v2}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: plain}
spec: {host: plain.test, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: echo}
spec:
  hosts: [echo.test]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 7070, name: grpc, protocol: GRPC}]
  endpoints:
  - {address: 127.0.0.1, ports: {grpc: %d}, serviceAccount: echo, labels: {app: echo, security.istio.io/tlsMode: istio}}
`, v1, v2, inMesh)
}

func plainRules(rules string) string {
	return "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: case}\nspec: {hosts: [plain.test], http: " + rules + "}\n"
}

// TestProxyless: gRPC applications without a proxy follow the mesh's rules by their own xDS.
func TestProxyless(t *testing.T) {
	m := startControlPlane(t)
	m.kube.Apply(t, proxylessServices(plainServer(t, "v1"), plainServer(t, "v2"), m.meshServer(t, "mesh")))
	c := m.newCaller(t, "grpc-client")
	m.prove(t, proxylessFeatures(c))
	m.rejections(t)
}

func proxylessFeatures(c *grpcCaller) []feature {
	always := func(want string, headers ...string) func(*mesh) error {
		return times(8, func(*mesh) error {
			got, err := c.say(plainTarget, call, headers...)
			return orErr(err, expect(got == want, "%s answers", got))
		})
	}
	fails := func(target, method string, want codes.Code) func(*mesh) error {
		return func(*mesh) error {
			got, err := c.say(target, method)
			return expect(rpc.Code(err) == want, "answered by %q: %v", got, err)
		}
	}
	inMesh := func(method string) func(*mesh) error {
		return func(*mesh) error {
			got, err := c.say(meshTarget, method)
			return orErr(err, expect(got == "mesh", "%q answers", got))
		}
	}
	policy := func(spec string) string {
		return "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: case}\nspec: " + spec + "\n"
	}
	const to = "route: [{destination: {host: plain.test, subset: "
	return []feature{
		{name: "gRPC without a proxy: subset", with: plainRules("[{" + to + "v2}}]}]"), check: always("v2")},
		{name: "gRPC without a proxy: header", with: plainRules("[{match: [{headers: {user: {exact: jason}}}], " + to + "v2}}]}, {" + to + "v1}}]}]"), check: both(always("v2", "user", "jason"), always("v1"))},
		{name: "gRPC without a proxy: withoutHeaders", with: plainRules("[{match: [{withoutHeaders: {user: {exact: jason}}}], " + to + "v2}}]}, {" + to + "v1}}]}]"),
			check: both(always("v1", "user", "jason"), both(always("v2", "user", "tom"), always("v2")))},
		{name: "gRPC without a proxy: method", with: plainRules("[{match: [{uri: {exact: " + call + "}}], " + to + "v2}}]}, {" + to + "v1}}]}]"), check: always("v2")},
		{name: "gRPC without a proxy: weights", with: plainRules("[{route: [{destination: {host: plain.test, subset: v1}, weight: 75}, {destination: {host: plain.test, subset: v2}, weight: 25}]}]"), check: func(*mesh) error {
			const calls = 400
			second := 0
			for range calls {
				got, err := c.say(plainTarget, call)
				if err != nil {
					return err
				}
				if got == "v2" {
					second++
				}
			}
			return expect(second > 60 && second < 140, "v2 has %d of %d", second, calls) // four and a half standard deviations about 100
		}},
		{name: "gRPC without a proxy: fault", with: plainRules("[{fault: {abort: {percentage: {value: 100}, grpcStatus: RESOURCE_EXHAUSTED}}, " + to + "v1}}]}]"), check: fails(plainTarget, call, codes.ResourceExhausted)},
		{name: "gRPC without a proxy: timeout", with: plainRules("[{timeout: 0.1s, " + to + "v1}}]}]"), check: fails(plainTarget, slowCall, codes.DeadlineExceeded)},
		{name: "gRPC without a proxy: mutual TLS", with: underStrict("ISTIO_MUTUAL"), without: underStrict("DISABLE"), check: inMesh(call)},
		{name: "gRPC without a proxy: AuthorizationPolicy DENY by principal", with: policy("{rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/grpc-client]}}]}], action: DENY}"), check: fails(meshTarget, call, codes.PermissionDenied)},
		{name: "gRPC without a proxy: AuthorizationPolicy ALLOW by method", with: policy("{rules: [{to: [{operation: {paths: [/test.Echo/*]}}]}]}"), check: both(inMesh(call), fails(meshTarget, "/other.Echo/Say", codes.PermissionDenied))},
		{name: "gRPC without a proxy: AuthorizationPolicy CUSTOM is denied", with: policy("{action: CUSTOM, provider: {name: nobody}, rules: [{to: [{operation: {paths: [\"/{*}/Say\"]}}]}]}"), check: fails(meshTarget, call, codes.PermissionDenied)},
	}
}

// underStrict demands mutual TLS, and says how the service is called.
func underStrict(mode string) string {
	return "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: case}\nspec: {mtls: {mode: STRICT}}\n---\n" +
		"apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: case}\nspec: {host: echo.test, trafficPolicy: {tls: {mode: " + mode + "}}}\n"
}

// TestProxylessEndpoints: servers that come and go are noticed without a call that fails.
func TestProxylessEndpoints(t *testing.T) {
	m := startControlPlane(t)
	entry := func(ports ...int) string {
		out := "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: plain}\nspec:\n  hosts: [plain.test]\n  resolution: STATIC\n  ports: [{number: 7070, name: grpc, protocol: GRPC}]\n  endpoints:\n"
		for _, port := range ports {
			out += "  - {address: 127.0.0.1, ports: {grpc: " + strconv.Itoa(port) + "}}\n"
		}
		return out
	}
	v1, v2 := plainServer(t, "v1"), plainServer(t, "v2")
	m.kube.Apply(t, entry(v1))
	channel, err := m.newCaller(t, "grpc-client").open(plainTarget)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = channel.Close() })
	for i, next := range [][]int{{v1}, {v1, v2}, {v2}, {v1}} {
		m.kube.Apply(t, entry(next...))
		want := []string{"v1", "v2", "v2", "v1"}[i]
		kubetest.Eventually(t, 15*time.Second, func() error {
			got, err := sayOn(channel, call)
			if err != nil {
				t.Fatalf("a call fails while endpoints change: %v", err)
			}
			return expect(got == want, "%s answers", got)
		})
	}
}

// TestProxylessAgent: the agent of a pod without Envoy writes what a gRPC application starts with, and leads it to the control plane as who
// the pod is: it is let in where mutual TLS is demanded.
func TestProxylessAgent(t *testing.T) {
	m := startControlPlane(t)
	build(t, m.bin, "slipway-agent")
	m.kube.Apply(t, proxylessServices(plainServer(t, "v1"), plainServer(t, "v2"), m.meshServer(t, "mesh"))+"---\n"+underStrict("ISTIO_MUTUAL"))
	pod := nettest.New(t).Pod(t, "grpc-app")
	agent := m.equip(t, pod, "default", "{app: grpc-app}")
	pod.Mkdir(t, "/run/certs")
	environment := []string{"POD_NAME=grpc-app", "POD_NAMESPACE=default", "INSTANCE_IP=" + pod.Address, "SERVICE_ACCOUNT=grpc-app", "DISABLE_ENVOY=true", "OUTPUT_CERTS=/run/certs", "ISTIO_META_GENERATOR=grpc"}
	pod.Start(t, proxyUser, environment, agent, "proxy", "sidecar", "--domain", "default.svc.cluster.local")
	kubetest.Eventually(t, 30*time.Second, func() error {
		response, _, err := m.from(pod, "127.0.0.1:15020", "localhost", "/healthz/ready")
		return orErr(err, expect(response != nil && response.StatusCode == http.StatusOK, "the agent is not ready: %v", response))
	})
	// The application is in the pod; here it is this test, which sees the pod's files at another place.
	text := pod.Read("/etc/istio/proxy/grpc-bootstrap.json")
	for _, folder := range []string{"/etc/istio/proxy/", "/run/certs/"} {
		text = strings.ReplaceAll(text, folder, pod.Path(folder))
	}
	c := callerOf(t, []byte(text))
	for target, want := range map[string]string{meshTarget: "mesh", plainTarget: "v"} {
		kubetest.Eventually(t, 15*time.Second, func() error {
			got, err := c.say(target, call)
			return orErr(err, expect(strings.HasPrefix(got, want), "%q answers", got))
		})
	}
	m.kube.Apply(t, "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: case}\nspec: {action: DENY, rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/grpc-app]}}]}]}\n")
	kubetest.Eventually(t, 15*time.Second, func() error {
		_, err := c.say(meshTarget, call)
		return expect(rpc.Code(err) == codes.PermissionDenied, "it is not known for who it is: %v", err)
	})
}
