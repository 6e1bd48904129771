package cli

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/slipway-mesh/slipway/internal/discovery/xds"
)

// slipway runs the command and returns what it prints.
func slipway(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	root := Root()
	root.SetArgs(args)
	root.SetOut(&out)
	root.SetErr(&out)
	err := root.Execute()
	return out.String(), err
}

func file(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file.yaml")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// reviews is a Service with a rule that has subset v1.
const reviews = `
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: default}
spec: {clusterIP: 10.0.0.1, ports: [{name: http, port: 80}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews, namespace: default}
spec: {host: reviews, subsets: [{name: v1, labels: {version: v1}}]}
---
`

// routes is a VirtualService for reviews.
func routes(spec string) string {
	return reviews + "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: reviews, namespace: default}\nspec: " + spec + "\n"
}

// istio is an object of one of Istio's APIs.
func istio(group, kind, name, spec string) string {
	version := "v1"
	if kind == "EnvoyFilter" {
		version = "v1alpha3"
	}
	return "apiVersion: " + group + ".istio.io/" + version + "\nkind: " + kind + "\nmetadata: {name: " + name + ", namespace: default}\nspec: " + spec + "\n---\n"
}

const (
	pod        = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: default, labels: {app: web, version: v1, istio: edge}}\nspec: {containers: [{name: a, image: b}]}\nstatus: {phase: Running, podIP: 10.1.0.1}\n---\n"
	webService = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: default}\nspec: {clusterIP: 10.0.0.3, selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}\n---\n"
	edge       = "{selector: {istio: edge}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [a.test]}]}"
	secured    = "{selector: {istio: edge}, servers: [{port: {number: 443, name: https, protocol: HTTPS}, hosts: [a.test], tls: {mode: SIMPLE, credentialName: one}}]}"
)

func namespace(labels string) string {
	return "apiVersion: v1\nkind: Namespace\nmetadata: {name: default, labels: " + labels + "}\n---\n"
}

func deployment(container string) string {
	return "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web, namespace: default}\nspec: {selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}}, spec: {containers: [{name: a, " + container + "}]}}}\n---\n"
}

func credential(data string) string {
	return "apiVersion: v1\nkind: Secret\nmetadata: {name: one, namespace: default}\ndata: " + data + "\n---\n"
}

func annotated(name string) string {
	return strings.Replace(pod, "labels:", "annotations: {"+name+": x}, labels:", 1)
}

// meshSettings is the mesh's ConfigMap.
func meshSettings(text string) string {
	return "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata: {mesh: '" + text + "'}\n"
}

// TestAnalyze has a case for each reason: what is wrong is told, with its code and where it is, and what is right is not.
func TestAnalyze(t *testing.T) {
	const good = "{hosts: [reviews], http: [{route: [{destination: {host: reviews, subset: v1}}]}]}"
	for _, c := range []struct{ name, text, want string }{
		{"nothing wrong", routes(good), "✔ No validation issues found."},
		{"unknown host", routes(strings.Replace(good, "host: reviews", "host: nowhere", 1)), "Error [IST0101] (VirtualService default/reviews) spec.http[0].route[0].destination.host: there is no Service or ServiceEntry nowhere.default"},
		{"unknown subset", routes(strings.Replace(good, "v1", "v9", 1)), "Error [IST0101] (VirtualService default/reviews) spec.http[0].route[0].destination.subset"},
		{"unknown port", routes("{hosts: [reviews], http: [{route: [{destination: {host: reviews, port: {number: 81}}}]}]}"), "Error [IST0101] (VirtualService default/reviews) spec.http[0].route[0].destination.port.number"},
		{"unknown Gateway", routes(strings.Replace(good, "http:", "gateways: [edge], http:", 1)), "Error [IST0101] (VirtualService default/reviews) spec.gateways[0]: there is no Gateway default/edge"},
		{"unreachable rule", routes("{hosts: [reviews], http: [{route: [{destination: {host: reviews}}]}, {match: [{uri: {prefix: /a}}], route: [{destination: {host: reviews}}]}]}"), "Warning [IST0130] (VirtualService default/reviews) spec.http[1]: can never be reached"},
		{"a match twice", routes("{hosts: [reviews], http: [{match: [{uri: {prefix: /a}}], route: [{destination: {host: reviews}}]}, {match: [{uri: {prefix: /a}}], route: [{destination: {host: reviews}}]}]}"), "Warning [IST0131] (VirtualService default/reviews) spec.http[1].match[0]"},
		{"no route", routes("{hosts: [reviews], http: [{}]}"), "Error [IST0106] (VirtualService default/reviews) spec.http[0]"},
		{"older field", routes("{hosts: [reviews], http: [{fault: {abort: {percent: 10, httpStatus: 500}}, route: [{destination: {host: reviews}}]}]}"), "Info [IST0002] (VirtualService default/reviews) spec.http[0].fault.abort.percent"},
		{"host that no server takes", routes(strings.Replace(good, "http:", "gateways: [edge], http:", 1)) + "---\napiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: edge, namespace: default}\nspec: {servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [other.test]}]}\n", "Warning [IST0132] (VirtualService default/reviews) spec.gateways[0]"},
		{"Gateway that selects nobody", "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: edge, namespace: default}\nspec: {selector: {istio: nobody}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [other.test]}]}\n", "Error [IST0101] (Gateway default/edge) spec.selector"},
		{"rule for nothing", "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: x, namespace: default}\nspec: {host: nowhere}\n", "Error [IST0101] (DestinationRule default/x) spec.host"},
		{"port without a protocol", strings.Replace(routes(good), "name: http", "name: web", 1), "Info [IST0118] (Service default/reviews) spec.ports[0].name"},
		{"many ports and none named", strings.Replace(routes(good), "ports: [", "ports: [{name: http-two, port: 81}, ", 1), "Warning [IST0112] (VirtualService default/reviews) spec.http[0].route[0].destination.port"},
		{"two Sidecars for all", "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: a, namespace: default}\nspec: {egress: [{hosts: [./*]}]}\n---\napiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: b, namespace: default}\nspec: {egress: [{hosts: [./*]}]}\n", "Warning [IST0111] (Sidecar default/b) spec.workloadSelector"},
		{"a zone among the labels", routes(good) + "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: a, namespace: default}\nspec: {host: reviews, trafficPolicy: {loadBalancer: {zoneAwareLbSetting: {enabled: true, failoverPriority: [topology.kubernetes.io/zone]}}}}\n", "Error [IST0106] (DestinationRule default/a) spec.trafficPolicy.loadBalancer.zoneAwareLbSetting.failoverPriority[0]"},
		{"what is not there", "apiVersion: networking.istio.io/v1alpha3\nkind: EnvoyFilter\nmetadata: {name: a, namespace: default}\nspec: {configPatches: [{applyTo: BOOTSTRAP, patch: {operation: MERGE, value: {}}}]}\n", "Warning [SLW0001] (EnvoyFilter default/a) spec.configPatches[0].applyTo"},
		{"an expression that cannot be read", routes("{hosts: [reviews], http: [{match: [{uri: {regex: '('}}], route: [{destination: {host: reviews}}]}]}"), "Error [IST0122] (VirtualService default/reviews) spec.http[0].match[0].uri.regex"},
		{"a policy for nobody", istio("security", "AuthorizationPolicy", "a", "{selector: {matchLabels: {app: nobody}}}"), "Warning [IST0127] (AuthorizationPolicy default/a) spec.selector"},
		{"two Sidecars for a workload", pod + istio("networking", "Sidecar", "a", "{workloadSelector: {labels: {app: web}}, egress: [{hosts: [./*]}]}") + istio("networking", "Sidecar", "b", "{workloadSelector: {labels: {version: v1}}, egress: [{hosts: [./*]}]}"), "Warning [IST0110] (Sidecar default/b) spec.workloadSelector: selects Pod default/web"},
		{"two Telemetries for a workload", pod + istio("telemetry", "Telemetry", "a", "{selector: {matchLabels: {app: web}}}") + istio("telemetry", "Telemetry", "b", "{selector: {matchLabels: {version: v1}}}"), "Warning [IST0159] (Telemetry default/b) spec.selector"},
		{"two Telemetries for all", istio("telemetry", "Telemetry", "a", "{tracing: []}") + istio("telemetry", "Telemetry", "b", "{tracing: []}"), "Warning [IST0160] (Telemetry default/b) spec.selector"},
		{"a provider that is not there", istio("telemetry", "Telemetry", "a", "{tracing: [{providers: [{name: nobody}]}]}"), "Error [IST0157] (Telemetry default/a) spec.tracing[0].providers[0].name"},
		{"a provider for something else", istio("telemetry", "Telemetry", "a", "{tracing: [{providers: [{name: envoy}]}]}"), "Error [IST0157] (Telemetry default/a) spec.tracing[0].providers[0].name"},
		{"two VirtualServices of a host", routes(good) + "---\n" + istio("networking", "VirtualService", "second", good), "Error [IST0109] (VirtualService default/second) spec.hosts[0]"},
		{"two Gateways of a host", pod + istio("networking", "Gateway", "a", edge) + istio("networking", "Gateway", "b", edge), "Error [IST0145] (Gateway default/b) spec.servers[0]"},
		{"a certificate of two Gateways", pod + istio("networking", "Gateway", "a", secured) + istio("networking", "Gateway", "b", strings.Replace(secured, "a.test", "b.test", 1)), "Warning [IST0138] (Gateway default/b) spec.servers[0].tls.credentialName"},
		{"a port that no Service has", pod + webService + istio("networking", "Gateway", "a", strings.Replace(edge, "80", "8443", 1)), "Warning [IST0162] (Gateway default/a) spec.servers[0].port.number"},
		{"a port of two protocols", pod + webService + strings.NewReplacer("name: web,", "name: other,", "http", "tcp").Replace(webService), "Warning [IST0116] (Service default/web) spec.ports[0]"},
		{"plain text to who takes none", routes(good) + "---\n" + istio("security", "PeerAuthentication", "a", "{mtls: {mode: STRICT}}") + istio("networking", "DestinationRule", "b", "{host: reviews, trafficPolicy: {tls: {mode: DISABLE}}}"), "Warning [IST0113] (DestinationRule default/b) spec.trafficPolicy.tls.mode"},
		{"TCP without addresses", istio("networking", "ServiceEntry", "a", "{hosts: [db.test], resolution: DNS, ports: [{number: 5432, name: tcp, protocol: TCP}]}"), "Warning [IST0134] (ServiceEntry default/a) spec.ports[0]"},
		{"a connection without a name", istio("networking", "ServiceEntry", "a", "{hosts: ['*.test'], resolution: DYNAMIC_DNS, ports: [{number: 443, name: tcp, protocol: TCP}]}"), "Error [IST0106] (ServiceEntry default/a) spec.ports[0].protocol"},
		{"a port that a name does not say", istio("networking", "ServiceEntry", "a", "{hosts: ['*.test'], resolution: DYNAMIC_DNS, ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}]}"), "Warning [SLW0001] (ServiceEntry default/a) spec.ports[0].targetPort"},
		{"a resolution for wildcards", istio("networking", "ServiceEntry", "a", "{hosts: [a.test], resolution: DYNAMIC_DNS, ports: [{number: 443, name: tls, protocol: TLS}]}"), "Error [IST0106] (ServiceEntry default/a) spec.resolution"},
		{"the mesh's own certificates outside", meshSettings("{outboundTrafficPolicy: {mode: ALLOW_ANY_DYNAMIC_DNS, tls: {mode: ISTIO_MUTUAL}}}"), "Error [IST0106] (ConfigMap istio-system/istio) data.mesh.outboundTrafficPolicy.tls.mode"},
		{"a root that is none", meshSettings("{caCertificates: [{pem: x}]}"), "Error [IST0106] (ConfigMap istio-system/istio) data.mesh.caCertificates[0].pem"},
		{"a bundle of roots that is nowhere", meshSettings("{caCertificates: [{spiffeBundleUrl: x}]}"), "Error [IST0106] (ConfigMap istio-system/istio) data.mesh.caCertificates[0].spiffeBundleUrl"},
		{"a label's expression that Envoy cannot read", istio("telemetry", "Telemetry", "a", "{metrics: [{overrides: [{tagOverrides: {host: {value: request.host.lowerAscii()}}}]}]}"), "Error [IST0106] (Telemetry default/a) spec.metrics[0].overrides[0].tagOverrides[host]"},
		{"a share of calls that nobody asks for", istio("telemetry", "Telemetry", "a", "{tracing: [{randomSamplingPercentage: 1, useRequestIdForTraceSampling: false}]}"), "Warning [SLW0001] (Telemetry default/a) spec.tracing[0].randomSamplingPercentage"},
		{"an interval of metrics", istio("telemetry", "Telemetry", "a", "{metrics: [{reportingInterval: 5s}]}"), "Warning [SLW0001] (Telemetry default/a) spec.metrics[0].reportingInterval"},
		{"a label that no metric can have", istio("telemetry", "Telemetry", "a", "{metrics: [{overrides: [{tagOverrides: {'50%': {operation: REMOVE}}}]}]}"), "Error [IST0106] (Telemetry default/a) spec.metrics[0].overrides[0].tagOverrides[50%]"},
		{"roots of elsewhere", meshSettings("{caCertificates: [{pem: x, trustDomains: [other.test]}]}"), "Warning [SLW0001] (ConfigMap istio-system/istio) data.mesh.caCertificates[0].trustDomains"},
		{"a selector that is none", meshSettings("{serviceEntryVisibility: {applyToSidecars: true, policies: [{visibility: NONE, matchingRules: [{namespaceSelector: {matchExpressions: [{key: a, operator: Like}]}}]}]}}"), "Error [IST0106] (ConfigMap istio-system/istio) data.mesh.serviceEntryVisibility.policies[0].matchingRules[0].namespaceSelector"},
		{"TLS to nobody", meshSettings("{outboundTrafficPolicy: {mode: ALLOW_ANY, tls: {mode: SIMPLE}}}"), "Warning [SLW0001] (ConfigMap istio-system/istio) data.mesh.outboundTrafficPolicy.tls"},
		{"a patch without effect", istio("networking", "EnvoyFilter", "a", "{configPatches: [{applyTo: CLUSTER, patch: {operation: REPLACE, value: {name: x}}}]}"), "Warning [IST0152] (EnvoyFilter default/a) spec.configPatches[0].patch.operation"},
		{"a patch by place", istio("networking", "EnvoyFilter", "a", "{configPatches: [{applyTo: HTTP_FILTER, patch: {operation: INSERT_FIRST, value: {name: x}}}]}"), "Info [IST0151] (EnvoyFilter default/a) spec.configPatches[0].patch.operation"},
		{"claims without tokens", routes("{hosts: [reviews], gateways: [a], http: [{match: [{headers: {'@request.auth.claims.group': {exact: x}}}], route: [{destination: {host: reviews, subset: v1}}]}]}") + "---\n" + istio("networking", "Gateway", "a", edge), "Warning [IST0149] (VirtualService default/reviews) spec.http[0].match[0].headers"},
		{"a namespace without sidecars", namespace("{}"), "Info [IST0102] (Namespace /default) metadata.labels: its pods get no sidecars"},
		{"a namespace of two labels", namespace("{istio-injection: enabled, istio.io/rev: canary}"), "Warning [IST0123] (Namespace /default) metadata.labels"},
		{"a pod without its sidecar", namespace("{istio-injection: enabled}") + pod, "Warning [IST0103] (Pod default/web) spec.containers"},
		{"a pod that wants none", namespace("{istio-injection: enabled}") + strings.Replace(pod, "app: web,", "app: web, sidecar.istio.io/inject: 'false',", 1), "✔ No validation issues found."},
		{"the proxy's user", deployment("securityContext: {runAsUser: 1337}, image: b"), "Warning [IST0144] (Deployment default/web) spec.template.spec.containers[0].securityContext.runAsUser"},
		{"an image for nobody to fill in", deployment("image: auto"), "Error [IST0146] (Deployment default/web) spec.template.spec.containers[0].image"},
		{"an image that injection fills in", namespace("{istio-injection: enabled}") + deployment("image: auto"), "✔ No validation issues found."},
		{"two ports of one", deployment("image: b") + webService + strings.NewReplacer("name: web,", "name: other,", "port: 80,", "port: 81,").Replace(webService), "Warning [IST0137] (Deployment default/web)"},
		{"a Secret that is no certificate", pod + credential("{tls.crt: bm8=, tls.key: bm8=}") + istio("networking", "Gateway", "a", secured), "Error [IST0161] (Gateway default/a) spec.servers[0].tls.credentialName: Secret default/one: tls.crt and tls.key are no certificate"},
		{"a Secret of something else", pod + credential("{user: bm8=}") + istio("networking", "Gateway", "a", secured), "Error [IST0161] (Gateway default/a)"},
		{"an injector that nobody answers", "apiVersion: admissionregistration.k8s.io/v1\nkind: MutatingWebhookConfiguration\nmetadata: {name: injector}\nwebhooks: [{name: namespace.sidecar-injector.istio.io, clientConfig: {service: {name: istiod, namespace: istio-system}}}]\n", "Error [IST0139] (MutatingWebhookConfiguration /injector) webhooks[0].clientConfig.service"},
		{"an annotation that is not", annotated("sidecar.istio.io/proxyCPUs"), "Warning [IST0108] (Pod default/web) metadata.annotations[sidecar.istio.io/proxyCPUs]"},
		{"an annotation of a Service", annotated("networking.istio.io/exportTo"), "Warning [IST0107] (Pod default/web) metadata.annotations[networking.istio.io/exportTo]"},
		{"an annotation that is to go", annotated("traffic.sidecar.istio.io/kubevirtInterfaces"), "Info [IST0135] (Pod default/web)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, err := slipway(t, "analyze", "--use-kube=false", file(t, c.text))
			if !strings.Contains(out, c.want) {
				t.Errorf("%q is not in\n%s", c.want, out)
			}
			var exit Exit
			if fails := strings.Contains(out, "Error ["); fails != (errors.As(err, &exit) && exit.Status == ExitAnalyzed) {
				t.Errorf("ended with %v after\n%s", err, out)
			}
		})
	}
	t.Run("suppressed", func(t *testing.T) {
		out, err := slipway(t, "analyze", "--use-kube=false", "-S", "IST0101=VirtualService *.default", file(t, routes(strings.Replace(good, "host: reviews", "host: nowhere", 1))))
		if err != nil || strings.Contains(out, "IST0101") {
			t.Errorf("%v\n%s", err, out)
		}
	})
	t.Run("validate", func(t *testing.T) {
		if out, err := slipway(t, "validate", "-f", file(t, routes(good))); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		if out, err := slipway(t, "validate", "-f", file(t, routes("{hosts: [reviews], http: [{}]}"))); err == nil || !strings.Contains(out, "spec.http[0]") {
			t.Errorf("%v\n%s", err, out)
		}
	})
}

func TestProxyStatusTable(t *testing.T) {
	list := []proxyState{{ProxyReport: xds.ProxyReport{ID: "sidecar~10.0.0.1~web.shop~shop.svc.cluster.local", Types: map[string]xds.TypeReport{
		"cds": {Sent: "4", Acknowledged: "4"}, "lds": {Sent: "6", Acknowledged: "5"}, "rds": {Sent: "7", Acknowledged: "3", Error: "no such cluster"}}}, ControlPlane: "istiod-1"}}
	var out bytes.Buffer
	if err := printProxies(&out, list, "table"); err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(strings.Split(out.String(), "\n")[1])
	want := []string{"web.shop", "SYNCED", "STALE", "NOT", "SENT", "REJECTED", "NOT", "SENT", "istiod-1", "-"}
	if !slices.Equal(fields, want) || !strings.Contains(out.String(), "web.shop refused RDS: no such cluster") {
		t.Errorf("printed\n%s", out.String())
	}
}
