package xds

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
	api "istio.io/api/networking/v1alpha3"
	securityapi "istio.io/api/security/v1beta1"
	telemetryapi "istio.io/api/telemetry/v1alpha1"
	typeapi "istio.io/api/type/v1beta1"
	networking "istio.io/client-go/pkg/apis/networking/v1"
	filter "istio.io/client-go/pkg/apis/networking/v1alpha3"
	security "istio.io/client-go/pkg/apis/security/v1"
	telemetry "istio.io/client-go/pkg/apis/telemetry/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/slipway-mesh/slipway/internal/discovery/envoy"
	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
	"github.com/slipway-mesh/slipway/internal/discovery/resolve"
	"github.com/slipway-mesh/slipway/internal/discovery/scope"
	"github.com/slipway-mesh/slipway/internal/discovery/source"
)

func pick(r *rand.Rand, list ...string) string { return list[r.IntN(len(list))] }

func change(r *rand.Rand) source.Change {
	switch r.IntN(21) {
	case 0:
		return source.Change{Kind: "ConfigMap", Namespace: "istio-system", Name: "istio", Object: &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "istio-system", Name: "istio"},
			Data: map[string]string{"mesh": pick(r, "{}", "outboundTrafficPolicy: {mode: REGISTRY_ONLY}", "enableAutoMtls: false")}}}
	case 1:
		name := pick(r, "g0", "g1")
		return source.Change{Kind: "Gateway", Namespace: "a", Name: name, Object: &networking.Gateway{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: name}, Spec: api.Gateway{
			Selector: map[string]string{"app": "gateway"}, Servers: []*api.Server{{Port: &api.Port{Number: uint32(8080 + r.IntN(2)), Name: "http", Protocol: "HTTP"}, Hosts: []string{pick(r, "*", "new.test")}}}}}}
	case 2:
		mode := api.ServerTLSSettings_PASSTHROUGH
		if r.IntN(2) == 0 {
			mode = api.ServerTLSSettings_AUTO_PASSTHROUGH
		}
		return source.Change{Kind: "Gateway", Namespace: "a", Name: "through", Object: &networking.Gateway{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "through"}, Spec: api.Gateway{
			Selector: map[string]string{"app": "gateway"}, Servers: []*api.Server{{Port: &api.Port{Number: 15443, Name: "tls", Protocol: "TLS"}, Hosts: []string{"*"}, Tls: &api.ServerTLSSettings{Mode: mode}}}}}}
	case 3:
		namespace, name := pick(r, "a", "b", "istio-system"), pick(r, "default", "other")
		object := &security.PeerAuthentication{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
		object.Spec.Mtls = &securityapi.PeerAuthentication_MutualTLS{Mode: securityapi.PeerAuthentication_MutualTLS_Mode(r.IntN(4))}
		return source.Change{Kind: "PeerAuthentication", Namespace: namespace, Name: name, Object: object}
	}
	namespace, name := pick(r, "a", "b"), fmt.Sprintf("o%d", r.IntN(4))
	meta := metav1.ObjectMeta{Namespace: namespace, Name: name}
	c := source.Change{Kind: pick(r, "Service", "Service", "VirtualService", "DestinationRule", "ServiceEntry", "Sidecar", "WorkloadEntry", "AuthorizationPolicy", "EnvoyFilter", "Telemetry"), Namespace: namespace, Name: name}
	if r.IntN(4) == 0 {
		return c
	}
	switch c.Kind {
	case "Service":
		c.Object = &corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{ClusterIP: pick(r, "10.0.0.1", "10.0.0.2", "None"),
			Ports: []corev1.ServicePort{{Name: pick(r, "http", "tcp", "x"), Port: int32(80 + r.IntN(2))}}}}
		if r.IntN(5) == 0 {
			c.Object = &corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: pick(r, "o0.a.svc.cluster.local", "o1.test")}}
		}
	case "Telemetry":
		object := &telemetry.Telemetry{ObjectMeta: meta}
		object.Namespace = pick(r, namespace, "istio-system")
		c.Namespace = object.Namespace
		if r.IntN(2) == 0 {
			object.Spec.Selector = &typeapi.WorkloadSelector{MatchLabels: map[string]string{"app": pick(r, "client", "gateway")}}
		}
		object.Spec.AccessLogging = []*telemetryapi.AccessLogging{{Providers: []*telemetryapi.ProviderRef{{Name: pick(r, "envoy", "nobody")}}}}
		c.Object = object
	case "EnvoyFilter":
		object := &filter.EnvoyFilter{ObjectMeta: meta}
		randomFilter(r, &object.Spec)
		c.Object = object
	case "Sidecar":
		object := &networking.Sidecar{ObjectMeta: meta}
		sidecar := &object.Spec
		sidecar.Egress = []*api.IstioEgressListener{{Hosts: []string{pick(r, "./*", "*/o1.test", "a/o0.a.svc.cluster.local", "~/*")}}}
		if r.IntN(3) == 0 {
			sidecar.Egress = append(sidecar.Egress, &api.IstioEgressListener{Port: &api.SidecarPort{Number: 80, Protocol: "HTTP"}, Bind: pick(r, "", "127.0.0.1"), Hosts: []string{"*/*"}})
		}
		if r.IntN(3) == 0 {
			sidecar.Egress = append(sidecar.Egress, &api.IstioEgressListener{Port: &api.SidecarPort{Number: 3128, Protocol: "HTTP_PROXY"}, Bind: "127.0.0.1", Hosts: []string{pick(r, "*/*", "./*")}})
		}
		if r.IntN(3) == 0 {
			sidecar.OutboundTrafficPolicy = &api.OutboundTrafficPolicy{Mode: api.OutboundTrafficPolicy_Mode(r.IntN(2))}
		}
		if r.IntN(2) == 0 {
			sidecar.WorkloadSelector = &api.WorkloadSelector{Labels: map[string]string{"app": "client"}}
		}
		c.Object = object
	case "WorkloadEntry":
		c.Object = &networking.WorkloadEntry{ObjectMeta: meta, Spec: api.WorkloadEntry{Address: pick(r, "10.3.0.1", "10.3.0.2"), Labels: map[string]string{"app": pick(r, "client", "x")}, Locality: pick(r, "", "east/a")}}
	case "AuthorizationPolicy":
		c.Object = &security.AuthorizationPolicy{ObjectMeta: meta, Spec: securityapi.AuthorizationPolicy{Action: securityapi.AuthorizationPolicy_Action(r.IntN(3)), Rules: []*securityapi.Rule{{To: []*securityapi.Rule_To{{Operation: &securityapi.Operation{Paths: []string{pick(r, "/a", "/b")}}}}}}}}
	case "VirtualService":
		rule := []*api.HTTPMatchRequest{{SourceLabels: map[string]string{"app": pick(r, "client", "other")}}}
		c.Object = &networking.VirtualService{ObjectMeta: meta, Spec: api.VirtualService{Hosts: []string{pick(r, "o0", "o1", "*.test", "new.test")}, Gateways: []string{"mesh", "a/" + pick(r, "g0", "g1")},
			Http: []*api.HTTPRoute{{Match: rule[:r.IntN(2)], Route: []*api.HTTPRouteDestination{{Destination: &api.Destination{Host: pick(r, "o0", "o1"), Subset: "v1"}}}}}}}
		if r.IntN(4) == 0 {
			c.Object = &networking.VirtualService{ObjectMeta: meta, Spec: api.VirtualService{Hosts: []string{pick(r, "o0", "o1.test")}, Tcp: []*api.TCPRoute{{
				Match: []*api.L4MatchAttributes{{SourceLabels: map[string]string{"app": pick(r, "client", "other")}}}, Route: []*api.RouteDestination{{Destination: &api.Destination{Host: pick(r, "o1", "o1.test")}}}}}}}
		}
	case "DestinationRule":
		if r.IntN(3) == 0 {
			c.Object = &networking.DestinationRule{ObjectMeta: meta, Spec: api.DestinationRule{Host: pick(r, "o0", "o1.test"), WorkloadSelector: &typeapi.WorkloadSelector{MatchLabels: map[string]string{"app": pick(r, "client", "other")}},
				TrafficPolicy: &api.TrafficPolicy{OutlierDetection: &api.OutlierDetection{}, ConnectionPool: &api.ConnectionPoolSettings{Tcp: &api.ConnectionPoolSettings_TCPSettings{MaxConnections: int32(1 + r.IntN(2))}}}}}
			break
		}
		c.Object = &networking.DestinationRule{ObjectMeta: meta, Spec: api.DestinationRule{Host: pick(r, "o0", "o1.test"), Subsets: []*api.Subset{{Name: pick(r, "v1", "v2")}},
			TrafficPolicy: &api.TrafficPolicy{LoadBalancer: &api.LoadBalancerSettings{LbPolicy: &api.LoadBalancerSettings_ConsistentHash{ConsistentHash: &api.LoadBalancerSettings_ConsistentHashLB{
				HashKey: &api.LoadBalancerSettings_ConsistentHashLB_HttpHeaderName{HttpHeaderName: pick(r, "x", "y")}}}}}}}
	case "ServiceEntry":
		c.Object = &networking.ServiceEntry{ObjectMeta: meta, Spec: api.ServiceEntry{Hosts: []string{name + ".test"}, Addresses: []string{pick(r, "10.0.0.1", "20.0.0.1")}[r.IntN(2):], Resolution: api.ServiceEntry_STATIC,
			Ports: []*api.ServicePort{{Number: 80, Name: "p", Protocol: pick(r, "HTTP", "TCP", "TLS")}}, Endpoints: []*api.WorkloadEntry{{Address: pick(r, "1.1.1.1", "1.1.1.2")}}},
			Status: api.ServiceEntryStatus{Addresses: []*api.ServiceEntryAddress{{Host: name + ".test", Value: pick(r, "240.240.0.1", "240.240.0.2")}, {Host: name + ".test", Value: "2001:2::1"}}[:r.IntN(3)]}}
	}
	return c
}

// captured is the metadata of a proxy: in one namespace their agents answer DNS questions.
func captured(namespace string) map[string]string {
	return map[string]string{"DNS_CAPTURE": fmt.Sprint(namespace == "b")}
}

// versionsIn lists a view's resources with their versions.
func versionsIn(o *envoy.Outbound) map[string]string {
	out := map[string]string{}
	for name, section := range map[string]*envoy.Section{"cds": o.Clusters(), "eds": o.Endpoints(), "lds": o.Listeners(), "rds": o.Tables(), "vhds": o.VirtualHosts(), "nds": o.Names()} {
		section.Each(func(r *envoy.Resource) { out[name+" "+r.Name] = r.Version })
	}
	return out
}

// TestUpdateEqualsFromScratch: views that follow the mesh step by step, and share what they make, are those that are computed
// of the last state by themselves.
func TestUpdateEqualsFromScratch(t *testing.T) {
	options := resolve.Options{ClusterID: "Kubernetes", Domain: "cluster.local", RootNamespace: "istio-system", MeshConfigMap: "istio"}
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 3))
		state := resolve.Start(options)
		memo := envoy.NewMemo()
		var followers []*class // bases before what lies over them
		bases := map[scope.Key]*class{}
		for step := range 40 {
			if step%15 == 0 { // some join a mesh that is there
				for _, namespace := range []string{"a", "b", "c"} {
					key := scope.KeyOf(state.World, &mesh.Proxy{Namespace: namespace, Metadata: captured(namespace)})
					key.Telemetry = "" // it is of one state: when an object changes, its proxies get another key
					base, ok := key.Base()
					if !ok {
						followers = append(followers, newClass(state.World, key, memo))
						continue
					}
					if bases[base] == nil {
						bases[base] = newClass(state.World, base, memo)
						followers = append(followers, bases[base])
					}
					followers = append(followers, classOver(state.World, key, bases[base]))
				}
			}
			next, dirty := resolve.Next(state, []source.Change{change(r), change(r)})
			state = next
			memo.Step()
			for _, follower := range followers {
				follower.update(state.World, dirty)
				if diff := cmp.Diff(versionsIn(newClass(state.World, follower.scope.Key, envoy.NewMemo()).outbound), versionsIn(follower.outbound)); diff != "" {
					t.Fatalf("seed %d, step %d: the view of %s differs from one from scratch (-scratch +steps):\n%s", seed, step, follower.scope.Namespace, diff)
				}
			}
		}
	}
}

// randomFilter patches in one of a few ways, some of which nothing can come of.
func randomFilter(r *rand.Rand, spec *api.EnvoyFilter) {
	patches := []string{
		`{applyTo: HTTP_FILTER, match: {context: SIDECAR_OUTBOUND}, patch: {operation: INSERT_FIRST, value: {name: x, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua}}}}`,
		`{applyTo: CLUSTER, patch: {operation: MERGE, value: {connect_timeout: 7s}}}`,
		`{applyTo: CLUSTER, match: {cluster: {service: o1.a.svc.cluster.local}}, patch: {operation: REMOVE}}`,
		`{applyTo: CLUSTER, patch: {operation: ADD, value: {name: added}}}`,
		`{applyTo: VIRTUAL_HOST, match: {context: SIDECAR_OUTBOUND}, patch: {operation: ADD, value: {name: added, domains: [added.test]}}}`,
		`{applyTo: VIRTUAL_HOST, match: {routeConfiguration: {vhost: {name: "o1.a.svc.cluster.local:80"}}}, patch: {operation: REMOVE}}`,
		`{applyTo: HTTP_ROUTE, match: {routeConfiguration: {portNumber: 80}}, patch: {operation: INSERT_FIRST, value: {match: {prefix: /x}, direct_response: {status: 418}}}}`,
		`{applyTo: ROUTE_CONFIGURATION, patch: {operation: MERGE, value: {max_direct_response_body_size_bytes: 9}}}`,
		`{applyTo: LISTENER, match: {listener: {portNumber: 81}}, patch: {operation: REMOVE}}`,
		`{applyTo: NETWORK_FILTER, patch: {operation: MERGE, value: {typed_config: {"@type": nonsense}}}}`,
		`{applyTo: FILTER_CHAIN, patch: {operation: REPLACE}}`,
	}
	text := "priority: " + pick(r, "0", "1", "-1") + "\nconfigPatches:\n"
	for range 1 + r.IntN(3) {
		text += "- " + pick(r, patches...) + "\n"
	}
	converted, err := yaml.YAMLToJSON([]byte(text))
	if err == nil {
		err = spec.UnmarshalJSON(converted)
	}
	if err != nil {
		panic(err)
	}
}
