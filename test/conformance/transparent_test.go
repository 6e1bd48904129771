package conformance

import (
	"net"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/slipway-mesh/slipway/test/kubetest"
	"github.com/slipway-mesh/slipway/test/nettest"
)

// TestTransparent: an application whose sidecar captures by TPROXY sees who calls it, by mutual TLS and in plain text, over HTTP and TCP,
// where one whose sidecar redirects sees its proxy; and it reaches itself and others as ever.
func TestTransparent(t *testing.T) {
	t.Parallel() // its ports are its own
	m, network := startNetwork(t)
	m.pods = &pods{client: network.Pod(t, "client"), v1: network.Pod(t, "v1"), v2: network.Pod(t, "v2"), plain: network.Pod(t, "plain")}
	m.backends = map[string]*backend{"v1": serveAll(t, m.pods.v1), "v2": serveAll(t, m.pods.v2), "plain": serveAll(t, m.pods.plain)}
	m.register(t, m.pods.plain, "default", `{app: legacy}`)
	m.injectWith(t, m.pods.client, "default", `{app: client}`, nil)
	m.injectWith(t, m.pods.v1, "default", `{app: reviews, version: v1}`, []string{transparentMode}, "-m", "TPROXY")
	m.injectWith(t, m.pods.v2, "default", `{app: reviews, version: v2}`, nil)
	m.endpoints(t, "reviews", m.pods.v1, m.pods.v2)
	m.endpoints(t, "echo", m.pods.v1)
	m.endpoints(t, "legacy", m.pods.plain)
	seen := func(from, to *nettest.Pod, address, want string) error {
		response, got, err := m.from(from, address, "reviews", "/")
		if err != nil {
			return err
		}
		host, _, _ := net.SplitHostPort(got.From)
		return expect(got.Version == to.Name && host == want, "%s calls %s: answered by %q (%s), who is called by %s, not %s", from.Name, address, got.Version, response.Status, host, want)
	}
	client, v1, v2, plain := m.pods.client, m.pods.v1, m.pods.v2, m.pods.plain
	m.kube.Apply(t, `apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: by-path}
spec: {hosts: [reviews], http: [{match: [{headers: {version: {exact: v2}}}], route: [{destination: {host: reviews, subset: v2}}]}, {route: [{destination: {host: reviews, subset: v1}}]}]}
`)
	for name, check := range map[string]func() error{
		"by mutual TLS": func() error { return seen(client, v1, reviewsIP+":80", client.Address) },
		"in plain text": func() error { return seen(plain, v1, v1.Address+":8080", plain.Address) },
		"at a port that no Service has": func() error {
			return seen(plain, v1, v1.Address+":8081", plain.Address)
		},
		"where the sidecar redirects": func() error { return seen(plain, v2, v2.Address+":8080", "127.0.0.6") },
		"from itself":                 func() error { return seen(v1, v1, v1.Address+":8080", v1.Address) },
		"to itself, by its Service":   func() error { return seen(v1, v1, reviewsIP+":80", v1.Address) },
		"to others": func() error {
			_, got, err := m.from(v1, legacyIP+":80", "legacy", "/")
			return orErr(err, expect(got.Version == "plain", "v1 is answered by %q", got.Version))
		},
		"over TCP": func() error {
			line, err := m.tcpFrom(client, echoIP+":80", "hello")
			return orErr(err, expect(line == "v1 hello", "answered %q", line))
		},
	} {
		t.Run(name, func(t *testing.T) { kubetest.Eventually(t, 30*time.Second, check) })
	}
	t.Run("validation", func(t *testing.T) { // whether connections are captured at all
		agent := filepath.Join(m.bin, "slipway-agent")
		for _, mode := range []string{"REDIRECT", "TPROXY"} {
			bare := network.Pod(t, "bare-"+mode)
			validate := func(more ...string) ([]byte, int) {
				cmd := exec.Command(agent, append([]string{"istio-iptables", "-i", "*", "-b", "*", "-m", mode, "--run-validation", "--probe-timeout", "2s", "--network-namespace", bare.Namespace()}, more...)...)
				out, _ := cmd.CombinedOutput()
				return out, cmd.ProcessState.ExitCode()
			}
			if out, status := validate("--skip-rule-apply"); status != 126 {
				t.Errorf("%s, without rules: status %d: %s", mode, status, out)
			}
			if out, status := validate(); status != 0 {
				t.Errorf("%s, with rules: status %d: %s", mode, status, out)
			}
			if out, status := validate("--cleanup-only"); status != 126 {
				t.Errorf("%s, when they are gone: status %d: %s", mode, status, out)
			}
		}
	})
	m.rejections(t)
}
