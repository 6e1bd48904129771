package conformance

import (
	"fmt"
	"strings"
	"testing"

	"github.com/slipway-mesh/slipway/test/nettest"
)

// envoyFilter is one in the namespace of the workloads.
func envoyFilter(spec string) string {
	return "apiVersion: networking.istio.io/v1alpha3\nkind: EnvoyFilter\nmetadata: {name: case}\nspec:\n  " + strings.ReplaceAll(strings.TrimSpace(spec), "\n", "\n  ") + "\n"
}

// lua is an HTTP filter that sets a header of responses.
func lua(value string) string {
	return fmt.Sprintf(`{name: envoy.filters.http.lua, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua,
      default_source_code: {inline_string: "function envoy_on_response(h) h:headers():replace('x-patched', '%s') end"}}}`, value)
}

const responseHeader = `response_headers_to_add: [{header: {key: x-patched, value: "yes"}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}]`

// patchedFrom checks the header that the patches set, as a caller sees it.
func patchedFrom(from func(*mesh) *nettest.Pod, address, host, path, want string) func(*mesh) error {
	return func(m *mesh) error {
		response, _, err := m.from(from(m), address, host, path)
		if err != nil {
			return err
		}
		got := response.Header.Get("x-patched")
		return expect(got == want, "x-patched is %q in %s, not %q", got, response.Status, want)
	}
}

func fromClient(m *mesh) *nettest.Pod { return m.pods.client }

// patched checks a call of reviews by the client's sidecar.
func patched(want string) func(*mesh) error {
	return patchedFrom(fromClient, reviewsIP+":80", "reviews", "/", want)
}

// statusIs checks the status of a call of reviews.
func statusIs(want int) func(*mesh) error {
	return func(m *mesh) error {
		response, _, err := m.from(m.pods.client, reviewsIP+":80", "reviews", "/")
		if err != nil {
			return err
		}
		return expect(response.StatusCode == want, "the answer is %s, not %d", response.Status, want)
	}
}

// extension adds a filter whose configuration is asked for by its name, and that configuration.
func extension(value string) string {
	return envoyFilter(`configPatches:
- applyTo: EXTENSION_CONFIG
  patch: {operation: ADD, value: ` + strings.Replace(lua(value), "envoy.filters.http.lua,", "own.lua,", 1) + `}
- applyTo: HTTP_FILTER
  match: {context: SIDECAR_OUTBOUND, listener: {filterChain: {` + router + `}}}
  patch: {operation: INSERT_BEFORE, value: {name: own.lua, config_discovery: {config_source: {ads: {}, resource_api_version: V3}, type_urls: [type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua]}}}`)
}

const router = "filter: {name: envoy.filters.network.http_connection_manager, subFilter: {name: envoy.filters.http.router}}"

var envoyFilterFeatures = []feature{
	{name: "EnvoyFilter HTTP_FILTER before the router, of selected callers", proves: "EnvoyFilter.workloadSelector.labels EnvoyFilter.configPatches.applyTo EnvoyFilter.configPatches.match.context EnvoyFilter.configPatches.match.listener.filterChain.filter.name EnvoyFilter.configPatches.match.listener.filterChain.filter.subFilter.name EnvoyFilter.configPatches.patch.operation EnvoyFilter.configPatches.patch.value",
		with: envoyFilter(`workloadSelector: {labels: {app: client}}
configPatches:
- applyTo: HTTP_FILTER
  match: {context: SIDECAR_OUTBOUND, listener: {filterChain: {` + router + `}}}
  patch: {operation: INSERT_BEFORE, value: ` + lua("outbound") + `}`),
		check: patched("outbound"), without: envoyFilter(`workloadSelector: {labels: {app: nobody}}
configPatches:
- applyTo: HTTP_FILTER
  match: {context: SIDECAR_OUTBOUND, listener: {filterChain: {` + router + `}}}
  patch: {operation: INSERT_BEFORE, value: ` + lua("outbound") + `}`)},
	{name: "EnvoyFilter HTTP_FILTER of what is received at a port", proves: "EnvoyFilter.configPatches.match.listener.portNumber",
		with: envoyFilter(`configPatches:
- applyTo: HTTP_FILTER
  match: {context: SIDECAR_INBOUND, listener: {portNumber: 8080, filterChain: {` + router + `}}}
  patch: {operation: INSERT_FIRST, value: ` + lua("inbound") + `}`),
		without: envoyFilter(`configPatches:
- applyTo: HTTP_FILTER
  match: {context: SIDECAR_INBOUND, listener: {portNumber: 7, filterChain: {` + router + `}}}
  patch: {operation: INSERT_FIRST, value: ` + lua("inbound") + `}`), check: patched("inbound")},
	{name: "EnvoyFilter NETWORK_FILTER merged into the connection manager of a listener", proves: "EnvoyFilter.configPatches.match.listener.name",
		with: envoyFilter(`configPatches:
- applyTo: NETWORK_FILTER
  match: {context: SIDECAR_INBOUND, listener: {name: virtualInbound, filterChain: {filter: {name: envoy.filters.network.http_connection_manager}}}}
  patch: {operation: MERGE, value: {typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, via: patched}}}`),
		check: func(m *mesh) error {
			response, _, err := m.from(m.pods.client, reviewsIP+":80", "reviews", "/")
			if err != nil {
				return err
			}
			return expect(strings.Contains(response.Header.Get("via"), "patched"), "via is %q", response.Header.Get("via"))
		}},
	{name: "EnvoyFilter EXTENSION_CONFIG of a filter that asks for it", proves: "EnvoyFilter.configPatches.applyTo", with: extension("found"), without: extension("other"), check: patched("found")},
	{name: "EnvoyFilter CLUSTER removed, by service and port", proves: "EnvoyFilter.configPatches.match.cluster.service EnvoyFilter.configPatches.match.cluster.portNumber",
		with: envoyFilter(`configPatches:
- applyTo: CLUSTER
  match: {context: SIDECAR_OUTBOUND, cluster: {service: reviews.default.svc.cluster.local, portNumber: 80}}
  patch: {operation: REMOVE}`), check: statusIs(503)},
	{name: "EnvoyFilter CLUSTER with other lists, by name", proves: "EnvoyFilter.configPatches.match.cluster.name",
		with: envoyFilter(`configPatches:
- applyTo: CLUSTER
  match: {context: SIDECAR_OUTBOUND, cluster: {name: "outbound|80||reviews.default.svc.cluster.local"}}
  patch: {operation: MERGE_AND_REPLACE_LIST, value: {circuit_breakers: {thresholds: [{max_connections: 0, max_pending_requests: 0}]}}}`), check: statusIs(503)},
	{name: "EnvoyFilter CLUSTER of a subset", proves: "EnvoyFilter.configPatches.match.cluster.subset",
		with: envoyFilter(`configPatches:
- applyTo: CLUSTER
  match: {context: SIDECAR_OUTBOUND, cluster: {subset: v2}}
  patch: {operation: REMOVE}`) + "---\n" + forMesh(httpToV2), without: forMesh(httpToV2) + "---\n" + envoyFilter("configPatches: []"), check: statusIs(503)},
	{name: "EnvoyFilter VIRTUAL_HOST by name", proves: "EnvoyFilter.configPatches.match.routeConfiguration.vhost.name",
		with: envoyFilter(`configPatches:
- applyTo: VIRTUAL_HOST
  match: {context: SIDECAR_OUTBOUND, routeConfiguration: {vhost: {name: "reviews.default.svc.cluster.local:80"}}}
  patch: {operation: MERGE, value: {` + responseHeader + `}}`), check: patched("yes")},
	{name: "EnvoyFilter VIRTUAL_HOST by domain", proves: "EnvoyFilter.configPatches.match.routeConfiguration.vhost.domainName EnvoyFilter.configPatches.match.routeConfiguration.portNumber",
		with: envoyFilter(`configPatches:
- applyTo: VIRTUAL_HOST
  match: {context: SIDECAR_OUTBOUND, routeConfiguration: {portNumber: 80, vhost: {domainName: reviews.default.svc.cluster.local}}}
  patch: {operation: MERGE, value: {` + responseHeader + `}}`), without: envoyFilter(`configPatches:
- applyTo: VIRTUAL_HOST
  match: {context: SIDECAR_OUTBOUND, routeConfiguration: {portNumber: 81, vhost: {domainName: reviews.default.svc.cluster.local}}}
  patch: {operation: MERGE, value: {` + responseHeader + `}}`), check: patched("yes")},
	{name: "EnvoyFilter VIRTUAL_HOST added", proves: "EnvoyFilter.configPatches.match.routeConfiguration.name",
		with: envoyFilter(`configPatches:
- applyTo: VIRTUAL_HOST
  match: {context: SIDECAR_OUTBOUND, routeConfiguration: {name: "80"}}
  patch: {operation: ADD, value: {name: added, domains: [added.test], routes: [{match: {prefix: /}, direct_response: {status: 418}, ` + responseHeader + `}]}}`),
		check: patchedFrom(fromClient, reviewsIP+":80", "added.test", "/", "yes")},
	{name: "EnvoyFilter HTTP_ROUTE by its action", proves: "EnvoyFilter.configPatches.match.routeConfiguration.vhost.route.action",
		with: envoyFilter(`configPatches:
- applyTo: HTTP_ROUTE
  match: {context: SIDECAR_OUTBOUND, routeConfiguration: {vhost: {name: "reviews.default.svc.cluster.local:80", route: {action: ROUTE}}}}
  patch: {operation: MERGE, value: {` + responseHeader + `}}`), check: patched("yes")},
	{name: "EnvoyFilter HTTP_ROUTE by its name", proves: "EnvoyFilter.configPatches.match.routeConfiguration.vhost.route.name",
		with: envoyFilter(`configPatches:
- applyTo: HTTP_ROUTE
  match: {context: SIDECAR_OUTBOUND, routeConfiguration: {vhost: {route: {name: second}}}}
  patch: {operation: REPLACE, value: {match: {prefix: /b}, direct_response: {status: 200}, `+responseHeader+`}}`) + "---\n" +
			forMesh("http: [{name: first, match: [{uri: {prefix: /a}}], route: [{destination: {host: reviews}}]}, {name: second, route: [{destination: {host: reviews}}]}]"),
		without: envoyFilter("configPatches: []"), check: patchedFrom(fromClient, reviewsIP+":80", "reviews", "/b", "yes")},
	{name: "EnvoyFilter ROUTE_CONFIGURATION", with: envoyFilter(`configPatches:
- applyTo: ROUTE_CONFIGURATION
  match: {context: SIDECAR_OUTBOUND, routeConfiguration: {name: "80"}}
  patch: {operation: MERGE, value: {` + responseHeader + `}}`), check: patched("yes")},
	{name: "EnvoyFilter of proxies by metadata", proves: "EnvoyFilter.configPatches.match.proxy.metadata",
		with: envoyFilter(`configPatches:
- applyTo: VIRTUAL_HOST
  match: {context: SIDECAR_OUTBOUND, proxy: {metadata: {NAMESPACE: default}}, routeConfiguration: {name: "80"}}
  patch: {operation: MERGE, value: {` + responseHeader + `}}`), without: envoyFilter(`configPatches:
- applyTo: VIRTUAL_HOST
  match: {context: SIDECAR_OUTBOUND, proxy: {metadata: {NAMESPACE: elsewhere}}, routeConfiguration: {name: "80"}}
  patch: {operation: MERGE, value: {` + responseHeader + `}}`), check: patched("yes")},
	{name: "EnvoyFilter of proxies by version", proves: "EnvoyFilter.configPatches.match.proxy.proxyVersion",
		with: envoyFilter(`configPatches:
- applyTo: VIRTUAL_HOST
  match: {context: SIDECAR_OUTBOUND, proxy: {proxyVersion: '^.*$'}, routeConfiguration: {name: "80"}}
  patch: {operation: MERGE, value: {` + responseHeader + `}}`), without: envoyFilter(`configPatches:
- applyTo: VIRTUAL_HOST
  match: {context: SIDECAR_OUTBOUND, proxy: {proxyVersion: '^9\.9.*$'}, routeConfiguration: {name: "80"}}
  patch: {operation: MERGE, value: {` + responseHeader + `}}`), check: patched("yes")},
	{name: "EnvoyFilters by priority", proves: "EnvoyFilter.priority",
		with:    inOrder(10, -10),
		without: inOrder(-10, 10), check: patched("case")},
	{name: "EnvoyFilter CLUSTER added, and a route to it", with: envoyFilter(`configPatches:
- applyTo: CLUSTER
  match: {context: SIDECAR_OUTBOUND}
  patch: {operation: ADD, value: {name: nobody, connect_timeout: 1s, type: STATIC, load_assignment: {cluster_name: nobody, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 9}}}}]}]}}}
- applyTo: HTTP_ROUTE
  match: {context: SIDECAR_OUTBOUND, routeConfiguration: {vhost: {name: "reviews.default.svc.cluster.local:80"}}}
  patch: {operation: INSERT_FIRST, value: {match: {prefix: /}, route: {cluster: nobody}}}`), check: statusIs(503)},
	{name: "EnvoyFilter NETWORK_FILTER before others, of a chain's port", proves: "EnvoyFilter.configPatches.match.listener.filterChain.destinationPort",
		with: envoyFilter(`configPatches:
- applyTo: NETWORK_FILTER
  match: {context: SIDECAR_INBOUND, listener: {filterChain: {destinationPort: 8080, filter: {name: envoy.filters.network.http_connection_manager}}}}
  patch: {operation: INSERT_BEFORE, value: {name: deny, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC, stat_prefix: deny, rules: {action: DENY, policies: {all: {permissions: [{any: true}], principals: [{any: true}]}}}}}}`),
		check: statusIs(503)},
	{name: "EnvoyFilter HTTP_FILTER of the chain of mutual TLS", proves: "EnvoyFilter.configPatches.match.listener.filterChain.transportProtocol EnvoyFilter.configPatches.match.listener.filterChain.applicationProtocols EnvoyFilter.configPatches.match.listener.filterChain.name",
		with: ofChain(`name: "0.0.0.0_8080", transportProtocol: tls, applicationProtocols: "nothing,istio"`), without: ofChain("transportProtocol: raw_buffer"), check: patched("chain")},
	{name: "EnvoyFilter of another application protocol", with: ofChain("applicationProtocols: istio"), without: ofChain("applicationProtocols: nothing"), check: patched("chain")},
	{name: "EnvoyFilter of a chain by name", with: ofChain(`name: "0.0.0.0_8080"`), without: ofChain("name: another"), check: patched("chain")},
	{name: "EnvoyFilter LISTENER_FILTER removed: nobody recognises TLS", proves: "EnvoyFilter.configPatches.match.listener.listenerFilter",
		with: envoyFilter(`configPatches:
- applyTo: LISTENER_FILTER
  match: {context: SIDECAR_INBOUND, listener: {name: virtualInbound, listenerFilter: envoy.filters.listener.tls_inspector}}
  patch: {operation: REMOVE}`), check: statusIs(503)},
	{name: "EnvoyFilter at gateways", with: envoyFilter(`configPatches:
- applyTo: VIRTUAL_HOST
  match: {context: GATEWAY}
  patch: {operation: MERGE, value: {` + responseHeader + `}}`), check: func(m *mesh) error {
		response, _, err := m.from(m.pods.client, reviewsIP+":80", "reviews", "/")
		return orErr(err, expect(response != nil && response.Header.Get("x-patched") == "", "a gateway's patch reached a sidecar"))
	}, without: envoyFilter(`configPatches:
- applyTo: VIRTUAL_HOST
  match: {context: ANY}
  patch: {operation: MERGE, value: {` + responseHeader + `}}`)},
}

// ofChain sets a header in what is received by the chains that match.
func ofChain(match string) string {
	return envoyFilter(`configPatches:
- applyTo: HTTP_FILTER
  match: {context: SIDECAR_INBOUND, listener: {filterChain: {` + match + `}}}
  patch: {operation: INSERT_FIRST, value: ` + lua("chain") + `}`)
}

// inOrder is two filters that set the same header, with their priorities: the later one wins.
func inOrder(first, second int) string {
	one := func(name string, priority int) string {
		return strings.Replace(envoyFilter(fmt.Sprintf(`priority: %d
configPatches:
- applyTo: VIRTUAL_HOST
  match: {context: SIDECAR_OUTBOUND, routeConfiguration: {name: "80"}}
  patch: {operation: MERGE_AND_REPLACE_LIST, value: {response_headers_to_add: [{header: {key: x-patched, value: %s}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}]}}`, priority, name)), "name: case", "name: "+name, 1)
	}
	return one("case", first) + "---\n" + one("another", second)
}

func TestEnvoyFilters(t *testing.T) {
	t.Parallel() // its ports are its own
	startPods(t).prove(t, envoyFilterFeatures)
}
