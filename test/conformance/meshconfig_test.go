package conformance

import (
	"net/http"

	"github.com/slipway-mesh/slipway/test/nettest"
)

const reviewsCluster = "outbound|80||reviews.default.svc.cluster.local"

// byPolicy are MeshConfig's settings that count where no DestinationRule says: each is looked at as the rule's is that it stands for.
func byPolicy(list []policy) []feature {
	named := map[string]policy{}
	for _, p := range list {
		named[p.name] = p
	}
	rule := func(host, blocks string) string {
		return "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: case}\nspec: {host: " + host + ", trafficPolicy: {" + blocks + "}}\n"
	}
	const healthy = "loadBalancer: {simple: ROUND_ROBIN}, outlierDetection: {consecutive5xxErrors: 2, interval: 0.1s, baseEjectionTime: 1s, maxEjectionPercent: 100}"
	var out []feature
	for _, c := range []struct{ field, as, with, without, more string }{
		{"connectTimeout", "connectTimeout", "connectTimeout: 0.2s", "connectTimeout: 4s", ""},
		{"tcpKeepalive", "tcpKeepalive", "tcpKeepalive: {probes: 1, time: 1s, interval: 1s}", "tcpKeepalive: {probes: 9, time: 2s, interval: 75s}", ""},
		{"h2UpgradePolicy", "h2UpgradePolicy", "h2UpgradePolicy: UPGRADE", "h2UpgradePolicy: DO_NOT_UPGRADE", ""},
		{"defaultTrafficPolicy", "maxRequestsPerConnection", "defaultTrafficPolicy: {connectionPool: {http: {maxRequestsPerConnection: 1}}}", "", ""},
		{"localityLbSetting", "locality failoverPriority", "localityLbSetting: {failoverPriority: [version=v2]}", "", rule(toReviews.host, healthy)},
		{"zoneAwareLbSetting", "zone-aware", "zoneAwareLbSetting: {enabled: true, minClusterSize: 1}", "", rule("placed.test", "loadBalancer: {simple: ROUND_ROBIN}")},
	} {
		p := named[c.as]
		out = append(out, feature{name: "MeshConfig " + c.field, proves: "MeshConfig." + c.field, with: p.target.objects + meshConfig("{"+c.with+"}") + c.more, without: p.target.objects + meshConfig("{"+c.without+"}") + c.more,
			check: func(m *mesh) error { return p.check(m, reviewsCluster) }})
	}
	return out
}

// meshConfigs are settings of the whole mesh.
func meshConfigs(m *mesh) []feature {
	// greeter speaks first, on a port whose protocol nobody says.
	greeter := "---\napiVersion: v1\nkind: Service\nmetadata: {name: greeter}\nspec: {clusterIP: 10.0.0.79, ports: [{port: 80}]}\n---\n" +
		"apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: greeter, labels: {kubernetes.io/service-name: greeter}}\naddressType: IPv4\nports: [{name: \"\", port: 9000}]\n" +
		"endpoints: [{addresses: [" + m.pods.outside.Address + "], conditions: {ready: true}}]\n"
	const strictElsewhere = "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: case, namespace: other}\nspec: {mtls: {mode: STRICT}}\n"
	const nobody = "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: reviews}\nspec: {host: reviews, trafficPolicy: {tls: {mode: SIMPLE, sni: nobody.test}}}\n"
	visible := func(to string) string {
		return meshConfig("{outboundTrafficPolicy: {mode: REGISTRY_ONLY}, serviceEntryVisibility: {applyToSidecars: true, policies: [{visibility: "+to+", matchingRules: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}}]}]}}") +
			"---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: case}\nspec: {hosts: [direct.test], resolution: NONE, ports: [{number: 8080, name: http, protocol: HTTP}]}\n"
	}
	toEntry := func(p *nettest.Pod, want bool) func(*mesh) error {
		return func(m *mesh) error {
			response, got, err := m.from(p, m.pods.outside.Address+":8080", "direct.test:8080", "/")
			return orErr(err, expect((got.Version == "outside") == want, "%s is answered %v by %q", p.Name, response, got.Version))
		}
	}
	deny := authorization("{action: DENY, rules: [{from: [{source: {principals: [new.test/ns/default/sa/client]}}]}]}")
	return []feature{
		{name: "protocolDetectionTimeout", proves: "MeshConfig.protocolDetectionTimeout", with: meshConfig("{protocolDetectionTimeout: 0.3s}") + greeter, without: meshConfig("{protocolDetectionTimeout: 20s}") + greeter, check: spoken("outside", "10.0.0.79:80", "")},
		{name: "serviceEntryVisibility NONE", proves: "MeshConfig.serviceEntryVisibility", with: visible("NONE"), without: visible("PUBLIC"), check: toEntry(m.pods.client, false)},
		{name: "serviceEntryVisibility NAMESPACE", proves: "MeshConfig.serviceEntryVisibility", with: visible("NAMESPACE"), without: visible("NONE"), check: toEntry(m.pods.client, true)},
		{name: "rootNamespace", proves: "MeshConfig.rootNamespace", with: meshConfig("{rootNamespace: other}") + strictElsewhere, without: meshConfig("{}") + strictElsewhere, check: both(bypass("8080"), answered(200))},
		{name: "defaultDestinationRuleExportTo", proves: "MeshConfig.defaultDestinationRuleExportTo", with: meshConfig("{defaultDestinationRuleExportTo: [\".\"]}") + nobody, without: meshConfig("{}") + nobody, check: both(answered(http.StatusServiceUnavailable), otherGets(http.StatusOK))},
		{name: "defaultHttpRetryPolicy", proves: "MeshConfig.defaultHttpRetryPolicy", with: meshConfig("{defaultHttpRetryPolicy: {attempts: 0}}"), without: meshConfig("{}"), check: func(m *mesh) error {
			for _, version := range []string{"v1", "v2"} {
				m.backends[version].fail.Store(1)
				defer m.backends[version].fail.Store(0)
			}
			return answered(http.StatusServiceUnavailable)(m)
		}},
		{name: "trustDomain", proves: "MeshConfig.trustDomain", with: meshConfig("{trustDomain: new.test, trustDomainAliases: [cluster.local]}") + deny, without: meshConfig("{}") + deny, check: both(asked(403, "/"), func(m *mesh) error {
			// Those who have certificates of the domain's former name are called, and call, as before.
			if err := otherGets(http.StatusOK)(m); err != nil {
				return err
			}
			_, got, err := m.from(m.pods.other, reviewsIP+":80", "reviews.default", "/")
			return orErr(err, expect(got.Headers.Get("x-forwarded-client-cert") != "", "the call is not of the mesh: %v", got.Headers))
		})},
	}
}

// ingressSettings say which Ingresses are served, by whom, and what their status tells.
func ingressSettings() []feature {
	of := func(class string) string {
		return "---\n" + ingress("{"+class+"defaultBackend: {service: {name: shop, port: {number: 82}}}}")
	}
	setting := func(field, with, without, object string, check func(*mesh) error) feature {
		selected := func(more string) string { return meshConfig("{"+more+"}") + object }
		return feature{name: "MeshConfig " + field, proves: "MeshConfig." + field, with: selected(with), without: selected(without), check: check}
	}
	const ours = "ingressSelector: conformance"
	addressed := func(m *mesh) error {
		got, err := m.ingressAddress()
		return orErr(err, expect(got == "192.0.2.8", "the status is %q", got))
	}
	answers := over80("any.test", "/", http.StatusOK, "v2")
	return []feature{
		setting("ingressSelector", ours, "ingressSelector: other", of("ingressClassName: istio, "), answers),
		setting("ingressClass", ours+", ingressClass: edge", ours, of("ingressClassName: edge, "), answers),
		setting("ingressControllerMode", ours+", ingressControllerMode: DEFAULT", ours+", ingressControllerMode: STRICT", of(""), answers),
		setting("ingressService", ours+", ingressService: edge", ours, of("ingressClassName: istio, "), addressed),
	}
}
