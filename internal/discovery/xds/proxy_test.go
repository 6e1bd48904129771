package xds

import (
	"strings"
	"testing"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/slipway-mesh/slipway/internal/discovery/envoy"
	"github.com/slipway-mesh/slipway/internal/discovery/resolve"
	"github.com/slipway-mesh/slipway/internal/discovery/source"
)

func nodeOf(minor uint32, extensions ...string) *core.Node {
	node := &core.Node{Id: "sidecar~10.0.0.9~p.a~a.svc.cluster.local", UserAgentName: "envoy", UserAgentVersionType: &core.Node_UserAgentBuildVersion{
		UserAgentBuildVersion: &core.BuildVersion{Version: &typev3.SemanticVersion{MajorNumber: 1, MinorNumber: minor}}}}
	for _, name := range extensions {
		node.Extensions = append(node.Extensions, &core.Extension{Name: name})
	}
	return node
}

// TestFlavour: Istio's own filter is named to a proxy that has it, and to no other.
func TestFlavour(t *testing.T) {
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "s"}, Spec: corev1.ServiceSpec{ClusterIP: "10.0.0.1", Ports: []corev1.ServicePort{{Name: "x", Port: 80}}}}
	state, _ := resolve.Next(resolve.Start(resolve.Options{Domain: "cluster.local"}), []source.Change{{Kind: "Service", Namespace: "a", Name: "s", Object: service}})
	for _, c := range []struct {
		name, has, hasNot string
		extensions        []string
	}{
		{"stock", "envoy.filters.http.set_filter_state", "istio.alpn", []string{"envoy.filters.http.router"}},
		{"istio-proxy", "istio.alpn", "envoy.filters.http.set_filter_state", []string{"envoy.filters.http.router", "istio.alpn"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			proxy, err := parseNode(nodeOf(40, c.extensions...), true)
			if err != nil {
				t.Fatal(err)
			}
			var all strings.Builder
			for _, r := range Resources(state.World, proxy)[envoy.ListenerType] {
				all.Write(r.Body.Value)
			}
			if text := all.String(); !strings.Contains(text, c.has) || strings.Contains(text, c.hasNot) {
				t.Errorf("listeners name %s: %t, %s: %t", c.has, strings.Contains(text, c.has), c.hasNot, strings.Contains(text, c.hasNot))
			}
		})
	}
}

// TestVHDSIsForTestedEnvoys: virtual hosts go one by one to versions that were tried, unless the node says no.
func TestVHDSIsForTestedEnvoys(t *testing.T) {
	for _, c := range []struct {
		name  string
		minor uint32
		delta bool
		want  bool
	}{{"tried", 40, true, true}, {"older", 39, true, false}, {"whole state", 40, false, false}} {
		proxy, err := parseNode(nodeOf(c.minor), c.delta)
		if err != nil || proxy.VHDS != c.want {
			t.Errorf("%s: %v %v", c.name, proxy, err)
		}
	}
}
