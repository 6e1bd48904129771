package convert

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func objects(t *testing.T, text string) []Object {
	t.Helper()
	all, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return all
}

const old = "apiVersion: config.istio.io/v1alpha2\n"

func TestConvert(t *testing.T) {
	for _, c := range []struct{ name, in, want, notes string }{
		{"two rules of one service become one VirtualService, the higher precedence first", old + `kind: RouteRule
metadata: {name: reviews-default}
spec:
  destination: {name: reviews}
  precedence: 1
  route: [{labels: {version: v1}}]
---
` + old + `kind: RouteRule
metadata: {name: reviews-test-v2}
spec:
  destination: {name: reviews}
  precedence: 2
  match: {request: {headers: {cookie: {regex: "^(.*?;)?(user=jason)(;.*)?$"}}}}
  route: [{labels: {version: v2}}]
`, `apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews}
spec:
  hosts: [reviews]
  http:
  - match: [{headers: {cookie: {regex: "^(.*?;)?(user=jason)(;.*)?$"}}}]
    route: [{destination: {host: reviews, subset: v2}}]
  - route: [{destination: {host: reviews, subset: v1}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec:
  host: reviews
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
`, ""},
		{"everything that a rule can say", old + `kind: RouteRule
metadata: {name: all, namespace: shop}
spec:
  destination: {name: cart, namespace: other}
  match:
    source: {name: web, labels: {tier: front}}
    request: {headers: {uri: {prefix: /a}, X-User: {exact: b}}}
  route: [{labels: {version: v1}, weight: 25}, {labels: {version: v2, tier: x}, weight: 75}]
  rewrite: {uri: /b}
  httpReqTimeout: {simpleTimeout: {timeout: 10s}}
  httpReqRetries: {simpleRetry: {attempts: 3, perTryTimeout: 2s}}
  httpFault: {delay: {percent: 10, fixedDelay: 5s}, abort: {percent: 20, httpStatus: 400, overrideHeaderName: x}}
  mirror: {name: shadow}
  appendHeaders: {x-a: b}
  l4Fault: {throttle: {}}
  websocketUpgrade: true
`, `apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: cart.other, namespace: shop}
spec:
  hosts: [cart.other]
  http:
  - match: [{uri: {prefix: /a}, headers: {x-user: {exact: b}}, sourceLabels: {tier: front, app: web}}]
    route:
    - {destination: {host: cart.other, subset: v1}, weight: 25}
    - {destination: {host: cart.other, subset: x-v2}, weight: 75}
    rewrite: {uri: /b}
    timeout: 10s
    retries: {attempts: 3, perTryTimeout: 2s}
    fault: {delay: {percentage: {value: 10}, fixedDelay: 5s}, abort: {percentage: {value: 20}, httpStatus: 400}}
    mirror: {host: shadow}
    headers: {request: {add: {x-a: b}}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: cart.other, namespace: shop}
spec:
  host: cart.other
  subsets: [{name: v1, labels: {version: v1}}, {name: x-v2, labels: {version: v2, tier: x}}]
`, "spec.match.source.name spec.httpFault.abort.overrideHeaderName spec.l4Fault spec.websocketUpgrade"},
		{"a condition on connections", old + "kind: RouteRule\nmetadata: {name: tcp}\nspec: {destination: {name: db}, match: {tcp: {sourceSubnet: [10.0.0.0/8]}}}\n", "", "spec.match.tcp"},
		{"a rule that is never reached", old + "kind: RouteRule\nmetadata: {name: a}\nspec: {destination: {name: db}, precedence: 2}\n---\n" + old + "kind: RouteRule\nmetadata: {name: b}\nspec: {destination: {name: db}, precedence: 1}\n",
			"apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: db}\nspec: {hosts: [db], http: [{route: [{destination: {host: db}}]}, {route: [{destination: {host: db}}]}]}\n", "spec.precedence"},
		{"policies", old + `kind: DestinationPolicy
metadata: {name: lb}
spec: {destination: {name: reviews}, loadBalancing: {name: LEAST_CONN}}
---
` + old + `kind: DestinationPolicy
metadata: {name: cb}
spec:
  destination: {name: reviews, labels: {version: v1}}
  circuitBreaker: {simpleCb: {maxConnections: 100, httpMaxPendingRequests: 10, httpConsecutiveErrors: 7, sleepWindow: 15m, httpDetectionInterval: 5m}}
---
` + old + "kind: DestinationPolicy\nmetadata: {name: by-caller}\nspec: {source: {name: web}, destination: {name: reviews}, loadBalancing: {name: RANDOM}}\n", `apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec:
  host: reviews
  trafficPolicy: {loadBalancer: {simple: LEAST_REQUEST}}
  subsets:
  - name: v1
    labels: {version: v1}
    trafficPolicy:
      connectionPool: {tcp: {maxConnections: 100}, http: {http1MaxPendingRequests: 10}}
      outlierDetection: {consecutive5xxErrors: 7, baseEjectionTime: 15m, interval: 5m}
`, "spec.source"},
		{"egress", old + `kind: EgressRule
metadata: {name: google}
spec: {destination: {service: "*.google.com"}, ports: [{port: 443, protocol: https}], useEgressProxy: true}
`, `apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: google}
spec: {hosts: ["*.google.com"], location: MESH_EXTERNAL, resolution: NONE, ports: [{number: 443, name: http-443, protocol: HTTP}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: google}
spec: {host: "*.google.com", trafficPolicy: {portLevelSettings: [{port: {number: 443}, tls: {mode: SIMPLE}}]}}
`, "spec.useEgressProxy"},
		{"ingress", `apiVersion: extensions/v1beta1
kind: Ingress
metadata: {name: gateway, annotations: {kubernetes.io/ingress.class: istio}}
spec:
  tls: [{secretName: certs}]
  rules: [{http: {paths: [{path: /productpage, backend: {serviceName: productpage, servicePort: 9080}}, {path: /api/.*, backend: {serviceName: productpage, servicePort: 9080}}]}}]
`, `apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: gateway}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]}
  - {port: {number: 443, name: https-0, protocol: HTTPS}, hosts: ["*"], tls: {mode: SIMPLE, credentialName: certs}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: gateway}
spec:
  hosts: ["*"]
  gateways: [gateway]
  http:
  - {match: [{uri: {exact: /productpage}}], route: [{destination: {host: productpage, port: {number: 9080}}}]}
  - {match: [{uri: {prefix: /api/}}], route: [{destination: {host: productpage, port: {number: 9080}}}]}
`, "spec.tls[0].secretName"},
		{"what it does not know is passed on", "apiVersion: v1\nkind: Service\nmetadata: {name: a}\n", "apiVersion: v1\nkind: Service\nmetadata: {name: a}\n", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, notes := Convert(objects(t, c.in))
			if diff := cmp.Diff(objects(t, c.want), got); diff != "" {
				t.Error(diff)
			}
			var fields []string
			for _, n := range notes {
				fields = append(fields, n.Field)
			}
			if got := strings.Join(fields, " "); got != c.notes {
				t.Errorf("notes on %q, not %q", got, c.notes)
			}
		})
	}
}
