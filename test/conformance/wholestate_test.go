package conformance

import (
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/slipway-mesh/slipway/internal/sidecar/bootstrap"
	"github.com/slipway-mesh/slipway/test/envoytest"
	"github.com/slipway-mesh/slipway/test/kubetest"
)

// TestWholeState runs rules on an Envoy that speaks state-of-the-world ADS to the plain port, as clients do that do not
// know the delta protocol. It gets whole route tables.
func TestWholeState(t *testing.T) {
	m := startControlPlane(t)
	m.gateway = "http://127.0.0.1:18080"
	m.backends = map[string]*backend{"v1": newBackend(t, "v1"), "v2": newBackend(t, "v2")}
	m.kube.Apply(t, services(m.backends)+"---\n"+meshConfig("{enableAutoMtls: false}")) // no agent serves certificates here
	dir, err := os.MkdirTemp("", "slipway-whole-")                                      // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "xds")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	forward(listener, m.plain)
	config, err := bootstrap.JSON(bootstrap.Options{Kind: "router", Address: "127.0.0.1", Pod: "whole", Namespace: "default", Domain: "default.svc.cluster.local", Service: "whole.default",
		Metadata:  map[string]any{"LABELS": map[string]string{"istio": "conformance"}, "NAMESPACE": "default"},
		XDSSocket: socket, SDSSocket: filepath.Join(dir, "sds"), AdminPort: 15000, StatusPort: 15020, ReadyPort: 15021, PrometheusPort: 15090})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "envoy.json")
	if err := os.WriteFile(file, []byte(strings.Replace(string(config), "DELTA_GRPC", "GRPC", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	kubetest.Process(t, dir, "envoy", envoytest.Binary(t), "-c", file, "--disable-hot-restart", "--concurrency", "1", "-l", "warning")
	m.base = virtualService(plain)
	var features []feature
	for _, r := range rules {
		switch r.name {
		case "match uri exact", "match header exact", "weights", "fault abort", "ServiceEntry by DNS":
			features = append(features, feature{name: r.name + ", whole state", proves: r.fields, with: virtualService(r.rules), without: m.base, check: r.check})
		}
	}
	m.dnsEntry(t)
	m.kube.Apply(t, m.base)
	kubetest.Eventually(t, 20*time.Second, func() error { return version("v1", "/")(m) })
	m.prove(t, features)
	m.rejections(t)
	response, err := http.Get(m.debug + "/debug/syncz")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	var proxies []struct{ VHDS bool }
	if err := json.NewDecoder(response.Body).Decode(&proxies); err != nil || len(proxies) != 1 || proxies[0].VHDS {
		t.Errorf("syncz says %v (%v)", proxies, err)
	}
}
