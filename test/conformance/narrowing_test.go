package conformance

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
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

func sidecarObjects(m *mesh) []feature {
	const closed = "outboundTrafficPolicy: {mode: REGISTRY_ONLY}"
	const everything = `{egress: [{hosts: ["*/*"]}], ` + closed + "}"
	outside := m.pods.outside.Address
	plain, v1 := m.pods.plain, m.pods.v1
	one := func(name, proves, spec, without string, check func(*mesh) error) feature {
		return feature{name: "Sidecar " + name, proves: proves, with: sidecarObject(spec), without: sidecarObject(without), check: check}
	}
	legacy := both(served("plain", legacyIP+":80", "legacy", "/"), unreachable(reviewsIP+":80", "reviews"))
	slow := func(m *mesh) error { // more at once than the pool lets through
		m.backends["v1"].delay.Store(300)
		defer m.backends["v1"].delay.Store(0)
		var refused atomic.Int64
		var group sync.WaitGroup
		for range 8 {
			group.Go(func() {
				if response, _, err := m.from(plain, v1.Address+":8080", "reviews", "/"); err == nil && response.StatusCode == http.StatusServiceUnavailable {
					refused.Add(1)
				}
			})
		}
		group.Wait()
		return expect(refused.Load() > 0, "no request was refused")
	}
	const pool = "{tcp: {maxConnections: 1}, http: {http1MaxPendingRequests: 1}}"
	answeredAt := func(address, port string) func(*mesh) error {
		return func(m *mesh) error {
			_, got, err := m.from(plain, address, "reviews", "/")
			return orErr(err, expect(got.Version == "v1" && got.Port == port, "answered by %s at %s", got.Version, got.Port))
		}
	}
	return []feature{
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
			"{workloadSelector: {labels: {version: v1}}}", slow),
		one("ingress connectionPool", "Sidecar.ingress.connectionPool.tcp.maxConnections Sidecar.ingress.connectionPool.http.http1MaxPendingRequests",
			"{workloadSelector: {labels: {version: v1}}, ingress: [{port: {number: 8080, name: http, protocol: HTTP}, connectionPool: "+pool+"}]}", "{workloadSelector: {labels: {version: v1}}, ingress: [{port: {number: 8080, name: http, protocol: HTTP}}]}", slow),
	}
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
