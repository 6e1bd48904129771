package conformance

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/slipway-mesh/slipway/test/kubetest"
)

// pidOf is the process of a program; 0 where it does not run.
func pidOf(program string) (int, error) {
	links, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		return 0, err
	}
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && target == program {
			return strconv.Atoi(filepath.Base(filepath.Dir(link)))
		}
	}
	return 0, nil
}

// TestTermination: when a pod is to end, what is in flight is answered and the application can still call others, whether its sidecar is
// a container like others, which is told to end at the same moment, or a native one, which is told to drain then and to end last.
func TestTermination(t *testing.T) {
	t.Parallel() // its ports are its own
	m, network := startNetwork(t)
	m.pods = &pods{plain: network.Pod(t, "plain"), outside: network.Pod(t, "outside")}
	m.backends = map[string]*backend{"plain": serveAll(t, m.pods.plain)}
	m.register(t, m.pods.plain, "default", `{app: legacy}`)
	m.endpoints(t, "legacy", m.pods.plain)
	for _, native := range []bool{false, true} {
		name := map[bool]string{false: "classic", true: "native"}[native]
		t.Run(name, func(t *testing.T) {
			p := network.Pod(t, name)
			b := serveAll(t, p)
			m.injectWith(t, p, "default", "{app: reviews, version: v1}", nil)
			ask := func() (*http.Response, error) {
				response, got, err := m.from(m.pods.outside, p.Address+":8080", "reviews", "/")
				if err == nil && got.Version != name {
					err = fmt.Errorf("answered %s by %q", response.Status, got.Version)
				}
				return response, err
			}
			kubetest.Eventually(t, 30*time.Second, func() error { _, err := ask(); return err })
			program := filepath.Join(p.Dir(), "slipway-agent")
			pid, err := pidOf(program)
			if err != nil || pid == 0 {
				t.Fatalf("the agent does not run (%v)", err)
			}
			b.delay.Store(2500)
			inFlight := make(chan error, 1)
			go func() { _, err := ask(); inFlight <- err }()
			time.Sleep(300 * time.Millisecond)
			terminate := func() {
				if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
					t.Fatal(err)
				}
			}
			if native {
				p.Run(t, program+" request --debug-port=15020 POST drain") // what the template has as preStop
			} else {
				terminate()
			}
			for range 3 {
				time.Sleep(500 * time.Millisecond)
				if response, got, err := m.from(p, legacyIP+":80", "legacy", "/"); err != nil || got.Version != "plain" {
					t.Errorf("the application calls another while its sidecar drains: %v, %v", response, err)
				}
			}
			b.delay.Store(0)
			if response, err := ask(); err != nil || !response.Close {
				t.Errorf("who comes while the sidecar drains is answered %v (%v), and is to be told that the connection closes", response, err)
			}
			if err := <-inFlight; err != nil {
				t.Errorf("a request in flight is lost: %v", err)
			}
			asked, limit := time.Now(), 8*time.Second
			if native {
				terminate()
				limit = 3 * time.Second // nobody needs it any more
			}
			for {
				if left, err := pidOf(program); err == nil && left == 0 {
					break
				}
				if time.Since(asked) > limit {
					t.Fatalf("the agent runs for %s after it could end", limit)
				}
				time.Sleep(50 * time.Millisecond)
			}
		})
	}
}
