package conformance

import (
	"net/http"
	"strings"
	"testing"
)

// authorization is a further AuthorizationPolicy for reviews, after other documents.
func authorization(spec string) string {
	return "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: case}\nspec: {selector: {matchLabels: {app: reviews}}, " + strings.TrimPrefix(spec, "{") + "\n"
}

func authorizations(m *mesh) []feature {
	client := m.pods.client.Address
	var out []feature
	add := func(name, proves, with, without string, check func(*mesh) error) {
		out = append(out, feature{name: "AuthorizationPolicy " + name, proves: proves, with: authorization(with), without: authorization(without), check: check})
	}
	denied := asked(403, "/page", "x-forwarded-for", "9.9.9.9", "x-user", "jason")
	deny := func(rule string) string { return "{action: DENY, rules: [" + rule + "]}" }
	const own, nobody = "cluster.local/ns/default/sa/client", "cluster.local/ns/default/sa/nobody"
	for _, c := range []struct{ field, with, without string }{
		{"principals", own, nobody}, {"principals", "\"*/sa/client\"", "\"*/sa/nobody\""}, {"principals", "\"cluster.local/ns/default/*\"", "\"cluster.local/ns/other/*\""}, {"notPrincipals", nobody, own},
		{"namespaces", "default", "other"}, {"namespaces", "\"def*\"", "\"oth*\""}, {"notNamespaces", "other", "default"}, {"serviceAccounts", "default/client", "other/client"}, {"notServiceAccounts", "other/client", "default/client"},
		{"trustDomains", "cluster.local", "elsewhere.test"}, {"notTrustDomains", "elsewhere.test", "cluster.local"}, {"ipBlocks", client, "10.99.0.0/16"}, {"notIpBlocks", "10.99.0.0/16", client},
		{"remoteIpBlocks", "9.9.9.0/24", "9.9.8.0/24"}, {"notRemoteIpBlocks", "9.9.8.0/24", "9.9.9.0/24"},
	} {
		add(c.field+" "+strings.ReplaceAll(c.with, client, "CLIENT"), "AuthorizationPolicy.rules.from.source."+c.field, deny("{from: [{source: {"+c.field+": ["+c.with+"]}}]}"), deny("{from: [{source: {"+c.field+": ["+c.without+"]}}]}"), denied)
	}
	for _, c := range []struct{ field, with, without string }{
		{"hosts", "REVIEWS", "others"}, {"hosts", "\"rev*\"", "\"oth*\""}, {"notHosts", "others", "reviews"}, {"ports", "\"8080\"", "\"8081\""}, {"notPorts", "\"8081\"", "\"8080\""},
		{"methods", "GET", "POST"}, {"notMethods", "POST", "GET"}, {"paths", "/page", "/pages"}, {"paths", "\"/p*\"", "\"/q*\""}, {"paths", "\"*age\"", "\"*ages\""}, {"paths", "\"/{*}\"", "\"/x/{*}\""}, {"notPaths", "/pages", "/page"},
	} {
		add(c.field+" "+c.with, "AuthorizationPolicy.rules.to.operation."+c.field, deny("{to: [{operation: {"+c.field+": ["+c.with+"]}}]}"), deny("{to: [{operation: {"+c.field+": ["+c.without+"]}}]}"), denied)
	}
	for _, c := range []struct{ key, with, without string }{
		{"source.ip", client, "10.99.0.1"}, {"remote.ip", "9.9.9.9", "9.9.9.8"}, {"source.namespace", "default", "other"}, {"source.principal", own, nobody}, {"destination.port", "\"8080\"", "\"8081\""},
		{"destination.ip", "10.77.0.0/24", "10.99.0.0/24"}, {"request.headers[x-user]", "jason", "mary"}, {"connection.sni", "\"outbound_.80_.*\"", "elsewhere.test"},
	} {
		key := "{when: [{key: \"" + c.key + "\", values: ["
		add("when "+c.key, "AuthorizationPolicy.rules.when.key AuthorizationPolicy.rules.when.values", deny(key+c.with+"]}]}"), deny(key+c.without+"]}]}"), denied)
	}
	add("when not", "AuthorizationPolicy.rules.when.notValues", deny("{when: [{key: \"request.headers[x-user]\", notValues: [mary]}]}"), deny("{when: [{key: \"request.headers[x-user]\", notValues: [jason]}]}"), denied)
	add("ALLOW lets nothing else pass", "AuthorizationPolicy.action", "{action: ALLOW, rules: [{to: [{operation: {paths: [/page]}}]}]}", "{action: ALLOW, rules: [{}]}", both(asked(200, "/page"), asked(403, "/other")))
	add("without rules", "AuthorizationPolicy.action", "{action: ALLOW}", "{action: DENY}", asked(403, "/"))
	add("AUDIT lets pass", "AuthorizationPolicy.action", "{action: AUDIT, rules: [{}]}", "{action: DENY, rules: [{}]}", asked(200, "/"))
	add("path tricks", "AuthorizationPolicy.rules.to.operation.paths", deny("{to: [{operation: {paths: [/admin, \"/admin/*\"]}}]}"), deny("{to: [{operation: {paths: [/none]}}]}"),
		both(asked(403, "/admin"), asked(403, "/./admin"), asked(403, "/x/../admin"), asked(403, "/admin?x=y"), asked(403, "/admin/x"), asked(403, "/admin#x"), asked(200, "/Admin")))
	add("of a connection", "AuthorizationPolicy.rules.to.operation.ports", deny("{to: [{operation: {ports: [\"9002\"]}}]}"), deny("{to: [{operation: {ports: [\"9009\"]}}]}"), // what speaks first is heard before Envoy asks
		func(m *mesh) error {
			got, err := m.tcpFrom(m.pods.client, reviewsIP+":9003", "hello")
			return expect(err != nil, "the connection was answered %q", got)
		})
	add("ALLOW of requests lets no connection pass", "AuthorizationPolicy.rules.to.operation.methods", "{action: ALLOW, rules: [{to: [{operation: {methods: [GET]}}]}]}", "{action: ALLOW, rules: [{to: [{operation: {ports: [\"9002\"]}}]}]}", func(m *mesh) error {
		got, err := m.tcpFrom(m.pods.client, reviewsIP+":9003", "hello")
		return expect(err != nil, "the connection was answered %q", got)
	})
	out = append(out,
		feature{name: "AuthorizationPolicy selector", proves: "AuthorizationPolicy.selector.matchLabels", with: "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: case}\nspec: {selector: {matchLabels: {version: v1}}, action: DENY, rules: [{}]}\n",
			without: "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: case}\nspec: {selector: {matchLabels: {version: v2}}, action: DENY, rules: [{}]}\n", check: func(m *mesh) error {
				response, _, err := m.from(m.pods.plain, m.pods.v1.Address+":8080", "reviews", "/")
				return orErr(err, expect(response != nil && response.StatusCode == http.StatusForbidden, "answered %v", response))
			}},
		feature{name: "AuthorizationPolicy of the root namespace", proves: "AuthorizationPolicy.action", check: asked(403, "/"), with: "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: case, namespace: istio-system}\nspec: {action: DENY, rules: [{}]}\n"},
		feature{name: "AuthorizationPolicy dry run", proves: "AuthorizationPolicy.action", check: asked(200, "/"), with: strings.Replace(authorization("{action: DENY, rules: [{}]}"), "{name: case}", "{name: case, annotations: {istio.io/dry-run: \"true\"}}", 1),
			without: strings.Replace(authorization("{action: DENY, rules: [{}]}"), "{name: case}", "{name: case, annotations: {istio.io/dry-run: \"false\"}}", 1)},
		feature{name: "pathNormalization", proves: "MeshConfig.pathNormalization", check: both(asked(403, "//admin"), asked(403, "/x%2F..%2Fadmin")), with: meshConfig("{pathNormalization: {normalization: DECODE_AND_MERGE_SLASHES}}") + authorization(deny("{to: [{operation: {paths: [/admin]}}]}")),
			without: meshConfig("{}") + authorization(deny("{to: [{operation: {paths: [/admin]}}]}"))},
	)
	return out
}

// TestPolicy runs what decides who may do what, from pod to pod.
func TestPolicy(t *testing.T) {
	t.Parallel() // its ports are its own
	m := startPods(t)
	m.base = meshConfig("{}") + "---\n" + withPolicy("")
	m.prove(t, authorizations(m))
	m.prove(t, externalAuthorizations())
	m.prove(t, tokens(t))
	m.prove(t, tokenConditions(t))
	m.rejections(t)
	t.Run("trust domain aliases", func(t *testing.T) {
		m.prove(t, []feature{{name: "AuthorizationPolicy principals of an alias", proves: "MeshConfig.trustDomainAliases", check: asked(403, "/"),
			with:    meshConfig("{trustDomainAliases: [old.test]}") + authorization("{action: DENY, rules: [{from: [{source: {principals: [old.test/ns/default/sa/client]}}]}]}"),
			without: meshConfig("{}") + authorization("{action: DENY, rules: [{from: [{source: {principals: [old.test/ns/default/sa/client]}}]}]}")}})
	})
}
