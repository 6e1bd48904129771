package conformance

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	neturl "net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/slipway-mesh/slipway/test/nettest"
)

// sidecarObject is a Sidecar of the namespace in which the client and reviews are.
func sidecarObject(spec string) string {
	return "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: case}\nspec: " + spec + "\n"
}

// unreachable checks that a host is none that the client may call.
func unreachable(address, host string) func(*mesh) error {
	return func(m *mesh) error {
		response, _, err := m.from(m.pods.client, address, host, "/")
		return orErr(err, expect(response != nil && response.StatusCode == http.StatusBadGateway, "%s is answered %v", host, response))
	}
}

func sidecarObjects(t *testing.T, m *mesh) []feature {
	const closed = "outboundTrafficPolicy: {mode: REGISTRY_ONLY}"
	const everything = `{egress: [{hosts: ["*/*"]}], ` + closed + "}"
	outside := m.pods.outside.Address
	plain, v1 := m.pods.plain, m.pods.v1
	one := func(name, proves, spec, without string, check func(*mesh) error) feature {
		return feature{name: "Sidecar " + name, proves: proves, with: sidecarObject(spec), without: sidecarObject(without), check: check}
	}
	legacy := both(served("plain", legacyIP+":80", "legacy", "/"), unreachable(reviewsIP+":80", "reviews"))
	const pool = "{tcp: {maxConnections: 1}, http: {http1MaxPendingRequests: 1}}"
	answeredAt := func(address, port string) func(*mesh) error {
		return func(m *mesh) error {
			_, got, err := m.from(plain, address, "reviews", "/")
			return orErr(err, expect(got.Version == "v1" && got.Port == port, "answered by %s at %s", got.Version, got.Port))
		}
	}
	out := []feature{
		one("egress as an HTTP proxy", "Sidecar.egress.port.protocol", "{workloadSelector: {labels: {tier: front}}, egress: [{port: {number: 3128, name: proxy, protocol: HTTP_PROXY}, bind: 127.0.0.1, hosts: [./legacy.default.svc.cluster.local, ./reviews.default.svc.cluster.local]}], "+closed+"}", everything,
			both(proxied("plain", "http://legacy/"), proxied("plain", "http://legacy.default.svc.cluster.local:80/"), proxied("404", "http://legacy:9999/"), times(4, proxied("v", "http://reviews:8082/")), func(m *mesh) error {
				_, got, err := m.from(m.pods.client, legacyIP+":80", "legacy", "/")
				return expect(err != nil || got.Version == "", "what does not go by the proxy is answered by %q", got.Version)
			})),
		one("egressProxy subset", "Sidecar.outboundTrafficPolicy.egressProxy.subset", "{outboundTrafficPolicy: {mode: ALLOW_ANY, egressProxy: {host: reviews.default.svc.cluster.local, subset: v2, port: {number: 80}}}}",
			"{outboundTrafficPolicy: {mode: ALLOW_ANY}}", times(6, served("v2", outside+":8082", "anything.test", "/"))),
		one("egress hosts", "Sidecar.egress.hosts", "{egress: [{hosts: [./legacy.default.svc.cluster.local]}], "+closed+"}", everything, legacy),
		one("egress hosts of another namespace", "Sidecar.egress.hosts", `{egress: [{hosts: ["default/legacy.default.svc.cluster.local", "other/*"]}], `+closed+"}", everything, legacy),
		one("egress hosts taken out", "Sidecar.egress.hosts", `{egress: [{hosts: ["*/*", "~default/reviews.default.svc.cluster.local"]}], `+closed+"}", everything, legacy),
		one("workloadSelector", "Sidecar.workloadSelector.labels", "{workloadSelector: {labels: {tier: front}}, egress: [{hosts: [./legacy.default.svc.cluster.local]}], "+closed+"}",
			"{workloadSelector: {labels: {tier: back}}, egress: [{hosts: [./legacy.default.svc.cluster.local]}], "+closed+"}", legacy),
		one("egress port", "Sidecar.egress.port.number Sidecar.egress.port.protocol", `{egress: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [./legacy.default.svc.cluster.local]}, {hosts: ["*/*"]}], `+closed+"}", everything,
			both(legacy, func(m *mesh) error {
				response, _, err := m.from(m.pods.client, reviewsIP+":8082", "reviews:8082", "/")
				return orErr(err, expect(response != nil && response.StatusCode == http.StatusOK, "another port is closed"))
			})),
		one("egress without capture", "Sidecar.egress.bind Sidecar.egress.captureMode", `{workloadSelector: {labels: {tier: front}}, egress: [{port: {number: 8082, name: http, protocol: HTTP}, bind: 127.0.0.1, captureMode: NONE, hosts: ["*/*"]}, {hosts: ["*/*"]}]}`, everything, func(m *mesh) error {
			_, got, err := m.from(m.pods.client, "127.0.0.1:8082", "reviews:8082", "/")
			return orErr(err, expect(got.Version != "", "nobody answers"))
		}),
		{name: "Sidecar imports what a VirtualService leads to", proves: "Sidecar.egress.hosts", check: func(m *mesh) error { return served("v2", legacyIP+":80", "legacy", "/")(m) },
			with:    sidecarObject("{egress: [{hosts: [./legacy.default.svc.cluster.local]}], "+closed+"}") + "---\n" + legacyToReviews("[mesh]"),
			without: sidecarObject("{egress: [{hosts: [./legacy.default.svc.cluster.local]}], "+closed+"}") + "---\n" + legacyToReviews("[nowhere]")},
		one("outboundTrafficPolicy", "Sidecar.outboundTrafficPolicy.mode", "{"+closed+"}", "{outboundTrafficPolicy: {mode: ALLOW_ANY}}", unreachable(outside+":8082", "anything.test")),
		one("egressProxy", "Sidecar.outboundTrafficPolicy.egressProxy.host Sidecar.outboundTrafficPolicy.egressProxy.port.number", "{outboundTrafficPolicy: {mode: ALLOW_ANY, egressProxy: {host: legacy.default.svc.cluster.local, port: {number: 80}}}}",
			"{outboundTrafficPolicy: {mode: ALLOW_ANY}}", served("plain", outside+":8082", "anything.test", "/")),
		one("ingress", "Sidecar.ingress.port.number Sidecar.ingress.port.protocol Sidecar.ingress.defaultEndpoint", "{workloadSelector: {labels: {version: v1}}, ingress: [{port: {number: 8080, name: http, protocol: HTTP}, defaultEndpoint: 127.0.0.1:8081}]}",
			"{workloadSelector: {labels: {version: v1}}, ingress: [{port: {number: 8080, name: http, protocol: HTTP}, defaultEndpoint: 127.0.0.1:8080}]}", answeredAt(v1.Address+":8080", "8081")),
		one("ingress without capture", "Sidecar.ingress.captureMode Sidecar.ingress.bind", "{workloadSelector: {labels: {version: v1}}, ingress: [{port: {number: 7070, name: http, protocol: HTTP}, bind: "+v1.Address+", captureMode: NONE, defaultEndpoint: 127.0.0.1:8081}]}",
			"{workloadSelector: {labels: {version: v1}}}", answeredAt(v1.Address+":7070", "8081")),
		one("inboundConnectionPool", "Sidecar.inboundConnectionPool.tcp.maxConnections Sidecar.inboundConnectionPool.http.http1MaxPendingRequests", "{workloadSelector: {labels: {version: v1}}, inboundConnectionPool: "+pool+"}",
			"{workloadSelector: {labels: {version: v1}}}", crowded),
		one("ingress connectionPool", "Sidecar.ingress.connectionPool.tcp.maxConnections Sidecar.ingress.connectionPool.http.http1MaxPendingRequests",
			"{workloadSelector: {labels: {version: v1}}, ingress: [{port: {number: 8080, name: http, protocol: HTTP}, connectionPool: "+pool+"}]}", "{workloadSelector: {labels: {version: v1}}, ingress: [{port: {number: 8080, name: http, protocol: HTTP}}]}", crowded),
	}
	for _, p := range inboundPools(t, m) {
		out = append(out, p.features()...)
	}
	return out
}

// proxied checks who answers a URL that the client asks its sidecar for as an HTTP proxy; a number is the status, and a part of a name will do.
func proxied(want, url string) func(*mesh) error {
	return func(m *mesh) error {
		client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, Proxy: http.ProxyURL(&neturl.URL{Scheme: "http", Host: "127.0.0.1:3128"}),
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				return m.pods.client.Dial(ctx, network, address)
			}}}
		response, err := client.Get(url)
		if err != nil {
			return err
		}
		defer func() { _ = response.Body.Close() }()
		var got answer
		_ = json.NewDecoder(response.Body).Decode(&got)
		if want == "404" {
			return expect(response.StatusCode >= 400, "%s is answered by %q", url, got.Version)
		}
		return expect(strings.HasPrefix(got.Version, want), "%s is answered by %q (%s)", url, got.Version, response.Status)
	}
}

// inboundPool is a limit of the connections to an application, which a Sidecar can set in two places.
type inboundPool struct {
	name, proves  string // fields below a connection pool
	with, without string // pools
	protocol      string // of the port
	port          string // where it is not the one of the protocol
	beside        string // further objects
	check         func(cluster string) func(*mesh) error
}

func (p inboundPool) features() []feature {
	var out []feature
	for _, place := range []struct{ field, object string }{
		{"Sidecar.inboundConnectionPool.", "{workloadSelector: {labels: {version: v1}}, ingress: [{port: {number: %[1]s, name: case, protocol: %[2]s}}], inboundConnectionPool: %[3]s}"},
		{"Sidecar.ingress.connectionPool.", "{workloadSelector: {labels: {version: v1}}, ingress: [{port: {number: %[1]s, name: case, protocol: %[2]s}, connectionPool: %[3]s}]}"},
	} {
		var fields []string
		for _, field := range strings.Fields(p.proves) {
			fields = append(fields, place.field+field)
		}
		port := cmp.Or(p.port, map[string]string{"HTTP": "8080", "TCP": "9008"}[p.protocol])
		object := func(pool string) string {
			return p.beside + sidecarObject(fmt.Sprintf(place.object, port, p.protocol, pool))
		}
		out = append(out, feature{name: place.field + p.name, proves: strings.Join(fields, " "), with: object(p.with), without: object(p.without), check: p.check("cluster.inbound|" + port + "||.")})
	}
	return out
}

func inboundPools(t *testing.T, m *mesh) []inboundPool {
	v1, plain := m.pods.v1, m.pods.plain
	grows := func(p *nettest.Pod, stat string, least, most int, do func(*mesh) error) func(*mesh) error {
		return func(m *mesh) error {
			before, err := statOf(p, stat)
			if err != nil {
				return err
			}
			if err := do(m); err != nil {
				return err
			}
			after, err := statOf(p, stat)
			return orErr(err, expect(after-before >= least && after-before <= most, "%s grew by %d", stat, after-before))
		}
	}
	asked := func(n int) func(*mesh) error { // requests on one connection of the caller's
		return func(m *mesh) error {
			client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				return plain.Dial(ctx, network, v1.Address+":8080")
			}}}
			defer client.CloseIdleConnections()
			for range n {
				if _, _, err := ask(client, "http://reviews/", "reviews"); err != nil {
					return err
				}
			}
			return nil
		}
	}
	hangs := func(port string) func(*mesh) error { // a request that nobody answers ends soon
		return func(m *mesh) error {
			response, _, err := m.fromWithin(1500*time.Millisecond, plain, v1.Address+":"+port, "reviews", "/")
			return orErr(err, expect(response != nil && response.StatusCode == http.StatusServiceUnavailable, "answered %v", response))
		}
	}
	fullPort := v1.Full(t)
	const many = 1 << 30
	return []inboundPool{
		{name: "http.useClientProtocol", proves: "http.useClientProtocol", protocol: "HTTP", with: "{http: {useClientProtocol: true, maxRequestsPerConnection: 1}}", without: "{http: {maxRequestsPerConnection: 1}}",
			check: func(c string) func(*mesh) error {
				return grows(v1, c+"upstream_cx_http2_total", 1, many, func(*mesh) error { return h2c(plain, v1.Address+":8080") })
			}},
		{name: "http.maxConcurrentStreams", proves: "http.maxConcurrentStreams", protocol: "HTTP", with: "{http: {h2UpgradePolicy: UPGRADE, maxConcurrentStreams: 1, idleTimeout: 0.2s}}", without: "{http: {h2UpgradePolicy: UPGRADE, idleTimeout: 0.2s}}",
			check: func(c string) func(*mesh) error {
				return grows(v1, c+"upstream_cx_http2_total", 6, many, func(m *mesh) error { crowd(m, 12); return nil })
			}},
		{name: "http.maxRetries", proves: "http.maxRetries", protocol: "HTTP", with: "{http: {maxRetries: 1}}", without: "{http: {maxRetries: 1000}}",
			beside: envoyFilter(`configPatches:
- applyTo: HTTP_ROUTE
  match: {context: SIDECAR_INBOUND}
  patch: {operation: MERGE, value: {route: {retry_policy: {retry_on: 5xx, num_retries: 3}}}}`) + "---\n", // the sidecar itself tries again only what has not begun
			check: func(c string) func(*mesh) error {
				return grows(v1, c+"upstream_rq_retry_overflow", 1, many, func(m *mesh) error {
					return m.failing("v1", func() error { crowd(m, 12); return nil })
				})
			}},
		{name: "http.http2KeepAlive", proves: "http.http2KeepAlive.interval http.http2KeepAlive.timeout", protocol: "HTTP", port: "9008", with: "{http: {h2UpgradePolicy: UPGRADE, http2KeepAlive: {interval: 0.2s, timeout: 0.2s}}}",
			without: "{http: {h2UpgradePolicy: UPGRADE, http2KeepAlive: {interval: 60s, timeout: 0.2s}}}", check: func(c string) func(*mesh) error { return hangs("9008") }},
		{name: "tcp.connectTimeout", proves: "tcp.connectTimeout", protocol: "HTTP", port: fullPort, with: "{tcp: {connectTimeout: 0.2s}}", without: "{tcp: {connectTimeout: 4s}}", check: func(string) func(*mesh) error { return hangs(fullPort) }},
		{name: "tcp.tcpKeepalive", proves: "tcp.tcpKeepalive.probes tcp.tcpKeepalive.time tcp.tcpKeepalive.interval", protocol: "TCP", with: "{tcp: {tcpKeepalive: {probes: 1, time: 1s, interval: 1s}}}", without: "{tcp: {tcpKeepalive: {probes: 9, time: 2s, interval: 75s}}}",
			check: func(string) func(*mesh) error {
				return func(*mesh) error {
					return noticesDeath(plain, v1.Address+":9008", func() { v1.Run(t, "ip link set lo down") }, func() { v1.Run(t, "ip link set lo up") })
				}
			}},
		{name: "http.maxRequestsPerConnection", proves: "http.maxRequestsPerConnection", protocol: "HTTP", with: "{http: {maxRequestsPerConnection: 1}}", without: "{http: {maxRequestsPerConnection: 0}}",
			check: func(c string) func(*mesh) error { return grows(v1, c+"upstream_cx_total", 6, 6, asked(6)) }},
		{name: "http.idleTimeout", proves: "http.idleTimeout", protocol: "HTTP", with: "{http: {idleTimeout: 0.2s}}", without: "{http: {idleTimeout: 60s}}", check: func(c string) func(*mesh) error {
			return grows(v1, c+"upstream_cx_destroy_local", 1, many, func(m *mesh) error {
				err := asked(2)(m)
				time.Sleep(600 * time.Millisecond)
				return err
			})
		}},
		{name: "http.h2UpgradePolicy", proves: "http.h2UpgradePolicy", protocol: "HTTP", with: "{http: {h2UpgradePolicy: UPGRADE}}", without: "{http: {h2UpgradePolicy: DO_NOT_UPGRADE}}", check: func(c string) func(*mesh) error {
			return grows(v1, c+"upstream_cx_http2_total", 1, many, func(m *mesh) error { _ = asked(1)(m); return nil })
		}},
		{name: "http.http2MaxRequests", proves: "http.http2MaxRequests", protocol: "HTTP", with: "{http: {http2MaxRequests: 1}}", without: "{http: {http2MaxRequests: 1000}}", check: func(string) func(*mesh) error {
			return crowded
		}},
		{name: "tcp.idleTimeout", proves: "tcp.idleTimeout", protocol: "TCP", with: "{tcp: {idleTimeout: 0.5s}}", without: "{tcp: {idleTimeout: 60s}}", check: func(string) func(*mesh) error { return endsSoon(plain, v1.Address+":9008") }},
		{name: "tcp.maxConnectionDuration", proves: "tcp.maxConnectionDuration", protocol: "TCP", with: "{tcp: {maxConnectionDuration: 0.5s}}", without: "{tcp: {maxConnectionDuration: 60s}}", check: func(string) func(*mesh) error { return endsSoon(plain, v1.Address+":9008") }},
	}
}

// crowded checks that some of many requests at once to v1 are refused by its proxy.
func crowded(m *mesh) error {
	return expect(crowd(m, 8) > 0, "no request was refused")
}

// crowd sends requests to v1 at once, each of which takes a while, and says how many its proxy refused.
func crowd(m *mesh, n int) int64 {
	m.backends["v1"].delay.Store(300)
	defer m.backends["v1"].delay.Store(0)
	var refused atomic.Int64
	var group sync.WaitGroup
	for range n {
		group.Go(func() {
			if response, _, err := m.from(m.pods.plain, m.pods.v1.Address+":8080", "reviews", "/"); err == nil && response.StatusCode == http.StatusServiceUnavailable {
				refused.Add(1)
			}
		})
	}
	group.Wait()
	return refused.Load()
}

// endsSoon checks that a connection on which nothing happens is closed before two seconds are over.
func endsSoon(p *nettest.Pod, address string) func(*mesh) error {
	return func(*mesh) error {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		connection, err := p.Dial(ctx, "tcp", address)
		if err != nil {
			return err
		}
		defer func() { _ = connection.Close() }()
		if _, err := fmt.Fprintln(connection, "hello"); err != nil { // its first bytes say what it is
			return err
		}
		_ = connection.SetReadDeadline(time.Now().Add(2 * time.Second))
		_, err = connection.Read(make([]byte, 1))
		var timeout net.Error
		return expect(!errors.As(err, &timeout) || !timeout.Timeout(), "the connection is still open")
	}
}

// sidecarTLS is v1's sidecar, which ends the TLS of callers outside the mesh.
func sidecarTLS(t *testing.T, m *mesh) tlsServer {
	v1 := m.pods.v1
	return tlsServer{name: "Sidecar ingress TLS", field: "Sidecar.ingress.tls.", version: "v1",
		at: func() (net.Conn, error) {
			ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
			defer cancel()
			return m.pods.plain.Dial(ctx, "tcp", v1.Address+":7443")
		},
		write: func(files map[string]string) string {
			for name, text := range files {
				v1.Write(t, v1.Dir()+"/"+name, text)
			}
			return v1.Dir()
		},
		object: func(settings string) string {
			return sidecarObject("{workloadSelector: {labels: {version: v1}}, ingress: [{port: {number: 7443, name: https, protocol: HTTPS}, defaultEndpoint: 127.0.0.1:8080, tls: {" + settings + "}}]}")
		}}
}

// legacyToReviews leads calls of legacy to v2 of reviews.
func legacyToReviews(gateways string) string {
	return "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: led}\nspec: {hosts: [legacy], gateways: " + gateways + ", http: [{route: [{destination: {host: reviews, subset: v2, port: {number: 80}}}]}]}\n"
}

func workloads(_ *testing.T, m *mesh) []feature {
	outside, v1 := m.pods.outside.Address, m.pods.v1.Address
	entry := func(name, spec string) string {
		return "---\napiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: " + name + "}\nspec: " + spec + "\n"
	}
	selecting := "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: vm}\nspec: {hosts: [vm.test], addresses: [10.88.2.6], location: MESH_INTERNAL, resolution: STATIC, ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}], workloadSelector: {labels: {app: %s}}}\n"
	vm := fmt.Sprintf(selecting, "vm")
	at := func(version, port string) func(*mesh) error {
		return times(6, func(m *mesh) error {
			_, got, err := m.from(m.pods.client, "10.88.2.6:80", "vm.test", "/")
			return orErr(err, expect(got.Version == version && got.Port == port, "answered by %q at %s", got.Version, got.Port))
		})
	}
	simple := vm + entry("one", "{address: "+outside+", labels: {app: vm}}")
	byNetwork := "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: vm}\nspec: {host: vm.test, trafficPolicy: {outlierDetection: {consecutive5xxErrors: 2}, loadBalancer: {localityLbSetting: {failoverPriority: [topology.istio.io/network]}}}}\n"
	byService := "apiVersion: v1\nkind: Service\nmetadata: {name: vm}\nspec: {clusterIP: 10.0.0.60, selector: {app: vm}, ports: [{name: http, port: 80, targetPort: 8080}]}\n"
	failover := "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: vm}\nspec: {host: vm.test, trafficPolicy: {outlierDetection: {consecutive5xxErrors: 2}}}\n"
	return []feature{
		{name: "WorkloadEntry selected by a ServiceEntry", proves: "WorkloadEntry.address WorkloadEntry.labels ServiceEntry.workloadSelector.labels", with: registryOnly + simple, without: registryOnly + fmt.Sprintf(selecting, "none") + entry("one", "{address: "+outside+", labels: {app: vm}}"), check: at("outside", "8080")},
		{name: "WorkloadEntry ports", proves: "WorkloadEntry.ports", with: vm + entry("one", "{address: "+outside+", labels: {app: vm}, ports: {http: 8081}}"), without: simple, check: at("outside", "8081")},
		{name: "WorkloadEntry selected by a Service", proves: "WorkloadEntry.labels", with: byService + entry("one", "{address: "+outside+", labels: {app: vm}}"), without: byService + entry("one", "{address: "+outside+", labels: {app: none}}"),
			check: served("outside", "10.0.0.60:80", "vm", "/")},
		{name: "WorkloadEntry weight", proves: "WorkloadEntry.weight", check: func(m *mesh) error {
			second := 0
			for range 100 {
				_, got, err := m.from(m.pods.client, "10.88.2.6:80", "vm.test", "/")
				if err != nil {
					return err
				}
				if got.Port == "8081" {
					second++
				}
			}
			return expect(second > 70 && second < 99, "the heavy one got %d of 100", second)
		}, with: vm + entry("one", "{address: "+outside+", labels: {app: vm}, weight: 10}") + entry("two", "{address: "+outside+", labels: {app: vm}, weight: 90, ports: {http: 8081}}"),
			without: vm + entry("one", "{address: "+outside+", labels: {app: vm}, weight: 50}") + entry("two", "{address: "+outside+", labels: {app: vm}, weight: 50, ports: {http: 8081}}")},
		{name: "WorkloadEntry locality", proves: "WorkloadEntry.locality", check: at("outside", "8081"),
			with:    vm + failover + entry("one", "{address: "+outside+", labels: {app: vm}, locality: east/a}") + entry("two", "{address: "+outside+", labels: {app: vm}, locality: north/a/x, ports: {http: 8081}}"),
			without: vm + failover + entry("one", "{address: "+outside+", labels: {app: vm}, locality: east/a}") + entry("two", "{address: "+outside+", labels: {app: vm}, locality: east/a, ports: {http: 8081}}")},
		{name: "WorkloadEntry network", proves: "WorkloadEntry.network", check: at("outside", "8081"),
			with:    vm + byNetwork + entry("one", "{address: "+outside+", labels: {app: vm}, network: away}") + entry("two", "{address: "+outside+", labels: {app: vm}, network: home, ports: {http: 8081}}"),
			without: vm + byNetwork + entry("one", "{address: "+outside+", labels: {app: vm}, network: away}") + entry("two", "{address: "+outside+", labels: {app: vm}, network: away, ports: {http: 8081}}")},
		{name: "WorkloadEntry serviceAccount", proves: "WorkloadEntry.serviceAccount", with: vm + entry("one", "{address: "+v1+", labels: {app: vm}, serviceAccount: v1}"), without: vm + entry("one", "{address: "+v1+", labels: {app: vm}}"),
			check: func(m *mesh) error {
				_, got, err := m.from(m.pods.client, "10.88.2.6:80", "vm.test", "/")
				return orErr(err, expect(strings.Contains(got.Headers.Get("x-forwarded-client-cert"), clientIdentity), "the server's proxy saw %v", got.Headers))
			}},
		{name: "ServiceEntry selects Pods", proves: "ServiceEntry.workloadSelector.labels", with: registryOnly + fmt.Sprintf(selecting, "legacy"), without: registryOnly + fmt.Sprintf(selecting, "nobody"), check: at("plain", "8080")},
		{name: "ServiceEntry location", proves: "ServiceEntry.location", with: strings.Replace(vm, "MESH_INTERNAL", "MESH_EXTERNAL", 1) + entry("one", "{address: "+v1+", labels: {app: vm}, serviceAccount: v1}"), without: vm + entry("one", "{address: "+v1+", labels: {app: vm}, serviceAccount: v1}"),
			check: func(m *mesh) error {
				_, got, err := m.from(m.pods.client, "10.88.2.6:80", "vm.test", "/")
				return orErr(err, expect(got.Version == "v1" && got.Headers.Get("x-forwarded-client-cert") == "", "the server's proxy saw %v", got.Headers))
			}},
		{name: "Service of type ExternalName", proves: "Service.spec.externalName", check: served("v2", reviewsIP+":80", "alias", "/"), with: registryOnly + forMesh(httpToV2) + "---\napiVersion: v1\nkind: Service\nmetadata: {name: alias}\nspec: {type: ExternalName, externalName: reviews.default.svc.cluster.local}\n",
			without: registryOnly + forMesh(httpToV2) + "---\napiVersion: v1\nkind: Service\nmetadata: {name: alias}\nspec: {type: ExternalName, externalName: elsewhere.test}\n"},
	}
}

// l4Rules are about the conditions of TCP and TLS rules.
func l4Rules() []feature {
	tcp := func(match, destination string) string {
		return forMesh("tcp: [{match: [{port: 9000" + match + "}], route: [{destination: " + destination + "}]}]")
	}
	tls := func(match, destination string) string {
		return forMesh("tls: [{match: [{sniHosts: [secure.test]" + match + "}], route: [{destination: " + destination + "}]}]")
	}
	const v2 = "{host: reviews, subset: v2}"
	greeted := times(8, spoken("v2", reviewsIP+":9000", ""))
	secured := times(8, func(m *mesh) error { return overTLS(m, reviewsIP+":443", "secure.test", "v2") })
	var out []feature
	for _, c := range []struct{ field, with, without string }{
		{"sourceLabels", ", sourceLabels: {tier: front}", ", sourceLabels: {tier: back}"}, {"sourceNamespace", ", sourceNamespace: default", ", sourceNamespace: other"},
		{"gateways", ", gateways: [mesh]", ", gateways: [somewhere]"}, {"destinationSubnets", ", destinationSubnets: [10.0.0.0/24]", ", destinationSubnets: [10.9.0.0/24]"},
	} {
		out = append(out, feature{name: "tcp match " + c.field, proves: "VirtualService.tcp.match." + c.field, with: tcp(c.with, v2), without: tcp(c.without, v2), check: greeted},
			feature{name: "tls match " + c.field, proves: "VirtualService.tls.match." + c.field, with: tls(c.with, v2), without: tls(c.without, v2), check: secured})
	}
	return append(out,
		feature{name: "tls match port", proves: "VirtualService.tls.match.port", with: tls(", port: 443", v2), without: tls(", port: 444", v2), check: secured},
		feature{name: "tls weights", proves: "VirtualService.tls.route.weight", check: secured, with: forMesh("tls: [{match: [{sniHosts: [secure.test]}], route: [{destination: {host: reviews, subset: v1}, weight: 0}, {destination: {host: reviews, subset: v2}, weight: 100}]}]"),
			without: forMesh("tls: [{match: [{sniHosts: [secure.test]}], route: [{destination: {host: reviews, subset: v1}, weight: 50}, {destination: {host: reviews, subset: v2}, weight: 50}]}]")},
		feature{name: "tcp to another host", proves: "VirtualService.tcp.route.destination.host VirtualService.tcp.route.destination.port.number", with: tcp("", "{host: legacy, port: {number: 9100}}"), without: tcp("", v2), check: times(4, spoken("plain", reviewsIP+":9000", ""))},
		feature{name: "tls to another host", proves: "VirtualService.tls.route.destination.host VirtualService.tls.route.destination.port.number", with: tls("", "{host: legacy, port: {number: 443}}"), without: tls("", v2),
			check: times(4, func(m *mesh) error { return overTLS(m, reviewsIP+":443", "secure.test", "plain") })})
}
