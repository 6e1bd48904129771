package patch

import (
	"strings"
	"testing"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
	networking "istio.io/api/networking/v1alpha3"
	"sigs.k8s.io/yaml"

	"github.com/slipway-mesh/slipway/internal/discovery/envoy"
	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
)

func patches(t testing.TB, text string) *networking.EnvoyFilter {
	t.Helper()
	spec := &networking.EnvoyFilter{}
	converted, err := yaml.YAMLToJSON([]byte("configPatches:\n- " + text))
	if err == nil {
		err = spec.UnmarshalJSON(converted)
	}
	if err != nil {
		t.Fatal(text, err)
	}
	return spec
}

// apply patches a message of a sidecar's.
func apply(t testing.TB, text, name string, message proto.Message) *envoy.Resource {
	t.Helper()
	set := New([]*mesh.EnvoyFilter{{Owner: mesh.Owner{Namespace: "a", Name: "f"}, Patches: patches(t, text).ConfigPatches}}, &mesh.Proxy{Kind: mesh.SidecarProxy})
	if set == nil {
		return envoy.NewResource(name, message)
	}
	return set.Apply(envoy.NewResource(name, message))
}

const outbound = "outbound|80|v1|reviews.a.svc.cluster.local"

func TestCluster(t *testing.T) {
	before := &cluster.Cluster{Name: outbound, ConnectTimeout: durationpb.New(1e9), DnsLookupFamily: cluster.Cluster_V4_ONLY,
		CircuitBreakers: &cluster.CircuitBreakers{Thresholds: []*cluster.CircuitBreakers_Thresholds{{MaxRetries: wrapperspb.UInt32(1)}}}}
	for _, test := range []struct {
		name, patch string
		want        func(*cluster.Cluster) // nil for a removal
	}{
		{"merged: values take the place, lists grow", `{applyTo: CLUSTER, patch: {operation: MERGE, value: {connect_timeout: 0.5s, circuit_breakers: {thresholds: [{max_requests: 2}]}}}}`, func(c *cluster.Cluster) {
			c.ConnectTimeout = durationpb.New(5e8)
			c.CircuitBreakers.Thresholds = append(c.CircuitBreakers.Thresholds, &cluster.CircuitBreakers_Thresholds{MaxRequests: wrapperspb.UInt32(2)})
		}},
		{"merged with other lists", `{applyTo: CLUSTER, patch: {operation: MERGE_AND_REPLACE_LIST, value: {circuit_breakers: {thresholds: [{max_requests: 2}]}}}}`, func(c *cluster.Cluster) {
			c.CircuitBreakers.Thresholds = []*cluster.CircuitBreakers_Thresholds{{MaxRequests: wrapperspb.UInt32(2)}}
		}},
		{"removed", `{applyTo: CLUSTER, match: {cluster: {service: reviews.a.svc.cluster.local, subset: v1, portNumber: 80}}, patch: {operation: REMOVE}}`, nil},
		{"another subset", `{applyTo: CLUSTER, match: {cluster: {subset: v2}}, patch: {operation: REMOVE}}`, func(*cluster.Cluster) {}},
		{"what is received", `{applyTo: CLUSTER, match: {context: SIDECAR_INBOUND}, patch: {operation: REMOVE}}`, func(*cluster.Cluster) {}},
		{"gateways", `{applyTo: CLUSTER, match: {context: GATEWAY}, patch: {operation: REMOVE}}`, func(*cluster.Cluster) {}},
		{"a value that is none", `{applyTo: CLUSTER, patch: {operation: MERGE, value: {connect_timeout: soon}}}`, func(*cluster.Cluster) {}},
		{"an Any of no type", `{applyTo: CLUSTER, patch: {operation: MERGE, value: {transport_socket: {name: x, typed_config: {"@type": nonsense}}}}}`, func(*cluster.Cluster) {}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := apply(t, test.patch, outbound, proto.Clone(before))
			if test.want == nil {
				if got != nil {
					t.Errorf("it is still there: %v", got.Body)
				}
				return
			}
			want := clone(before)
			test.want(want)
			message, err := got.Body.UnmarshalNew()
			if diff := cmp.Diff(proto.Message(want), message, protocmp.Transform()); err != nil || diff != "" {
				t.Error(err, diff)
			}
		})
	}
}

// filters is a listener whose connection manager has the HTTP filters a and the router.
func filters(name string, direction core.TrafficDirection) *listener.Listener {
	manager := &hcm.HttpConnectionManager{StatPrefix: "x", HttpFilters: []*hcm.HttpFilter{{Name: "a"}, {Name: "envoy.filters.http.router", ConfigType: &hcm.HttpFilter_TypedConfig{TypedConfig: pack(&routerv3.Router{})}}},
		RouteSpecifier: &hcm.HttpConnectionManager_RouteConfig{RouteConfig: &route.RouteConfiguration{Name: "inbound|80||", VirtualHosts: []*route.VirtualHost{{Name: "inbound|http|80", Domains: []string{"*"}}}}}}
	return &listener.Listener{Name: name, TrafficDirection: direction, FilterChains: []*listener.FilterChain{{Name: "80", FilterChainMatch: &listener.FilterChainMatch{DestinationPort: wrapperspb.UInt32(80), ServerNames: []string{"x.test"}, ApplicationProtocols: []string{"h2"}},
		Filters: []*listener.Filter{{Name: httpManager, ConfigType: &listener.Filter_TypedConfig{TypedConfig: pack(manager)}}}}}}
}

// shape is the names of a listener's filters, chain by chain.
func shape(t *testing.T, r *envoy.Resource) string {
	t.Helper()
	if r == nil {
		return "gone"
	}
	l := &listener.Listener{}
	if err := r.Body.UnmarshalTo(l); err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, f := range l.ListenerFilters {
		out = append(out, "<"+f.Name+">")
	}
	for _, c := range l.FilterChains {
		for _, f := range c.Filters {
			manager := &hcm.HttpConnectionManager{}
			if f.GetTypedConfig() == nil || f.GetTypedConfig().UnmarshalTo(manager) != nil {
				out = append(out, f.Name)
				continue
			}
			var names []string
			for _, h := range manager.HttpFilters {
				names = append(names, strings.TrimPrefix(h.Name, "envoy.filters.http."))
			}
			out = append(out, manager.StatPrefix+"("+strings.Join(names, " ")+")")
		}
	}
	return strings.Join(out, " ")
}

func TestListener(t *testing.T) {
	const manager = `filter: {name: envoy.filters.network.http_connection_manager`
	for _, test := range []struct{ name, patch, want string }{
		{"an HTTP filter before the router", `{applyTo: HTTP_FILTER, match: {listener: {filterChain: {` + manager + `, subFilter: {name: envoy.filters.http.router}}}}}, patch: {operation: INSERT_BEFORE, value: {name: b}}}`, "x(a b router)"},
		{"by the name of before", `{applyTo: HTTP_FILTER, match: {listener: {filterChain: {filter: {name: envoy.http_connection_manager, subFilter: {name: envoy.router}}}}}, patch: {operation: INSERT_BEFORE, value: {name: b}}}`, "x(a b router)"},
		{"after another", `{applyTo: HTTP_FILTER, match: {listener: {filterChain: {` + manager + `, subFilter: {name: a}}}}}, patch: {operation: INSERT_AFTER, value: {name: b}}}`, "x(a b router)"},
		{"first", `{applyTo: HTTP_FILTER, patch: {operation: INSERT_FIRST, value: {name: b}}}`, "x(b a router)"},
		{"added: the router stays last", `{applyTo: HTTP_FILTER, patch: {operation: ADD, value: {name: b}}}`, "x(a b router)"},
		{"before one that is not there", `{applyTo: HTTP_FILTER, match: {listener: {filterChain: {` + manager + `, subFilter: {name: c}}}}}, patch: {operation: INSERT_BEFORE, value: {name: b}}}`, "x(a router)"},
		{"removed", `{applyTo: HTTP_FILTER, match: {listener: {filterChain: {` + manager + `, subFilter: {name: a}}}}}, patch: {operation: REMOVE}}`, "x(router)"},
		{"replaced", `{applyTo: HTTP_FILTER, match: {listener: {filterChain: {` + manager + `, subFilter: {name: a}}}}}, patch: {operation: REPLACE, value: {name: b}}}`, "x(b router)"},
		{"the manager merged", `{applyTo: NETWORK_FILTER, match: {listener: {filterChain: {` + manager + `}}}}, patch: {operation: MERGE, value: {typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, stat_prefix: other}}}}`, "other(a router)"},
		{"a network filter before it", `{applyTo: NETWORK_FILTER, match: {listener: {filterChain: {` + manager + `}}}}, patch: {operation: INSERT_BEFORE, value: {name: net}}}`, "net x(a router)"},
		{"added: the manager stays last", `{applyTo: NETWORK_FILTER, patch: {operation: ADD, value: {name: net}}}`, "net x(a router)"},
		{"a listener filter", `{applyTo: LISTENER_FILTER, patch: {operation: ADD, value: {name: l}}}`, "<l> x(a router)"},
		{"a chain removed, by server name and protocol", `{applyTo: FILTER_CHAIN, match: {listener: {filterChain: {name: "80", sni: x.test, applicationProtocols: "h2, http/1.1", destinationPort: 80}}}, patch: {operation: REMOVE}}`, "gone"},
		{"another protocol", `{applyTo: FILTER_CHAIN, match: {listener: {filterChain: {applicationProtocols: istio}}}, patch: {operation: REMOVE}}`, "x(a router)"},
		{"another transport", `{applyTo: FILTER_CHAIN, match: {listener: {filterChain: {transportProtocol: tls}}}, patch: {operation: REMOVE}}`, "x(a router)"},
		{"a chain is not added to the listener of everything", `{applyTo: FILTER_CHAIN, patch: {operation: ADD, value: {name: more, filters: [{name: net}]}}}`, "x(a router)"},
		{"the port is the chain's", `{applyTo: HTTP_FILTER, match: {context: SIDECAR_INBOUND, listener: {portNumber: 81}}, patch: {operation: REMOVE}}`, "x(a router)"},
		{"removed whole", `{applyTo: LISTENER, match: {listener: {name: virtualInbound}}, patch: {operation: REMOVE}}`, "gone"},
		{"what is sent", `{applyTo: LISTENER, match: {context: SIDECAR_OUTBOUND}, patch: {operation: REMOVE}}`, "x(a router)"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := shape(t, apply(t, test.patch, virtualInbound, filters(virtualInbound, core.TrafficDirection_INBOUND))); got != test.want {
				t.Errorf("%s, not %s", got, test.want)
			}
		})
	}
}

// TestPatchedByWhoChanges: the owner of a patched resource is the filter that changed it, not one that only looked.
func TestPatchedByWhoChanges(t *testing.T) {
	filter := func(name, text string) *mesh.EnvoyFilter {
		return &mesh.EnvoyFilter{Owner: mesh.Owner{Namespace: "a", Name: name}, Patches: patches(t, text).ConfigPatches}
	}
	set := New([]*mesh.EnvoyFilter{
		filter("changes", `{applyTo: HTTP_FILTER, patch: {operation: INSERT_FIRST, value: {name: b}}}`),
		filter("looks", `{applyTo: HTTP_FILTER, match: {listener: {name: other}}, patch: {operation: INSERT_FIRST, value: {name: c}}}`),
	}, &mesh.Proxy{Kind: mesh.SidecarProxy})
	got := set.Apply(envoy.NewResource(virtualInbound, filters(virtualInbound, core.TrafficDirection_INBOUND)))
	if owner := envoy.OwnerOf(got); !strings.HasSuffix(owner, "/a/envoy-filter/changes") {
		t.Errorf("its owner is %s", owner)
	}
}

func TestCheck(t *testing.T) {
	for _, test := range []struct {
		patch, want string
		lost        bool
	}{
		{`{applyTo: CLUSTER, patch: {operation: MERGE, value: {connect_timeout: 1s}}}`, "", false},
		{`{applyTo: CLUSTER, patch: {operation: MERGE, value: {connect_timeot: 1s}}}`, "connect_timeot", false},
		{`{applyTo: CLUSTER, patch: {operation: MERGE, value: {connect_timeout: soon}}}`, "soon", true},
		{`{applyTo: HTTP_FILTER, patch: {operation: ADD, value: {name: x, typed_config: {"@type": type.googleapis.com/no.such.Type}}}}`, "no.such.Type", true},
	} {
		got := Check(patches(t, test.patch))
		switch {
		case test.want == "" && len(got) > 0:
			t.Errorf("%s: %v", test.patch, got)
		case test.want != "" && (len(got) != 1 || !strings.Contains(got[0].Message, test.want) || got[0].Lost != test.lost):
			t.Errorf("%s: %v", test.patch, got)
		}
	}
}

// FuzzPatch: whatever a user writes, nothing panics, and a patch of one listener leaves what can be written.
func FuzzPatch(f *testing.F) {
	for _, seed := range []string{
		`{"applyTo":"HTTP_FILTER","patch":{"operation":"ADD","value":{"name":"b"}}}`, `{"applyTo":"LISTENER","patch":{"operation":"MERGE","value":{"name":"b"}}}`,
		`{"applyTo":"NETWORK_FILTER","match":{"listener":{"filterChain":{"filter":{"name":"x"}}}},"patch":{"operation":"REPLACE","value":{"typed_config":{"@type":"x"}}}}`,
		`{"applyTo":"VIRTUAL_HOST","patch":{"operation":"INSERT_AFTER","value":{"domains":["*"]}}}`, `{"applyTo":"FILTER_CHAIN","patch":{"operation":"REPLACE","value":null}}`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		one := &networking.EnvoyFilter_EnvoyConfigObjectPatch{}
		if (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal([]byte(text), one) != nil {
			return
		}
		Check(&networking.EnvoyFilter{ConfigPatches: []*networking.EnvoyFilter_EnvoyConfigObjectPatch{one}})
		set := New([]*mesh.EnvoyFilter{{Patches: []*networking.EnvoyFilter_EnvoyConfigObjectPatch{one}}}, &mesh.Proxy{Kind: mesh.SidecarProxy})
		if set == nil {
			return
		}
		if r := set.Apply(envoy.NewResource(virtualInbound, filters(virtualInbound, core.TrafficDirection_INBOUND))); r != nil {
			if _, err := r.Body.UnmarshalNew(); err != nil {
				t.Error(err)
			}
		}
		set.Added(envoy.ListenerType)
		set.AddedHosts("80")
	})
}
