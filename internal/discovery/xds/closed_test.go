package xds

import (
	"slices"
	"testing"

	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/slipway-mesh/slipway/internal/discovery/envoy"
	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
)

// TestTableGoesWhileHostsAreOnTheirWay: the virtual hosts of a table that is removed are told to be gone, also when the proxy has not
// acknowledged others yet: Envoy may keep the table for a listener that drains.
func TestTableGoesWhileHostsAreOnTheirWay(t *testing.T) {
	server, _ := emptyServer()
	var sent []*response
	st := server.newStream(t.Context(), &mesh.Proxy{VHDS: true}, func(r *response) error { sent = append(sent, r); return nil })
	section := func(names ...string) *envoy.Section {
		changes := map[string]*envoy.Resource{}
		for _, name := range names {
			changes[name] = envoy.NewResource(name, &route.VirtualHost{Name: name, Domains: []string{name}})
		}
		return envoy.EmptySection().Next(changes)
	}
	tables, hosts := section("7", "80"), section("7/allow_any", "80/a")
	aim := func() {
		to := &target{hostsOf: func(table string) []*envoy.Resource { return envoy.HostsIn(hosts, table) }}
		for i := range to.parts {
			to.parts[i] = []*envoy.Section{envoy.EmptySection()}
		}
		to.parts[routeIndex], to.parts[hostIndex] = []*envoy.Section{tables}, []*envoy.Section{hosts}
		st.target.Store(to)
		if err := st.advance(); err != nil {
			t.Fatal(err)
		}
	}
	take := func(url, nonce string, names ...string) {
		if err := st.handle(&request{DeltaDiscoveryRequest: &discovery.DeltaDiscoveryRequest{TypeUrl: url, ResponseNonce: nonce, ResourceNamesSubscribe: names}}); err != nil {
			t.Fatal(err)
		}
	}
	nonce := func(i int) string { return st.types[i].nonce }
	aim()
	take(envoy.RouteType, "", "7", "80")
	take(envoy.VirtualHostType, "")
	take(envoy.RouteType, nonce(routeIndex))
	take(envoy.VirtualHostType, nonce(hostIndex))
	hosts = hosts.Next(map[string]*envoy.Resource{"80/a": envoy.NewResource("80/a", &route.VirtualHost{Name: "80/a", Domains: []string{"other"}})})
	aim()
	tables, hosts = tables.Next(map[string]*envoy.Resource{"7": nil}), hosts.Next(map[string]*envoy.Resource{"7/allow_any": nil})
	aim()
	take(envoy.RouteType, nonce(routeIndex)) // the table is gone before the virtual hosts are acknowledged
	take(envoy.VirtualHostType, nonce(hostIndex))
	if last := sent[len(sent)-1].head; last.TypeUrl != envoy.VirtualHostType || !slices.Contains(last.RemovedResources, "7/allow_any") {
		t.Errorf("the last response is of %s and removes %v", last.TypeUrl, last.RemovedResources)
	}
}
