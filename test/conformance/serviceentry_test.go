package conformance

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// registryOnly goes before what opens a way out of a mesh that has none else.
var registryOnly = meshConfig("{outboundTrafficPolicy: {mode: REGISTRY_ONLY}}") + "---\n"

// portAnswers checks at which port of the host outside a request to two.test is answered.
func portAnswers(want string) func(*mesh) error {
	return func(m *mesh) error {
		_, got, err := m.from(m.pods.client, "10.88.1.5:80", "two.test", "/")
		return orErr(err, expect(got.Port == want, "answered by %q at %s", got.Version, got.Port))
	}
}

func serviceEntries(_ *testing.T, m *mesh) []feature {
	outside := m.pods.outside.Address
	entry := func(spec string) string {
		return registryOnly + "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: case}\nspec: " + spec + "\n"
	}
	// Without the entry the host is none of the mesh's, and the answer is 502 or a closed connection.
	without := registryOnly + "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: case}\nspec: {hosts: [unrelated.test], ports: [{number: 7, name: http, protocol: HTTP}], resolution: NONE}\n"
	one := func(name, proves, spec string, check func(*mesh) error) feature {
		return feature{name: "ServiceEntry " + name, proves: proves, with: entry(spec), without: without, check: check}
	}
	two := func(first, second string) string {
		return fmt.Sprintf("apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: two}\nspec: {hosts: [two.test], addresses: [10.88.1.5], location: MESH_EXTERNAL, resolution: STATIC, ports: [{number: 80, name: web, protocol: HTTP}], endpoints: [{address: %[1]s, ports: {web: 8080}, %[2]s}, {address: %[1]s, ports: {web: 8081}, %[3]s}]}\n", outside, first, second)
	}
	byLabel := func(v string) string {
		return "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: two}\nspec: {host: two.test, subsets: [{name: case, labels: {v: " + v + "}}]}\n---\n" +
			"apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: two}\nspec: {hosts: [two.test], http: [{route: [{destination: {host: two.test, subset: case}}]}]}\n"
	}
	const byHomeNetwork = ", loadBalancer: {localityLbSetting: {failoverPriority: [topology.istio.io/network]}}"
	nearest := func(more string) string {
		return "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: two}\nspec: {host: two.test, trafficPolicy: {outlierDetection: {consecutive5xxErrors: 100, consecutiveGatewayErrors: 100}" + more + "}}\n"
	}
	meshed := func(endpoint string) string {
		return "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: two}\nspec: {hosts: [two.test], addresses: [10.88.1.5], location: MESH_INTERNAL, resolution: STATIC, ports: [{number: 80, name: web, protocol: HTTP, targetPort: 8080}], endpoints: [{address: " + m.pods.v1.Address + ", " + endpoint + "}]}\n"
	}
	retried := func(more string) string {
		return "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: two}\nspec: {hosts: [two.test], http: [{retries: {attempts: 4, retryOn: connect-failure" + more + "}, route: [{destination: {host: two.test}}]}]}\n"
	}
	const numbered = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: two}\nspec: {hosts: [two.test], addresses: [10.88.1.5], resolution: STATIC, location: MESH_EXTERNAL, ports: [{number: %s, name: %s, protocol: HTTP}], endpoints: [{address: %s, ports: {web: 8081}}]}\n"
	return []feature{
		one("STATIC", "ServiceEntry.resolution ServiceEntry.endpoints.address ServiceEntry.hosts", fmt.Sprintf("{hosts: [fixed.test], resolution: STATIC, ports: [{number: 8000, name: http, protocol: HTTP, targetPort: 8080}], endpoints: [{address: %s}]}", outside),
			served("outside", "10.88.1.2:8000", "fixed.test:8000", "/")),
		one("STATIC with a port by name", "ServiceEntry.endpoints.ports", fmt.Sprintf("{hosts: [fixed.test], resolution: STATIC, ports: [{number: 8000, name: web, protocol: HTTP}], endpoints: [{address: %s, ports: {web: 8081}}]}", outside),
			served("outside", "10.88.1.2:8000", "fixed.test:8000", "/")),
		one("NONE", "ServiceEntry.resolution", "{hosts: [direct.test], resolution: NONE, ports: [{number: 8080, name: http, protocol: HTTP}]}", served("outside", outside+":8080", "direct.test:8080", "/")),
		one("without resolution", "ServiceEntry.resolution", "{hosts: [direct.test], ports: [{number: 8080, name: http, protocol: HTTP}]}", served("outside", outside+":8080", "direct.test:8080", "/")),
		one("wildcard host", "ServiceEntry.hosts", `{hosts: ["*.wild.test"], resolution: NONE, ports: [{number: 8080, name: http, protocol: HTTP}]}`,
			both(served("outside", outside+":8080", "a.wild.test:8080", "/"), func(m *mesh) error {
				response, _, err := m.from(m.pods.client, outside+":8080", "tame.test:8080", "/")
				return orErr(err, expect(response != nil && response.StatusCode == http.StatusBadGateway, "another host is reached"))
			})),
		one("address, TCP", "ServiceEntry.addresses ServiceEntry.ports.protocol", fmt.Sprintf("{hosts: [tcp.test], addresses: [10.88.1.3], resolution: STATIC, ports: [{number: 9000, name: tcp, protocol: TCP}], endpoints: [{address: %s}]}", outside),
			spoken("outside", "10.88.1.3:9000", "")),
		one("addresses of a range", "ServiceEntry.addresses", "{hosts: [range.test], addresses: [10.88.0.0/24], resolution: NONE, ports: [{number: 9000, name: tcp, protocol: TCP}]}", spoken("outside", outside+":9000", "")),
		{name: "ServiceEntry endpoints by labels", proves: "ServiceEntry.endpoints.labels", check: times(6, portAnswers("8081")), with: two("labels: {v: one}", "labels: {v: two}") + byLabel("two"), without: two("labels: {v: one}", "labels: {v: two}") + byLabel("one")},
		{name: "ServiceEntry endpoints weight", proves: "ServiceEntry.endpoints.weight", with: two("weight: 10", "weight: 90"), without: two("weight: 50", "weight: 50"), check: func(m *mesh) error {
			second := 0
			for range 100 {
				if portAnswers("8081")(m) == nil {
					second++
				}
			}
			return expect(second > 70 && second < 99, "the heavy one got %d of 100", second)
		}},
		{name: "ServiceEntry endpoints locality", proves: "ServiceEntry.endpoints.locality", check: times(6, portAnswers("8081")), with: two("locality: east/a", "locality: north/a/x") + nearest(""), without: two("locality: east/a", "locality: east/a") + nearest("")},
		{name: "retries elsewhere", proves: "VirtualService.http.retries.retryRemoteLocalities", check: times(4, portAnswers("8081")), with: strings.Replace(two("locality: north/a", "locality: east/a"), "web: 8080", "web: 7", 1) + nearest("") + retried(", retryRemoteLocalities: true"),
			without: strings.Replace(two("locality: north/a", "locality: east/a"), "web: 8080", "web: 7", 1) + nearest("") + retried("")},
		{name: "ServiceEntry endpoints network", proves: "ServiceEntry.endpoints.network", check: times(6, portAnswers("8081")), with: two("network: away", "network: home") + nearest(byHomeNetwork), without: two("network: away", "network: away") + nearest(byHomeNetwork)},
		{name: "ServiceEntry endpoints serviceAccount", proves: "ServiceEntry.endpoints.serviceAccount", with: meshed("serviceAccount: v1"), without: meshed("weight: 1"), check: func(m *mesh) error {
			_, got, err := m.from(m.pods.client, "10.88.1.5:80", "two.test", "/")
			return orErr(err, expect(strings.Contains(got.Headers.Get("x-forwarded-client-cert"), clientIdentity), "the server's proxy saw %v", got.Headers))
		}},
		{name: "ServiceEntry port number and name", proves: "ServiceEntry.ports.number ServiceEntry.ports.name", with: fmt.Sprintf(numbered, "80", "web", outside), without: fmt.Sprintf(numbered, "81", "other", outside), check: portAnswers("8081")},
		one("exportTo", "ServiceEntry.exportTo", fmt.Sprintf("{hosts: [fixed.test], exportTo: [.], resolution: STATIC, ports: [{number: 8000, name: http, protocol: HTTP, targetPort: 8080}], endpoints: [{address: %s}]}", outside),
			both(served("outside", "10.88.1.2:8000", "fixed.test:8000", "/"), func(m *mesh) error {
				response, got, err := m.from(m.pods.other, "10.88.1.2:8000", "fixed.test:8000", "/")
				return expect(err != nil || response.StatusCode == http.StatusBadGateway, "another namespace is answered by %q", got.Version)
			})),
		one("timeout of a VirtualService for it", "VirtualService.http.timeout", fmt.Sprintf("{hosts: [fixed.test], resolution: STATIC, ports: [{number: 8000, name: http, protocol: HTTP, targetPort: 8080}], endpoints: [{address: %s}]}\n---\n"+
			"apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: slow}\nspec: {hosts: [fixed.test], http: [{timeout: 0.2s, retries: {attempts: 0}, route: [{destination: {host: fixed.test}}]}]}", outside),
			func(m *mesh) error {
				m.backends["outside"].delay.Store(600)
				defer m.backends["outside"].delay.Store(0)
				response, _, err := m.from(m.pods.client, "10.88.1.2:8000", "fixed.test:8000", "/")
				return orErr(err, expect(response != nil && response.StatusCode == http.StatusGatewayTimeout, "answered %v", response))
			}),
	}
}
