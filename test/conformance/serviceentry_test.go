package conformance

import (
	"fmt"
	"net/http"
	"testing"
)

// registryOnly goes before what opens a way out of a mesh that has none else.
var registryOnly = meshConfig("{outboundTrafficPolicy: {mode: REGISTRY_ONLY}}") + "---\n"

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
