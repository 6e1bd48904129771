package golden

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-mesh/slipway/internal/discovery"
	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
	"github.com/slipway-mesh/slipway/internal/discovery/resolve"
	"github.com/slipway-mesh/slipway/internal/discovery/source"
	"github.com/slipway-mesh/slipway/internal/discovery/xds"
	"github.com/slipway-mesh/slipway/test/envoytest"
	"github.com/slipway-mesh/slipway/test/xdscheck"
)

// sampled is what the samples speak of, with a provider for telemetry.
const sampled = `apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data: {mesh: "extensionProviders: [{name: otel, opentelemetry: {service: collector.observability.svc.cluster.local, port: 4317}}]"}
---
apiVersion: v1
kind: Service
metadata: {name: collector, namespace: observability}
spec: {clusterIP: 10.0.1.9, ports: [{name: grpc-otlp, port: 4317}]}
---
apiVersion: v1
kind: Service
metadata: {name: istio-egressgateway, namespace: istio-system}
spec: {clusterIP: 10.0.1.8, ports: [{name: http, port: 80}]}
---
`

func sampledService(name, port string) string {
	return "apiVersion: v1\nkind: Service\nmetadata: {name: " + name + ", namespace: default}\nspec: {clusterIP: 10.0.1." + port[len(port)-1:] + ", ports: [{name: http, port: " + port + "}]}\n---\n"
}

// TestSamples: nothing is wrong with the samples, and what they become for a sidecar and for gateways Envoy takes.
func TestSamples(t *testing.T) {
	var files []string
	err := filepath.WalkDir("../../samples", func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() && filepath.Ext(path) == ".yaml" && !strings.Contains(path, "operator") {
			files = append(files, path)
		}
		return err
	})
	if err != nil || len(files) < 14 {
		t.Fatalf("%d samples, %v", len(files), err)
	}
	base := sampled
	for _, name := range []string{"productpage", "reviews", "ratings", "details"} {
		base += sampledService(name, "9080")
	}
	base += sampledService("bank", "443")
	for _, file := range files {
		t.Run(strings.TrimPrefix(file, "../../samples/"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			changes, err := source.Read([]byte(base+string(text)), "default")
			if err != nil {
				t.Fatal(err)
			}
			state, _ := resolve.Next(resolve.Start(resolve.Options{ClusterID: "Kubernetes", Domain: "cluster.local", RootNamespace: "istio-system", MeshConfigMap: "istio", Patches: discovery.PatchMistakes}), changes)
			for _, p := range state.Problems() {
				t.Error(p)
			}
			for _, proxy := range []*mesh.Proxy{
				{ID: "sidecar", Kind: mesh.SidecarProxy, Namespace: "default", Labels: map[string]string{"app": "reviews", "version": "v2"}, Addresses: []string{"10.1.0.1"}},
				{ID: "ingress", Kind: mesh.Router, Namespace: "istio-system", Labels: map[string]string{"istio": "ingressgateway"}, Addresses: []string{"10.1.0.2"}},
				{ID: "egress", Kind: mesh.Router, Namespace: "istio-system", Labels: map[string]string{"istio": "egressgateway"}, Addresses: []string{"10.1.0.3"}},
			} {
				resources := xds.Resources(state.World, proxy)
				for _, err := range xdscheck.Check(resources) {
					t.Errorf("%s: %v", proxy.ID, err)
				}
				envoytest.Validate(t, configuration(t, resources))
			}
		})
	}
}
