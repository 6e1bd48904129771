package conformance

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/slipway-mesh/slipway/test/kubetest"
	"github.com/slipway-mesh/slipway/test/nettest"
)

// patience is how long an answer is waited for: longer than Envoy tries to connect, so that what leads nowhere is told apart from what is slow.
const patience = 20 * time.Second

// inFlight is how many requests of a load wait for their answers at most. Without a limit a machine that stands still for a moment leaves
// proxies with a thousand connections to open at once, and from that a slow one does not recover.
const inFlight = 64

// load sends requests to a host, so many a second, from inside a pod.
type load struct {
	from          *nettest.Pod
	address, host string

	mu       sync.Mutex
	sent     int
	failures []string
}

// run sends requests until the context ends, on connections that are kept, as applications do.
func (l *load) run(ctx context.Context, perSecond int) {
	client := &http.Client{Timeout: patience, Transport: &http.Transport{MaxIdleConnsPerHost: inFlight, DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return l.from.Dial(ctx, network, l.address)
	}}}
	defer client.CloseIdleConnections()
	ticker := time.NewTicker(time.Second / time.Duration(perSecond))
	defer ticker.Stop()
	var group errgroup.Group
	group.SetLimit(inFlight)
	defer func() { _ = group.Wait() }()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			group.Go(func() error {
				response, got, err := ask(client, "http://"+l.address+"/", l.host)
				l.mu.Lock()
				defer l.mu.Unlock()
				l.sent++
				switch {
				case err != nil:
					l.failures = append(l.failures, err.Error())
				case response.StatusCode != http.StatusOK:
					l.failures = append(l.failures, response.Status+": "+got.text[:min(len(got.text), 200)])
				}
				return nil
			})
		}
	}
}

// lost takes what has failed so far.
func (l *load) lost() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := l.failures
	l.failures = nil
	return out
}

// edgePort is where the gateway of the pods' network listens.
const edgePort = 8090

// startEdge runs a gateway in a pod of its own, with more in its environment.
func (m *mesh) startEdge(t *testing.T, p *nettest.Pod, more ...string) {
	t.Helper()
	m.register(t, p, "default", "{istio: edge, security.istio.io/tlsMode: istio}")
	agent := m.equip(t, p, "default", "{istio: edge}")
	environment := []string{"POD_NAME=" + p.Name, "POD_NAMESPACE=default", "INSTANCE_IP=" + p.Address, "SERVICE_ACCOUNT=" + p.Name, "ENVOY_PATH=" + p.Dir() + "/envoy"}
	p.Start(t, proxyUser, append(environment, more...), agent, "proxy", "router", "--domain", "default.svc.cluster.local", "--concurrency", "1")
}

// started sends requests by all loads; stop waits until the last is answered.
func started(t *testing.T, loads []*load) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	for _, l := range loads {
		group.Go(func() { l.run(ctx, 250) })
	}
	return func() {
		cancel()
		group.Wait()
	}
}

func routeTo(subset string) string {
	return fmt.Sprintf("apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: load}\nspec: {hosts: [reviews.default.svc.cluster.local], gateways: [mesh, edge], http: [{route: [{destination: {host: reviews, subset: %s, port: {number: 80}}}]}]}\n", subset)
}

func subsets(names ...string) string {
	out := "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: reviews}\nspec:\n  host: reviews\n  subsets:\n"
	for _, name := range names {
		out += "  - {name: " + name + ", labels: {version: " + strings.Replace(name, "v3", "v2", 1) + "}}\n"
	}
	return out
}

// TestChangesUnderLoad changes the mesh while 500 requests a second go through two sidecars, and through a gateway and a sidecar: not
// one may be lost.
func TestChangesUnderLoad(t *testing.T) {
	m := startPods(t)
	edge := m.pods.plain
	m.startEdge(t, edge)
	m.kube.Apply(t, fmt.Sprintf("apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: edge}\nspec: {selector: {istio: edge}, servers: [{port: {number: %d, name: http, protocol: HTTP}, hosts: ['*']}]}\n---\n%s", edgePort, routeTo("v1")))
	loads := []*load{{from: m.pods.client, address: reviewsIP + ":80", host: "reviews"}, {from: m.pods.outside, address: fmt.Sprintf("%s:%d", edge.Address, edgePort), host: "reviews.default.svc.cluster.local"}}
	for _, l := range loads {
		kubetest.Eventually(t, 30*time.Second, func() error {
			response, got, err := m.from(l.from, l.address, l.host, "/")
			return orErr(err, expect(response != nil && got.Version == "v1", "%s is answered by %q: %v", l.host, got.Version, response))
		})
	}
	begun := time.Now()
	stop := started(t, loads)
	lossless := func(t *testing.T) {
		for _, l := range loads {
			if lost := l.lost(); len(lost) > 0 {
				t.Errorf("%d requests to %s from %s are lost, such as %s", len(lost), l.host, l.from.Name, lost[0])
			}
		}
	}
	settled := func() { time.Sleep(1500 * time.Millisecond) }
	rename := func(port string) func() {
		service := "apiVersion: v1\nkind: Service\nmetadata: {name: reviews}\nspec:\n  clusterIP: " + reviewsIP + "\n  selector: {app: reviews}\n  ports: [{name: " + port + ", port: 80, targetPort: 8080}]\n"
		return func() {
			m.kube.Apply(t, service)
			time.Sleep(700 * time.Millisecond) // the controller of EndpointSlices comes after
			m.endpoints(t, "reviews", m.pods.v1, m.pods.v2)
		}
	}
	for _, c := range []struct {
		name   string
		change func()
	}{
		{"nothing at all", func() {}},
		{"a route to and fro", func() {
			for i := range 20 {
				m.kube.Apply(t, routeTo([]string{"v2", "v1"}[i%2]))
				time.Sleep(50 * time.Millisecond)
			}
		}},
		{"a subset that comes and goes", func() {
			for range 5 {
				m.kube.Apply(t, subsets("v1", "v2", "v3")+"---\n"+routeTo("v3"))
				time.Sleep(200 * time.Millisecond)
				m.kube.Apply(t, routeTo("v1")+"---\n"+subsets("v1", "v2"))
				time.Sleep(200 * time.Millisecond)
			}
		}},
		{"a subset that comes after the route to it, and goes before it", func() {
			for range 3 {
				m.kube.Apply(t, routeTo("v3")+"---\n"+subsets("v1", "v2", "v3"))
				time.Sleep(300 * time.Millisecond)
				m.kube.Apply(t, subsets("v1", "v2")+"---\n"+routeTo("v1"))
				time.Sleep(300 * time.Millisecond)
			}
		}},
		{"settings of connections", func() {
			for i := range 6 {
				m.kube.Apply(t, strings.Replace(subsets("v1", "v2"), "  subsets:", fmt.Sprintf("  trafficPolicy: {connectionPool: {tcp: {connectTimeout: %ds}}}\n  subsets:", 2+i), 1))
				time.Sleep(150 * time.Millisecond)
			}
		}},
		{"a port's name", rename("http-web")},
		{"a port's name, so that its protocol is found out", rename("web")},
		{"mutual TLS that is demanded, and is not", func() {
			for _, mode := range []string{"STRICT", "PERMISSIVE", "STRICT"} {
				m.kube.Apply(t, "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: load}\nspec: {mtls: {mode: "+mode+"}}\n")
				settled()
			}
		}},
		{"a policy that comes and goes", func() {
			policy := "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: load}\nspec: {action: DENY, rules: [{to: [{operation: {paths: [/nowhere]}}]}]}\n"
			for range 3 {
				m.kube.Apply(t, policy)
				time.Sleep(300 * time.Millisecond)
				m.kube.Delete(t, policy)
				time.Sleep(300 * time.Millisecond)
			}
		}},
		{"a control plane that dies and comes back", func() {
			for range 2 {
				m.restart()
				kubetest.Eventually(t, 30*time.Second, func() error { return ok(m.debug + "/ready") })
				settled()
			}
		}},
		{"a route, after all that", func() {
			m.kube.Apply(t, routeTo("v2"))
			kubetest.Eventually(t, 15*time.Second, func() error { return served("v2", reviewsIP+":80", "reviews", "/")(m) })
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.change()
			settled()
			lossless(t)
		})
	}
	stop()
	lossless(t)
	took := time.Since(begun)
	for _, l := range loads {
		t.Logf("%d requests to %s from %s, %.0f a second", l.sent, l.host, l.from.Name, float64(l.sent)/took.Seconds())
	}
	defer started(t, loads)()
	t.Run("what must lose requests is seen to", func(t *testing.T) { // the control: a subset goes that is still in use
		m.kube.Apply(t, subsets("v1"))
		kubetest.Eventually(t, 15*time.Second, func() error {
			return expect(len(loads[0].lost()) > 0 && len(loads[1].lost()) > 0, "no request is lost")
		})
	})
	m.rejections(t)
}
