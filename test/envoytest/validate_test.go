package envoytest

import (
	"testing"

	"github.com/slipway-mesh/slipway/internal/sidecar/bootstrap"
)

// TestBootstrapIsAccepted puts the bootstrap of each kind of proxy to the real Envoy.
func TestBootstrapIsAccepted(t *testing.T) {
	for _, kind := range []string{"sidecar", "router"} {
		text, err := bootstrap.JSON(bootstrap.Options{Kind: kind, Address: "10.0.0.1", Pod: "p", Namespace: "n", Domain: "n.svc.cluster.local", Service: "s.n",
			Metadata: map[string]any{"LABELS": map[string]string{"a": "b"}}, XDSSocket: "/tmp/xds", SDSSocket: "/tmp/sds", AdminPort: 15000, StatusPort: 15020, ReadyPort: 15021, PrometheusPort: 15090})
		if err != nil {
			t.Fatal(err)
		}
		Validate(t, text)
	}
}
