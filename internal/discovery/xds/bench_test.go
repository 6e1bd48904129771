package xds

import (
	"fmt"
	"testing"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	api "istio.io/api/networking/v1alpha3"
	networking "istio.io/client-go/pkg/apis/networking/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/slipway-mesh/slipway/internal/discovery/envoy"
	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
	"github.com/slipway-mesh/slipway/internal/discovery/resolve"
	"github.com/slipway-mesh/slipway/internal/discovery/scope"
	"github.com/slipway-mesh/slipway/internal/discovery/source"
)

// These measure each step of a change by itself: what it costs should not grow with the services that are there.

const servicesPerNamespace = 50

func namespaceAt(service int) string { return fmt.Sprintf("n%d", service/servicesPerNamespace) }

func slicesOf(service, endpoints int) source.Change {
	name, port, ready := "http", int32(8080), true
	meta := metav1.ObjectMeta{Namespace: namespaceAt(service), Name: fmt.Sprintf("s%d-a", service), Labels: map[string]string{discoveryv1.LabelServiceName: fmt.Sprintf("s%d", service)}}
	object := &discoveryv1.EndpointSlice{ObjectMeta: meta, AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: &name, Port: &port}}}
	for e := range endpoints {
		object.Endpoints = append(object.Endpoints, discoveryv1.Endpoint{Addresses: []string{fmt.Sprintf("10.%d.%d.%d", e, service/250, service%250)}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}})
	}
	return source.Change{Kind: "EndpointSlice", Namespace: meta.Namespace, Name: meta.Name, Object: object}
}

func routesOf(service, timeout int) source.Change {
	meta := metav1.ObjectMeta{Namespace: namespaceAt(service), Name: fmt.Sprintf("s%d", service)}
	return source.Change{Kind: "VirtualService", Namespace: meta.Namespace, Name: meta.Name, Object: &networking.VirtualService{ObjectMeta: meta, Spec: api.VirtualService{Hosts: []string{meta.Name}, Http: []*api.HTTPRoute{{
		Rewrite: &api.HTTPRewrite{Uri: fmt.Sprintf("/%d", timeout)}, Route: []*api.HTTPRouteDestination{{Destination: &api.Destination{Host: meta.Name}}}}}}}}
}

// filled is a mesh of so many services, two endpoints each.
func filled(services int) *resolve.State {
	var changes []source.Change
	for s := range services {
		meta := metav1.ObjectMeta{Namespace: namespaceAt(s), Name: fmt.Sprintf("s%d", s)}
		changes = append(changes, source.Change{Kind: "Service", Namespace: meta.Namespace, Name: meta.Name, Object: &corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{
			ClusterIP: fmt.Sprintf("10.100.%d.%d", s/250, s%250), Ports: []corev1.ServicePort{{Name: "http", Port: 80}}}}}, slicesOf(s, 2))
	}
	state, _ := resolve.Next(resolve.Start(resolve.Options{ClusterID: "Kubernetes", Domain: "cluster.local", RootNamespace: "istio-system", MeshConfigMap: "istio"}), changes)
	return state
}

// forSizes runs a benchmark in meshes that grow.
func forSizes(b *testing.B, run func(b *testing.B, state *resolve.State)) {
	for _, services := range []int{100, 1000, 10000} {
		state := filled(services)
		b.Run(fmt.Sprintf("services=%d", services), func(b *testing.B) {
			b.ReportAllocs()
			run(b, state)
		})
	}
}

func keyOf(state *resolve.State, namespace string) scope.Key {
	return scope.KeyOf(state.World, &mesh.Proxy{Kind: mesh.SidecarProxy, Namespace: namespace})
}

func BenchmarkResolve(b *testing.B) {
	forSizes(b, func(b *testing.B, state *resolve.State) {
		for i := range b.N {
			state, _ = resolve.Next(state, []source.Change{routesOf(7, i)})
		}
	})
}

// BenchmarkClass brings the view of one namespace to a changed VirtualService: its scope, and what of Envoy's resources that makes.
func BenchmarkClass(b *testing.B) {
	forSizes(b, func(b *testing.B, state *resolve.State) {
		c := newClass(state.World, keyOf(state, "n0"), envoy.NewMemo())
		b.ResetTimer() // what was there before is not what a change costs
		for i := range b.N {
			b.StopTimer()
			next, dirty := resolve.Next(state, []source.Change{routesOf(7, i)})
			state = next
			b.StartTimer()
			c.update(state.World, dirty)
		}
	})
}

// BenchmarkUpdate brings a server to changed endpoints, with a proxy in each of twenty namespaces at most.
func BenchmarkUpdate(b *testing.B) {
	forSizes(b, func(b *testing.B, state *resolve.State) {
		server, _ := emptyServer()
		server.world = state.World
		for n := range 20 {
			st := server.newStream(b.Context(), &mesh.Proxy{Kind: mesh.SidecarProxy, Namespace: fmt.Sprintf("n%d", n), Addresses: []string{"10.9.9.9"}}, nil)
			server.streams[st] = struct{}{}
			server.joinScope(st)
			st.target.Store(server.targetOf(st))
		}
		b.ResetTimer() // what was there before is not what a change costs
		for i := range b.N {
			b.StopTimer()
			next, dirty := resolve.Next(state, []source.Change{slicesOf(9, 1+i%2)})
			state = next
			b.StartTimer()
			server.Update(state.World, dirty)
		}
	})
}

// BenchmarkJoin lets in the first proxy of a namespace where others are.
func BenchmarkJoin(b *testing.B) {
	forSizes(b, func(b *testing.B, state *resolve.State) {
		key := keyOf(state, "n1")
		below, _ := key.Base()
		base := newClass(state.World, below, envoy.NewMemo())
		for b.Loop() {
			classOver(state.World, key, base)
		}
	})
}

// BenchmarkFirstResponse assembles all clusters of a mesh for one proxy.
func BenchmarkFirstResponse(b *testing.B) {
	forSizes(b, func(b *testing.B, state *resolve.State) {
		c := newClass(state.World, keyOf(state, "n0"), envoy.NewMemo())
		for b.Loop() {
			changed, _ := c.outbound.Clusters().Diff(nil)
			r := &response{head: &discovery.DeltaDiscoveryResponse{TypeUrl: envoy.ClusterType}, resources: changed}
			if _, err := r.buffers(); err != nil {
				b.Fatal(err)
			}
		}
	})
}
