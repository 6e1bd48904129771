package xds

import (
	"slices"
	"testing"
	"time"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/slipway-mesh/slipway/internal/discovery/envoy"
	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
)

// wire is one stream, what it sent, and what it is to bring about.
type wire struct {
	*testing.T
	st                      *stream
	sent                    []*response
	clusters, tables, hosts *envoy.Section
}

func newWire(t *testing.T) *wire {
	server, _ := emptyServer()
	w := &wire{T: t, clusters: envoy.EmptySection(), tables: envoy.EmptySection(), hosts: envoy.EmptySection()}
	w.st = server.newStream(t.Context(), &mesh.Proxy{VHDS: true}, func(r *response) error { w.sent = append(w.sent, r); return nil })
	return w
}

func hostNamed(name, domain string) map[string]*envoy.Resource {
	return map[string]*envoy.Resource{name: envoy.NewResource(name, &route.VirtualHost{Name: name, Domains: []string{domain}})}
}

// aim makes what the sections hold the stream's target.
func (w *wire) aim() {
	w.Helper()
	hosts := w.hosts
	to := &target{hostsOf: func(table string) []*envoy.Resource { return envoy.HostsIn(hosts, table) }}
	for i := range to.parts {
		to.parts[i] = []*envoy.Section{envoy.EmptySection()}
	}
	to.parts[clusterIndex], to.parts[routeIndex], to.parts[hostIndex] = []*envoy.Section{w.clusters}, []*envoy.Section{w.tables}, []*envoy.Section{w.hosts}
	w.st.target.Store(to)
	if err := w.st.advance(); err != nil {
		w.Fatal(err)
	}
}

// take takes a request; acknowledge one that acknowledges what was sent last of a type.
func (w *wire) take(url, nonce string, names ...string) {
	w.Helper()
	if err := w.st.handle(&request{DeltaDiscoveryRequest: &discovery.DeltaDiscoveryRequest{TypeUrl: url, ResponseNonce: nonce, ResourceNamesSubscribe: names}}); err != nil {
		w.Fatal(err)
	}
}

func (w *wire) acknowledge(i int) { w.Helper(); w.take(typeURLs[i], w.st.types[i].nonce) }

// removed lists what the last response removes, if it is of a type.
func (w *wire) removed(url string) []string {
	if last := w.sent[len(w.sent)-1].head; last.TypeUrl == url {
		return last.RemovedResources
	}
	return nil
}

// TestTableGoesWhileHostsAreOnTheirWay: the virtual hosts of a table that is removed are told to be gone, also when the proxy has not
// acknowledged others yet: Envoy may keep the table for a listener that drains.
func TestTableGoesWhileHostsAreOnTheirWay(t *testing.T) {
	w := newWire(t)
	w.tables = w.tables.Next(hostNamed("7", "x")).Next(hostNamed("80", "x"))
	w.hosts = w.hosts.Next(hostNamed("7/allow_any", "x")).Next(hostNamed("80/a", "x"))
	w.aim()
	w.take(envoy.RouteType, "", "7", "80")
	w.take(envoy.VirtualHostType, "")
	w.acknowledge(routeIndex)
	w.acknowledge(hostIndex)
	w.hosts = w.hosts.Next(hostNamed("80/a", "other"))
	w.aim()
	w.tables, w.hosts = w.tables.Next(map[string]*envoy.Resource{"7": nil}), w.hosts.Next(map[string]*envoy.Resource{"7/allow_any": nil})
	w.aim()
	w.acknowledge(routeIndex) // the table is gone before the virtual hosts are acknowledged
	w.acknowledge(hostIndex)
	if !slices.Contains(w.removed(envoy.VirtualHostType), "7/allow_any") {
		t.Errorf("the last response is %v", w.sent[len(w.sent)-1].head)
	}
}

// TestClusterGoesAfterItsRoutes: a cluster waits for the virtual hosts that leave it, also where those wait behind others that are not
// acknowledged yet, and where changes have come one after the other for longer than a barrier.
func TestClusterGoesAfterItsRoutes(t *testing.T) {
	w := newWire(t)
	for _, name := range []string{"a", "b"} {
		w.clusters = w.clusters.Next(map[string]*envoy.Resource{name: envoy.NewResource(name, &cluster.Cluster{Name: name})})
	}
	w.tables, w.hosts = w.tables.Next(hostNamed("80", "x")), w.hosts.Next(hostNamed("80/a", "to b"))
	w.aim()
	w.take(envoy.ClusterType, "")
	w.acknowledge(clusterIndex)
	w.take(envoy.RouteType, "", "80")
	w.take(envoy.VirtualHostType, "")
	w.acknowledge(routeIndex)
	w.acknowledge(hostIndex)

	w.hosts = w.hosts.Next(hostNamed("80/c", "another"))
	w.aim() // which is not acknowledged yet
	w.st.deadline = time.Now().Add(-time.Second)
	w.clusters, w.hosts = w.clusters.Next(map[string]*envoy.Resource{"b": nil}), w.hosts.Next(hostNamed("80/a", "to a"))
	w.aim()
	if gone := w.removed(envoy.ClusterType); len(gone) > 0 || w.st.wakesAt().IsZero() {
		t.Fatalf("%v goes before the virtual host that leads to it, or nobody waits for it (%v)", gone, w.st.wakesAt())
	}
	w.acknowledge(hostIndex) // of the other
	if gone := w.removed(envoy.ClusterType); len(gone) > 0 {
		t.Fatalf("%v goes before it is known that the virtual host was taken in", gone)
	}
	w.acknowledge(hostIndex)
	if gone := w.removed(envoy.ClusterType); !slices.Equal(gone, []string{"b"}) {
		t.Fatalf("the last response is %v", w.sent[len(w.sent)-1].head)
	}

	w.acknowledge(clusterIndex)
	w.hosts = w.hosts.Next(hostNamed("80/a", "to nobody"))
	w.clusters = w.clusters.Next(map[string]*envoy.Resource{"a": nil})
	w.aim()
	w.st.types[hostIndex].sentAt = time.Now().Add(-barrier) // a proxy that says nothing is not waited for
	w.aim()
	if gone := w.removed(envoy.ClusterType); !slices.Equal(gone, []string{"a"}) {
		t.Errorf("the last response is %v", w.sent[len(w.sent)-1].head)
	}
}
