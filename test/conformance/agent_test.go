package conformance

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/slipway-mesh/slipway/test/kubetest"
	"github.com/slipway-mesh/slipway/test/nettest"
)

// TestAgent: an agent says what is wrong with its workload, goes on without its token, and leaves when nobody is connected any more.
func TestAgent(t *testing.T) {
	t.Parallel() // its ports are its own
	m, network := startNetwork(t)
	m.pods = &pods{client: network.Pod(t, "client"), v1: network.Pod(t, "v1")}
	m.backends = map[string]*backend{"v1": serveAll(t, m.pods.v1)}
	m.register(t, m.pods.client, "default", `{app: client}`)
	p := m.pods.v1
	m.injectWith(t, p, "default", `{app: reviews, version: v1}`, []string{"EXIT_ON_ZERO_ACTIVE_CONNECTIONS=true", "MINIMUM_DRAIN_DURATION=1s", "SECRET_TTL=" + certificateLife})
	m.endpoints(t, "reviews", p)
	m.endpoints(t, "echo", p)
	program := filepath.Join(p.Dir(), "slipway-agent")
	diagnose := func(more ...string) (string, error) {
		return p.Output(proxyUser, append(environmentOf(p, "default"), more...), program, "diagnose", "sidecar")
	}
	kubetest.Eventually(t, 30*time.Second, func() error {
		out, err := diagnose()
		return orErr(err, expect(strings.Count(out, "✔") == 7 && !strings.Contains(out, "✘"), "%s", out))
	})
	for what, c := range map[string]struct{ variable, finds string }{
		"no namespace":               {"POD_NAMESPACE=", "environment: environment variable POD_NAMESPACE is not set"},
		"another account":            {"SERVICE_ACCOUNT=somebody", "and not of account somebody"},
		"no root":                    {"XDS_ROOT_CA=/nowhere", "root certificate in /nowhere"},
		"a control plane elsewhere":  {`PROXY_CONFIG={"discoveryAddress":"127.0.0.1:9"}`, "control plane at 127.0.0.1:9"},
		"somebody else's name there": {`PROXY_CONFIG={"discoveryAddress":"127.0.0.1:15012"}`, "control plane at 127.0.0.1:15012"},
		"an agent that is not there": {`PROXY_CONFIG={"statusPort":15029}`, "the agent at port 15029"},
	} {
		if out, err := diagnose(c.variable); err == nil || !strings.Contains(out, "✘") || !strings.Contains(out, c.finds) {
			t.Errorf("%s: %s (%v)", what, out, err)
		}
	}
	t.Run("without its token", func(t *testing.T) { m.withoutToken(t, p) })
	t.Run("not before its connections", func(t *testing.T) { m.leavesLast(t, p, program) })
}

// withoutToken: a certificate of the mesh is as good as a token, for the next certificate and for configuration.
func (m *mesh) withoutToken(t *testing.T, p *nettest.Pod) {
	if err := os.Remove(p.Path("/run/secrets/tokens/istio-token")); err != nil {
		t.Fatal(err)
	}
	signed := m.count(t, "citadel_server_success_cert_issuance_count")
	kubetest.Eventually(t, 40*time.Second, func() error { // certificates live for half a minute
		return expect(m.count(t, "citadel_server_success_cert_issuance_count") >= signed+2, "no certificate was renewed")
	})
	m.restart()
	kubetest.Eventually(t, 30*time.Second, func() error { return ok(m.debug + "/ready") })
	kubetest.Eventually(t, 30*time.Second, func() error {
		return expect(m.count(t, "pilot_xds{")+m.count(t, "pilot_xds ") > 0, "the proxy is not connected")
	})
}

// leavesLast: whoever is connected is not cut off.
func (m *mesh) leavesLast(t *testing.T, p *nettest.Pod, program string) {
	connection, err := m.pods.client.Dial(t.Context(), "tcp", p.Address+":9008")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = connection.Close() }()
	if _, err := fmt.Fprintln(connection, "by what Envoy finds out what is spoken"); err != nil {
		t.Fatal(err)
	}
	time.Sleep(500 * time.Millisecond)
	p.Run(t, program+" request --debug-port=15020 POST quitquitquit")
	alive := func() error {
		admin, err := p.Dial(t.Context(), "tcp", "127.0.0.1:15000")
		if err == nil {
			_ = admin.Close()
		}
		return err
	}
	for range 8 { // longer than the drain's time
		time.Sleep(500 * time.Millisecond)
		if err := alive(); err != nil {
			t.Fatalf("Envoy ended while a connection was open: %v", err)
		}
	}
	_ = connection.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	if _, err := connection.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the connection did not stay: %v", err)
	}
	_ = connection.Close()
	kubetest.Eventually(t, 15*time.Second, func() error { return expect(alive() != nil, "Envoy goes on though nobody is connected") })
}
