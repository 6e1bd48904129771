package conformance

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/slipway-mesh/slipway/test/kubetest"
	"github.com/slipway-mesh/slipway/test/nettest"
)

// served checks which version answers a request of the client's to an address.
func served(want, address, host, path string, headers ...string) func(*mesh) error {
	return func(m *mesh) error { return servedFrom(m, m.pods.client, want, address, host, path, headers...) }
}

func servedFrom(m *mesh, p *nettest.Pod, want, address, host, path string, headers ...string) error {
	response, got, err := m.from(p, address, host, path, headers...)
	if err != nil {
		return err
	}
	return expect(got.Version == want, "%s%s is answered by %q (%s), not %s", address, path, got.Version, response.Status, want)
}

// spoken checks what line comes back over TCP.
func spoken(want, address, line string) func(*mesh) error {
	return func(m *mesh) error {
		got, err := m.tcpFrom(m.pods.client, address, line)
		return orErr(err, expect(got == want, "%s answers %q, not %q", address, got, want))
	}
}

// times makes a check hold only if it holds every time.
func times(n int, check func(*mesh) error) func(*mesh) error {
	return func(m *mesh) error {
		for i := range n {
			if err := check(m); err != nil {
				return fmt.Errorf("attempt %d: %w", i+1, err)
			}
		}
		return nil
	}
}

// forMesh is a VirtualService for reviews that sidecars follow.
func forMesh(spec string) string {
	return "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: case}\nspec:\n  hosts: [reviews]\n  " + strings.ReplaceAll(spec, "\n", "\n  ") + "\n"
}

const httpToV2 = "http: [{route: [{destination: {host: reviews, subset: v2}}]}]"

// meshConfig is the mesh's configuration with settings.
func meshConfig(settings string) string {
	return "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n  mesh: '" + settings + "'\n"
}

func peerAuthentication(spec string) string {
	return "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: case}\nspec: " + spec + "\n"
}

// bypass checks that a caller without a sidecar is turned away, or, with want, is served.
func bypass(port string) func(*mesh) error {
	return func(m *mesh) error {
		_, got, err := m.from(m.pods.plain, m.pods.v1.Address+":"+port, "reviews", "/")
		return expect(err != nil && got.Version == "", "a client without a certificate is answered by %q", got.Version)
	}
}

// peer is who the server's proxy says has called it, by certificate.
func peer(m *mesh) (string, error) {
	_, got, err := m.from(m.pods.client, reviewsIP+":80", "reviews", "/")
	return got.Headers.Get("x-forwarded-client-cert"), err
}

const clientIdentity = "URI=spiffe://cluster.local/ns/default/sa/client"

var sidecarFeatures = []feature{
	{name: "C1 converted RouteRules", with: converted(routeRules), check: both(times(6, served("v2", reviewsIP+":80", "reviews", "/", "cookie", "user=jason")), times(6, served("v1", reviewsIP+":80", "reviews", "/")))},
	{name: "HTTP by port name", proves: "Service.spec.ports.name", with: forMesh(httpToV2), check: times(8, served("v2", reviewsIP+":80", "reviews", "/"))},
	{name: "HTTP by appProtocol, before the port's name", proves: "Service.spec.ports.appProtocol", with: forMesh(httpToV2), check: times(8, served("v2", reviewsIP+":8082", "reviews:8082", "/"))},
	{name: "HTTP on an unnamed port is found out", proves: "Service.spec.ports", with: forMesh(httpToV2), check: times(8, served("v2", reviewsIP+":9001", "reviews:9001", "/"))},
	{name: "statPrefix", proves: "VirtualService.http.match.statPrefix", with: forMesh("http: [{match: [{uri: {prefix: /}, statPrefix: counted}], route: [{destination: {host: reviews}}]}]"), check: func(m *mesh) error {
		counted := func() (string, error) {
			err := answered(200)(m)
			text, failed := adminOf(m.pods.client, "/stats?filter=route.counted.upstream_rq_completed")
			return text, errors.Join(err, failed)
		}
		before, err := counted()
		if err != nil {
			return err
		}
		after, err := counted()
		return orErr(err, expect(before != "" && before != after, "Envoy counts %q and then %q", before, after))
	}},
	{name: "tcp route", proves: "VirtualService.tcp.route.destination.subset", with: forMesh("tcp: [{match: [{port: 9000}], route: [{destination: {host: reviews, subset: v2}}]}]"), check: times(8, spoken("v2", reviewsIP+":9000", ""))},
	{name: "tcp weights", proves: "VirtualService.tcp.route.weight VirtualService.tcp.match.port", with: forMesh("tcp:\n- match: [{port: 9000}]\n  route: [{destination: {host: reviews, subset: v1}, weight: 0}, {destination: {host: reviews, subset: v2}, weight: 100}]"),
		check: times(8, spoken("v2", reviewsIP+":9000", ""))},
	{name: "tcp on an unnamed port", proves: "Service.spec.ports", with: forMesh("tcp: [{match: [{port: 9002}], route: [{destination: {host: reviews, subset: v2}}]}]"), check: times(8, spoken("v2 hello", reviewsIP+":9002", "hello"))},
	{name: "tls route by SNI", proves: "VirtualService.tls.match.sniHosts VirtualService.tls.route.destination.subset", with: forMesh("tls: [{match: [{sniHosts: [secure.test]}], route: [{destination: {host: reviews, subset: v2}}]}]"),
		check: times(8, func(m *mesh) error { return overTLS(m, reviewsIP+":443", "secure.test", "v2") })},
	{name: "sourceLabels", proves: "VirtualService.http.match.sourceLabels", with: forMesh("http:\n- match: [{sourceLabels: {tier: front}}]\n  fault: {abort: {httpStatus: 418, percentage: {value: 100}}}\n  route: [{destination: {host: reviews}}]\n- route: [{destination: {host: reviews}}]"),
		check: both(answered(418), func(m *mesh) error {
			response, _, err := m.from(m.pods.other, reviewsIP+":80", "reviews.default", "/")
			return orErr(err, expect(response != nil && response.StatusCode == http.StatusOK, "a caller without the label gets the rule as well"))
		})},
	{name: "sourceNamespace", proves: "VirtualService.http.match.sourceNamespace", with: forMesh("http:\n- match: [{sourceNamespace: other}]\n  directResponse: {status: 418}\n- route: [{destination: {host: reviews}}]"),
		check: both(answered(200), func(m *mesh) error {
			response, _, err := m.from(m.pods.other, reviewsIP+":80", "reviews.default", "/")
			return orErr(err, expect(response != nil && response.StatusCode == http.StatusTeapot, "a caller of the namespace does not get the rule"))
		})},
	{name: "exportTo hides a rule", proves: "VirtualService.exportTo", with: forMesh("exportTo: [.]\nhttp: [{directResponse: {status: 418}}]"),
		check: both(answered(418), func(m *mesh) error {
			response, _, err := m.from(m.pods.other, reviewsIP+":80", "reviews.default", "/")
			return orErr(err, expect(response != nil && response.StatusCode == http.StatusOK, "another namespace sees the rule"))
		})},
	{name: "virtual host in no registry", proves: "VirtualService.hosts", with: "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: case}\nspec: {hosts: [nowhere.test], http: [{route: [{destination: {host: reviews, subset: v1, port: {number: 80}}}]}]}\n",
		check: func(m *mesh) error {
			return servedFrom(m, m.pods.client, "v1", m.pods.outside.Address+":80", "nowhere.test", "/")
		}},
	{name: "automatic mutual TLS", proves: "MeshConfig.enableAutoMtls", with: meshConfig("{}"), without: meshConfig("{enableAutoMtls: false}"), check: func(m *mesh) error {
		got, err := peer(m)
		return orErr(err, expect(strings.Contains(got, clientIdentity), "the server's proxy saw %q", got))
	}},
	{name: "PeerAuthentication STRICT", proves: "PeerAuthentication.mtls.mode", with: peerAuthentication("{mtls: {mode: STRICT}}"), check: both(bypass("8080"), bypass("8081"), answered(200))},
	{name: "PeerAuthentication STRICT of a workload", proves: "PeerAuthentication.selector.matchLabels", with: peerAuthentication("{selector: {matchLabels: {version: v1}}, mtls: {mode: STRICT}}"), check: both(bypass("8080"), answered(200), func(m *mesh) error {
		return servedFrom(m, m.pods.plain, "v2", m.pods.v2.Address+":8080", "reviews", "/")
	})},
	{name: "PeerAuthentication STRICT of a port", proves: "PeerAuthentication.portLevelMtls", with: peerAuthentication("{selector: {matchLabels: {version: v1}}, mtls: {mode: PERMISSIVE}, portLevelMtls: {8080: {mode: STRICT}}}"), check: both(bypass("8080"), answered(200), func(m *mesh) error {
		return servedFrom(m, m.pods.plain, "v1", m.pods.v1.Address+":8081", "reviews", "/")
	})},
	{name: "PeerAuthentication DISABLE", proves: "PeerAuthentication.mtls.mode", with: peerAuthentication("{mtls: {mode: DISABLE}}"), check: func(m *mesh) error {
		got, err := peer(m)
		return orErr(err, both(answered(200), func(*mesh) error { return expect(got == "", "the server's proxy saw %q", got) })(m))
	}},
	{name: "ALLOW_ANY", proves: "MeshConfig.outboundTrafficPolicy", with: meshConfig("{outboundTrafficPolicy: {mode: ALLOW_ANY}}"), without: meshConfig("{outboundTrafficPolicy: {mode: REGISTRY_ONLY}}"), check: both(
		func(m *mesh) error {
			return servedFrom(m, m.pods.client, "outside", m.pods.outside.Address+":8082", "anything.test", "/")
		},
		func(m *mesh) error { return spoken("outside", m.pods.outside.Address+":9000", "")(m) })},
	{name: "defaultVirtualServiceExportTo", proves: "MeshConfig.defaultVirtualServiceExportTo", with: meshConfig("{defaultVirtualServiceExportTo: [\".\"]}") + "---\n" + forMesh("http: [{directResponse: {status: 418}}]"),
		without: meshConfig("{}") + "---\n" + forMesh("http: [{directResponse: {status: 418}}]"), check: both(answered(418), otherGets(http.StatusOK))},
	{name: "defaultServiceExportTo", proves: "MeshConfig.defaultServiceExportTo", with: meshConfig("{outboundTrafficPolicy: {mode: REGISTRY_ONLY}, defaultServiceExportTo: [\".\"]}"),
		without: meshConfig("{outboundTrafficPolicy: {mode: REGISTRY_ONLY}}"), check: both(answered(200), func(m *mesh) error {
			response, _, err := m.from(m.pods.other, reviewsIP+":80", "reviews.default", "/")
			return expect(err != nil || response.StatusCode == http.StatusBadGateway, "another namespace is answered %v", response)
		})},
	{name: "inboundTrafficPolicy LOCALHOST", proves: "MeshConfig.inboundTrafficPolicy", with: meshConfig("{inboundTrafficPolicy: {mode: LOCALHOST}}"), without: meshConfig("{}"), check: func(m *mesh) error {
		_, got, err := m.from(m.pods.client, reviewsIP+":80", "reviews", "/")
		return orErr(err, expect(strings.HasPrefix(got.From, "127.0.0.1:"), "the application is called by %q", got.From))
	}},
	{name: "discoverySelectors", proves: "MeshConfig.discoverySelectors", with: meshConfig("{discoverySelectors: [{matchExpressions: [{key: kubernetes.io/metadata.name, operator: In, values: [default]}]}]}") + hiddenRule,
		without: meshConfig("{discoverySelectors: [{matchLabels: {kubernetes.io/metadata.name: other}}, {matchLabels: {kubernetes.io/metadata.name: default}}]}") + hiddenRule, check: both(answered(200), peerAnswers)},
	{name: "outboundClusterStatName", proves: "MeshConfig.outboundClusterStatName", with: meshConfig("{outboundClusterStatName: \"outbound-%SERVICE%-%SUBSET_NAME%-%SERVICE_PORT_NAME%-%SERVICE_PORT%-%SERVICE_NAME%-%SERVICE_FQDN%-\"}"), without: meshConfig("{}"),
		check: counted("client", "cluster.outbound-reviews.default--http-80-reviews-reviews.default.svc.cluster.local-.upstream_rq_total")},
	{name: "inboundClusterStatName", proves: "MeshConfig.inboundClusterStatName", with: meshConfig("{inboundClusterStatName: \"inbound-%SERVICE%-%SERVICE_PORT%-%TARGET_PORT%\"}"), without: meshConfig("{}"),
		check: counted("v1", "cluster.inbound-reviews.default-80-8080.upstream_rq_total")},
	{name: "meshMTLS", proves: "MeshConfig.meshMTLS", with: meshConfig("{meshMTLS: {minProtocolVersion: TLSV1_3}}"), without: meshConfig("{}"), check: both(answered(200), func(m *mesh) error {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		c, err := m.pods.plain.Dial(ctx, "tcp", m.pods.v1.Address+":8080")
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		err = tls.Client(c, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"istio"}, MaxVersion: tls.VersionTLS12}).HandshakeContext(ctx) //nolint:gosec // what versions are taken is asked, not who is there
		return expect(err != nil && strings.Contains(err.Error(), "protocol version"), "TLS 1.2 ends with %v", err)
	})},
	{name: "REGISTRY_ONLY", proves: "MeshConfig.outboundTrafficPolicy", with: meshConfig("{outboundTrafficPolicy: {mode: REGISTRY_ONLY}}"), without: meshConfig("{outboundTrafficPolicy: {mode: ALLOW_ANY}}"), check: both(
		func(m *mesh) error {
			response, _, err := m.from(m.pods.client, m.pods.outside.Address+":8082", "anything.test", "/")
			return orErr(err, expect(response != nil && response.StatusCode == http.StatusBadGateway, "a host outside the registry is reached"))
		},
		func(m *mesh) error {
			got, err := m.tcpFrom(m.pods.client, m.pods.outside.Address+":9000", "")
			return expect(err != nil, "an address outside the registry answers %q", got)
		},
		func(m *mesh) error { // excluded from capture
			return servedFrom(m, m.pods.other, "outside", m.pods.outside.Address+":8082", "anything.test", "/")
		}, answered(200))},
}

// otherGets checks what a caller in another namespace is answered.
func otherGets(want int) func(*mesh) error {
	return func(m *mesh) error {
		response, _, err := m.from(m.pods.other, reviewsIP+":80", "reviews.default", "/")
		if err != nil {
			return err
		}
		return expect(response.StatusCode == want, "another namespace is answered %s, not %d", response.Status, want)
	}
}

// hiddenRule is of a namespace that is not read.
const hiddenRule = "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: hidden, namespace: other}\nspec: {hosts: [reviews.default.svc.cluster.local], http: [{directResponse: {status: 418}}]}\n"

// peerAnswers: what is not hidden is there still.
func peerAnswers(m *mesh) error {
	_, err := peer(m)
	return err
}

// counted calls reviews, and looks for a statistic of a pod's proxy that is not 0.
func counted(pod, name string) func(*mesh) error {
	return func(m *mesh) error {
		if err := answered(200)(m); err != nil {
			return err
		}
		p := map[string]*nettest.Pod{"client": m.pods.client, "v1": m.pods.v1}[pod]
		response, got, err := m.from(p, "127.0.0.1:15000", "localhost", "/stats?usedonly&filter=upstream_rq_total")
		if err != nil {
			return err
		}
		return expect(strings.Contains(got.text, name+": "), "%s: %s", response.Status, got.text)
	}
}

// answered checks the status of a request of the client's to reviews.
func answered(want int) func(*mesh) error {
	return func(m *mesh) error {
		response, _, err := m.from(m.pods.client, reviewsIP+":80", "reviews", "/")
		if err != nil {
			return err
		}
		return expect(response.StatusCode == want, "answered %s, not %d", response.Status, want)
	}
}

// TestSidecar runs each feature from pod to pod, through the sidecars of both.
func TestSidecar(t *testing.T) {
	t.Parallel() // its ports are its own
	m := startPods(t)
	m.base = meshConfig("{}") + "---\n" + withPolicy("")
	m.prove(t, sidecarFeatures)
	m.certificates(t)
	m.prove(t, meshConfigs(m))
	m.prove(t, destinationRules(t, m))
	m.prove(t, serviceEntries(t, m))
	m.prove(t, workloads(t, m))
	m.prove(t, l4Rules())
	m.prove(t, sidecarObjects(t, m))
	m.prove(t, sidecarTLS(t, m).features(t))
	m.rejections(t)
	t.Run("a pod without a sidecar is called in plain text", func(t *testing.T) {
		if err := times(3, served("plain", legacyIP+":80", "legacy", "/"))(m); err != nil {
			t.Error(err)
		}
	})
	t.Run("the application is called by its own proxy", func(t *testing.T) {
		_, got, err := m.from(m.pods.client, reviewsIP+":80", "reviews", "/")
		if err != nil || !strings.HasPrefix(got.From, "127.0.0.6:") {
			t.Errorf("called from %s (%v)", got.From, err)
		}
	})
	t.Run("the agent ends when its pod says that it is done", func(t *testing.T) {
		p := m.pods.other
		p.Run(t, filepath.Join(p.Dir(), "slipway-agent")+" request --debug-port=15020 POST quitquitquit")
		kubetest.Eventually(t, 15*time.Second, func() error { // it drains first
			for _, port := range []string{"15000", "15020"} {
				if connection, err := p.Dial(t.Context(), "tcp", "127.0.0.1:"+port); err == nil {
					_ = connection.Close()
					return fmt.Errorf("port %s is open", port)
				}
			}
			return nil
		})
	})
}
