//go:build bench

package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/slipway-mesh/slipway/test/kubetest"
)

// churn changes a fixed set of objects and makes clients reconnect, so that at rest there is always as much of everything.
type churn struct {
	bench   *bench
	plane   *plane
	clients []*sidecar
	cancels []context.CancelFunc
	ends    []chan struct{}
	changes atomic.Int64
	failed  atomic.Int64
	wanted  []atomic.Bool // that the client's stream ends
}

const objects = 40 // of each kind that is changed

func newChurn(t *testing.T, b *bench, p *plane, services, clients int) *churn {
	t.Helper()
	c := &churn{bench: b, plane: p, cancels: make([]context.CancelFunc, clients), ends: make([]chan struct{}, clients), wanted: make([]atomic.Bool, clients)}
	shared := newRegistry()
	for i := range clients {
		c.clients = append(c.clients, newSidecar(shared, i*services*replicas/clients, replicas))
		c.connect(i)
	}
	t.Cleanup(func() {
		for i := range c.clients {
			c.disconnect(i)
		}
	})
	return c
}

func (c *churn) connect(i int) {
	ctx, cancel := context.WithCancel(context.Background())
	end := make(chan struct{})
	c.cancels[i], c.ends[i] = cancel, end
	c.wanted[i].Store(false)
	go func() {
		defer close(end)
		if err := c.clients[i].run(ctx, c.plane.address, plainly(c.clients[i])...); err != nil && !c.wanted[i].Load() {
			c.failed.Add(1)
		}
	}()
}

func (c *churn) disconnect(i int) {
	c.wanted[i].Store(true)
	c.cancels[i]()
	<-c.ends[i]
}

// set writes one object in one of a few forms.
func (c *churn) set(t *testing.T, k, form int) {
	service, n := k%objects, form%5+1
	switch k / objects {
	case 0:
		c.bench.kube.Apply(t, fmt.Sprintf("apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: churn-%d, namespace: load-0}\nspec:\n  hosts: [svc-%d]\n  http: [{timeout: %ds, route: [{destination: {host: svc-%d}}]}]\n", service, service, n, service))
	case 1:
		c.bench.kube.Apply(t, fmt.Sprintf("apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: churn-%d, namespace: load-0}\nspec:\n  host: svc-%d\n  trafficPolicy: {connectionPool: {tcp: {maxConnections: %d}}}\n", service, service, n))
	case 2:
		c.bench.kube.Apply(t, fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {name: churn-%d, namespace: load-1}\nspec: {ports: [{name: http, port: %d}]}\n", service, 80+n))
	case 3:
		changed := slice(service, replicas)
		changed.Endpoints = changed.Endpoints[:1+form%2]
		if err := c.bench.kube.Client.Update(t.Context(), changed); err != nil {
			t.Error(err)
		}
	}
	c.changes.Add(1)
}

// run makes so many changes, and as many reconnects.
func (c *churn) run(t *testing.T, seed uint64, n int) {
	t.Helper()
	var wait sync.WaitGroup
	const workers = 4
	for w := range workers {
		wait.Add(2)
		r := rand.New(rand.NewPCG(seed, uint64(w)))
		go func() {
			defer wait.Done()
			for range n / workers {
				c.set(t, r.IntN(4*objects), r.IntN(5))
			}
		}()
		own := rand.New(rand.NewPCG(seed, uint64(workers+w)))
		go func() {
			defer wait.Done()
			for range n / workers {
				i := own.IntN(len(c.clients)/workers)*workers + w // each has clients of its own
				c.disconnect(i)
				c.connect(i)
			}
		}()
	}
	wait.Wait()
}

// still brings every object into its first form, and every client to rest, and returns what slipwayd holds then.
func (c *churn) still(t *testing.T) (heap int64, goroutines int) {
	t.Helper()
	for k := range 4 * objects {
		c.set(t, k, 0)
	}
	time.Sleep(time.Second)
	c.plane.rest(t)
	return c.plane.heap(t)
}

// TestSteady: after 10,000 changes and 10,000 reconnects slipwayd holds what it held after the first 1,000, and after as many
// again no more than that.
func TestSteady(t *testing.T) {
	b := newBench(t)
	fill(t, b.kube.Client, 0, 500)
	c := newChurn(t, b, b.start(t), 500, 96)
	var heaps []int64
	var goroutines []int
	for i, n := range []int{1000, 9000, 10000} {
		c.run(t, uint64(i), n)
		heap, count := c.still(t)
		heaps, goroutines = append(heaps, heap), append(goroutines, count)
		c.plane.profile(t, fmt.Sprintf("steady-%d", i))
		t.Logf("%d changes: heap %d kB, %d goroutines", c.changes.Load(), heap>>10, count)
	}
	within := func(name string, before, after, share int64) {
		t.Helper()
		if after > before+before*share/100 {
			t.Errorf("%s: %d, and %d later", name, before, after)
		}
	}
	within("heap after the first 1,000, and 10,000", heaps[0], heaps[1], 5)
	within("heap after the first 1,000, and 20,000", heaps[0], heaps[2], 5)
	within("goroutines", int64(goroutines[0]), int64(goroutines[2]), 5)
	if failed := c.failed.Load(); failed > 0 {
		t.Errorf("%d streams broke by themselves", failed)
	}
}

// TestRace changes the mesh under a hundred clients for some minutes, MINUTES or 10, with a slipwayd that stops at the first data race.
func TestRace(t *testing.T) {
	minutes := 10 * time.Minute
	if text := os.Getenv("MINUTES"); text != "" {
		var err error
		if minutes, err = time.ParseDuration(text + "m"); err != nil {
			t.Fatal(err)
		}
	}
	b := newBench(t)
	build := exec.Command("go", "build", "-race", "-o", filepath.Join(b.bin, "slipwayd"), "./cmd/slipwayd")
	build.Dir, build.Env = kubetest.Root(t), append(os.Environ(), "CGO_ENABLED=1")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build slipwayd with -race: %v\n%s", err, out)
	}
	t.Setenv("GORACE", "halt_on_error=1")
	fill(t, b.kube.Client, 0, 100)
	p := b.start(t)
	c := newChurn(t, b, p, 100, 100)
	for start, round := time.Now(), uint64(0); time.Since(start) < minutes; round++ {
		c.run(t, round, 400)
		if failed := c.failed.Load(); failed > 0 {
			break
		}
	}
	c.still(t)
	log, err := os.ReadFile(filepath.Join(b.bin, "slipwayd.log"))
	if err != nil {
		t.Fatal(err)
	}
	if at := strings.Index(string(log), "DATA RACE"); at >= 0 {
		t.Fatalf("%s", log[at:min(len(log), at+4000)])
	}
	if failed := c.failed.Load(); failed > 0 {
		t.Errorf("%d streams broke by themselves", failed)
	}
	t.Logf("%d changes", c.changes.Load())
}
