//go:build bench

// Package bench measures the control plane from outside: a real API server with services, slipwayd, and ADS clients that do
// what sidecars do. Run it with `make bench`; FULL=1 runs the whole grid.
package bench

import (
	"context"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/slipway-mesh/slipway/test/kubetest"
)

// row is one measured event.
type row struct {
	services, proxies int
	transport         string // of the proxies
	event             string
	last              time.Duration // from the write to the last proxy's last message
	cpu               time.Duration // of slipwayd
	bytes             int64
	reached           int // proxies that were sent something
	memory            int64
}

func TestBench(t *testing.T) {
	grid := sizes(t)
	b := newBench(t)
	var rows []row
	filled := 0
	for _, size := range grid {
		if size[0] > filled {
			fill(t, b.kube.Client, filled, size[0])
			filled = size[0]
		}
		rows = append(rows, b.measure(t, size[0], size[1], "plain")...)
	}
	last := grid[len(grid)-1]
	rows = append(rows, b.measure(t, last[0], last[1], "TLS")...)
	report(t, rows, b.gateways(t, last[0]))
}

// sizes are the pairs of services and proxies to measure: those of SIZES, as 1000x500,10000x2000; with FULL the whole grid; else
// what takes a few minutes.
func sizes(t *testing.T) [][]int {
	t.Helper()
	var grid [][]int
	if chosen := os.Getenv("SIZES"); chosen != "" {
		for _, size := range strings.Split(chosen, ",") {
			var services, proxies int
			if _, err := fmt.Sscanf(size, "%dx%d", &services, &proxies); err != nil {
				t.Fatalf("SIZES: %q is not SERVICESxPROXIES", size)
			}
			grid = append(grid, []int{services, proxies})
		}
		return grid
	}
	if os.Getenv("FULL") == "" {
		return [][]int{{100, 100}, {1000, 100}, {1000, 500}}
	}
	for _, services := range []int{100, 1000, 5000} {
		for _, proxies := range []int{100, 500, 2000} {
			if proxies <= services*replicas {
				grid = append(grid, []int{services, proxies})
			}
		}
	}
	return grid
}

type bench struct {
	kube *kubetest.Server
	bin  string
}

// clientMemory is what the clients' heap is kept to, in bytes: thousands are in one process here, beside all else.
const clientMemory = 6 << 30

func newBench(t *testing.T) *bench {
	t.Helper()
	debug.SetMemoryLimit(clientMemory)
	root := kubetest.Root(t)
	b := &bench{kube: kubetest.Start(t), bin: t.TempDir()}
	crds, err := os.ReadFile(filepath.Join(root, "charts/base/crds/crd-all.gen.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	b.kube.Apply(t, string(crds))
	b.kube.Apply(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: istio-system}\n")
	build := exec.Command("go", "build", "-o", filepath.Join(b.bin, "slipwayd"), "./cmd/slipwayd")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build slipwayd: %v\n%s", err, out)
	}
	rendered, err := exec.Command("go", "run", filepath.Join(root, "cmd/slipway"), "manifest", "generate", "--set", "profile=minimal").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, object := range kubetest.Objects(t, string(rendered)) {
		if object.GetKind() == "ConfigMap" {
			if err := b.kube.Client.Create(t.Context(), object); err != nil {
				t.Fatal(err)
			}
		}
	}
	return b
}

// plane is a running slipwayd.
type plane struct {
	address, secure, debug string
	pid                    int
	stop                   func()
}

func (b *bench) start(t *testing.T) *plane {
	t.Helper()
	at := func() string { return fmt.Sprintf("127.0.0.1:%d", kubetest.FreePort(t)) }
	p := &plane{address: at(), secure: at(), debug: at()}
	cmd := exec.Command(filepath.Join(b.bin, "slipwayd"), "--kubeconfig", b.kube.Kubeconfig, "--grpcAddr", p.address, "--secureGRPCAddr", p.secure, "--httpAddr", p.debug, "--monitoringAddr", at(), "--httpsAddr", at())
	log, err := os.Create(filepath.Join(b.bin, "slipwayd.log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.pid = cmd.Process.Pid
	p.stop = func() { _ = cmd.Process.Kill(); _ = cmd.Wait(); _ = log.Close() }
	t.Cleanup(p.stop)
	kubetest.Eventually(t, time.Minute, func() error {
		response, err := http.Get("http://" + p.debug + "/ready")
		if err != nil {
			return err
		}
		defer func() { _ = response.Body.Close() }()
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("slipwayd is not ready: %s", response.Status)
		}
		return nil
	})
	return p
}

// cpu is the processor time that slipwayd has used.
func (p *plane) cpu(t *testing.T) time.Duration {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond // USER_HZ is 100
}

// rest waits until slipwayd does nothing: what sends nothing is not done when nothing is sent.
func (p *plane) rest(t *testing.T) {
	t.Helper()
	for range 600 {
		before := p.cpu(t)
		time.Sleep(300 * time.Millisecond)
		if p.cpu(t)-before <= 20*time.Millisecond {
			return
		}
	}
	t.Fatal("slipwayd never rests")
}

// memory reads a line of slipwayd's status, such as VmHWM, in bytes.
func (p *plane) memory(t *testing.T, name string) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(text), "\n") {
		if strings.HasPrefix(line, name+":") {
			kilobytes, _ := strconv.ParseInt(strings.Fields(line)[1], 10, 64)
			return kilobytes << 10
		}
	}
	t.Fatalf("no %s", name)
	return 0
}

// profile writes the heap's profile to the folder PROFILES, where that is set.
func (p *plane) profile(t *testing.T, name string) {
	t.Helper()
	folder := os.Getenv("PROFILES")
	if folder == "" {
		return
	}
	for file, path := range map[string]string{".pb.gz": "/debug/pprof/heap?gc=1", ".goroutines": "/debug/pprof/goroutine?debug=1"} {
		if err := os.WriteFile(filepath.Join(folder, name+file), p.read(t, path), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// read fetches a page of slipwayd's debug port.
func (p *plane) read(t *testing.T, path string) []byte {
	t.Helper()
	response, err := http.Get("http://" + p.debug + path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// heap is what is in use after a collection, and how many goroutines there are.
func (p *plane) heap(t *testing.T) (bytes int64, goroutines int) {
	t.Helper()
	number := func(path, before string) int64 {
		_, rest, found := strings.Cut(string(p.read(t, path)), before)
		line, _, _ := strings.Cut(rest, "\n")
		n, err := strconv.ParseInt(line, 10, 64)
		if !found || err != nil {
			t.Fatalf("%s has no number after %q", path, before)
		}
		return n
	}
	for range 3 { // what has a finalizer, or lies in a pool, goes at a later collection
		number("/debug/pprof/heap?gc=1&debug=1", "# HeapAlloc = ")
	}
	return number("/debug/pprof/heap?gc=1&debug=1", "# HeapAlloc = "), int(number("/debug/pprof/goroutine?debug=1", "goroutine profile: total "))
}

// fleet is the clients of one plane.
type fleet struct {
	options   func(*sidecar) []grpc.DialOption // how each connects
	clients   []*sidecar
	cancel    context.CancelFunc
	wait      sync.WaitGroup
	connected time.Time
}

func (f *fleet) connect(t *testing.T, target string) {
	ctx, cancel := context.WithCancel(context.Background())
	f.cancel, f.connected = cancel, time.Now()
	for _, c := range f.clients {
		f.wait.Add(1)
		go func() {
			defer f.wait.Done()
			if err := c.run(ctx, target, f.options(c)...); err != nil && ctx.Err() == nil {
				t.Errorf("client: %v", err)
			}
		}()
	}
}

func (f *fleet) disconnect() {
	f.cancel()
	f.wait.Wait()
}

const (
	quiet = 700 * time.Millisecond // without a message: all is said
	limit = 5 * time.Minute
)

// until waits until no client has been sent anything for a while, and says when the last message came, and how many clients
// got one since the start.
func (f *fleet) until(t *testing.T, start time.Time, least int) (last time.Time, reached int) {
	t.Helper()
	for time.Since(start) < limit {
		time.Sleep(20 * time.Millisecond)
		last, reached = start, 0
		for _, c := range f.clients {
			if at := time.Unix(0, c.last.Load()); at.After(start) {
				reached++
				if at.After(last) {
					last = at
				}
			}
		}
		if time.Since(last) > quiet && reached >= least {
			return last, reached
		}
	}
	t.Fatalf("not quiet after %s", limit)
	return
}

func (f *fleet) bytes() int64 {
	var total int64
	for _, c := range f.clients {
		total += c.bytes.Load()
	}
	return total
}

// event does something, waits until all is said, and notes what it took.
func (p *plane) event(t *testing.T, f *fleet, services int, transport, name string, least int, do func()) row {
	t.Helper()
	cpu, bytes, start := p.cpu(t), f.bytes(), time.Now()
	do()
	last, reached := f.until(t, start, least)
	p.rest(t)
	r := row{services: services, proxies: len(f.clients), transport: transport, event: name, last: last.Sub(start), cpu: p.cpu(t) - cpu, bytes: f.bytes() - bytes, reached: reached, memory: p.memory(t, "VmRSS")}
	if name == "connect" {
		r.memory = p.memory(t, "VmHWM")
	}
	t.Logf("%+v", r)
	return r
}

// rounds are how often a single change is made: one takes so little that a collection of garbage beside it counts as much.
const rounds = 5

func (b *bench) measure(t *testing.T, services, proxies int, transport string) []row {
	t.Helper()
	p := b.start(t)
	defer p.stop()
	idle := p.memory(t, "VmRSS")
	f, address := &fleet{options: plainly}, p.address
	shared := newRegistry()
	for i := range proxies {
		f.clients = append(f.clients, newSidecar(shared, i*services*replicas/proxies, replicas))
	}
	if transport == "TLS" {
		f.options, address = b.identified(t, services), p.secure
	}
	var rows []row
	event := func(name string, least int, do func()) {
		t.Helper()
		rows = append(rows, p.event(t, f, services, transport, name, least, do))
	}
	event("connect", proxies, func() { f.connect(t, address) })
	for _, c := range f.clients {
		c.check(t, services, services)
	}
	p.profile(t, fmt.Sprintf("heap-%d-%d", services, proxies))
	event("reconnect", 0, func() { f.disconnect(); f.connect(t, address) })
	for round := range rounds {
		event("VirtualService", proxies, func() { b.virtualService(t, round) })
		event("DestinationRule", proxies, func() { b.destinationRule(t, round) })
		event("endpoint", proxies, func() { b.endpoint(t, round) })
		event("Service", proxies, func() { b.service(t, services, round) })
		event("namespace", 0, func() { b.namespace(t, round) })
		event("root policy", 0, func() { b.rootPolicy(t, round) })
	}
	rows = append(rows, b.storm(t, p, f, shared, address, services, transport))
	t.Logf("%d services: %d MB before the first proxy, %d bytes of heap for one more idle stream", services, idle>>20, p.idleStream(t, f, shared, address))
	b.clean(t)
	return medians(rows)
}

// storm changes an endpoint while as many proxies again connect for the first time: those that are connected must not wait for them.
func (b *bench) storm(t *testing.T, p *plane, f *fleet, shared *registry, address string, services int, transport string) row {
	t.Helper()
	crowd := &fleet{options: f.options}
	for i := range f.clients {
		crowd.clients = append(crowd.clients, newSidecar(shared, i*services*replicas/len(f.clients), replicas))
	}
	cpu, bytes := p.cpu(t), f.bytes()
	crowd.connect(t, address)
	time.Sleep(300 * time.Millisecond) // they are on their way
	start := time.Now()
	b.endpoint(t, 1)
	last, reached := f.until(t, start, len(f.clients))
	r := row{services: services, proxies: len(f.clients), transport: transport, event: "endpoint, as many connect", last: last.Sub(start), bytes: f.bytes() - bytes, reached: reached}
	whole, _ := crowd.until(t, crowd.connected, len(crowd.clients))
	r.cpu, r.memory = p.cpu(t)-cpu, p.memory(t, "VmHWM")
	t.Logf("%+v; the others are connected after %s", r, whole.Sub(crowd.connected))
	crowd.disconnect()
	return r
}

func (b *bench) virtualService(t *testing.T, round int) {
	b.kube.Apply(t, fmt.Sprintf("apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: bench, namespace: load-0}\nspec:\n  hosts: [svc-7]\n  http: [{timeout: %ds, route: [{destination: {host: svc-7}}]}]\n", round+1))
}

func (b *bench) destinationRule(t *testing.T, round int) {
	b.kube.Apply(t, fmt.Sprintf("apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: bench, namespace: load-0}\nspec:\n  host: svc-8\n  trafficPolicy: {connectionPool: {tcp: {maxConnections: %d}}}\n", round+1))
}

func (b *bench) endpoint(t *testing.T, round int) {
	t.Helper()
	changed := slice(9, replicas)
	if round%2 == 0 {
		changed.Endpoints = changed.Endpoints[:1]
	}
	if err := b.kube.Client.Update(t.Context(), changed); err != nil {
		t.Fatal(err)
	}
}

func (b *bench) service(t *testing.T, services, round int) {
	b.kube.Apply(t, fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {name: bench-%d, namespace: load-0}\nspec: {ports: [{name: http, port: 80}]}\n", round))
}

func (b *bench) namespace(t *testing.T, round int) {
	b.kube.Apply(t, fmt.Sprintf("apiVersion: v1\nkind: Namespace\nmetadata: {name: load-1, labels: {bench: 'r%d'}}\n", round))
}

func (b *bench) rootPolicy(t *testing.T, round int) {
	mode := []string{"STRICT", "PERMISSIVE"}[round%2]
	b.kube.Apply(t, fmt.Sprintf("apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: default, namespace: istio-system}\nspec: {mtls: {mode: %s}}\n", mode))
}

// clean takes away what the events made.
func (b *bench) clean(t *testing.T) {
	t.Helper()
	made := "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: bench, namespace: load-0}\n---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: bench, namespace: load-0}\n" +
		"---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: default, namespace: istio-system}\n"
	for round := range rounds {
		made += fmt.Sprintf("---\napiVersion: v1\nkind: Service\nmetadata: {name: bench-%d, namespace: load-0}\n", round)
	}
	for _, object := range kubetest.Objects(t, made) {
		if err := b.kube.Client.Delete(t.Context(), object); client.IgnoreNotFound(err) != nil {
			t.Fatal(err)
		}
	}
	if err := b.kube.Client.Update(t.Context(), slice(9, replicas)); err != nil {
		t.Fatal(err)
	}
}

// medians keeps of each event the round in the middle by its time.
func medians(rows []row) []row {
	byEvent := map[string][]row{}
	var order []string
	for _, r := range rows {
		if byEvent[r.event] == nil {
			order = append(order, r.event)
		}
		byEvent[r.event] = append(byEvent[r.event], r)
	}
	var out []row
	for _, event := range order {
		all := byEvent[event]
		slices.SortFunc(all, func(a, b row) int { return int(a.last - b.last) })
		out = append(out, all[len(all)/2])
	}
	return out
}

// report prints the table, and keeps it under results/ with the machine's name.
func report(t *testing.T, rows, gateways []row) {
	t.Helper()
	var out strings.Builder
	fmt.Fprintf(&out, "# Control plane, measured from outside\n\n%s, %d processors shared by API server, etcd, slipwayd and clients.\n", machine(), runtime.NumCPU())
	out.WriteString("Times are from the write to the last proxy's last message; the middle one of " + strconv.Itoa(rounds) + " rounds, where there is more than one. Memory is the peak for connect, else what is resident.\n\n")
	out.WriteString("| services | proxies | transport | event | last | CPU | bytes | proxies reached | memory |\n|---|---|---|---|---|---|---|---|---|\n")
	table := func(rows []row) {
		for _, r := range rows {
			fmt.Fprintf(&out, "| %d | %d | %s | %s | %d ms | %.2f s | %.2f MB | %d | %d MB |\n", r.services, r.proxies, r.transport, r.event, r.last.Milliseconds(), r.cpu.Seconds(), float64(r.bytes)/1e6, r.reached, r.memory>>20)
		}
	}
	table(rows)
	fmt.Fprintf(&out, "\n## Gateways\n\nProxies are gateways of %d hosts with a VirtualService each.\n\n| services | proxies | transport | event | last | CPU | bytes | proxies reached | memory |\n|---|---|---|---|---|---|---|---|---|\n", gatewayHosts)
	table(gateways)
	out.WriteString("\n## Growth\n\nThe exponent e of last = services^e, between the fewest and the most services with the same number of proxies.\n\n| proxies | event | exponent |\n|---|---|---|\n")
	for _, low := range rows {
		high := low
		for _, r := range rows {
			if r.proxies == low.proxies && r.event == low.event && r.transport == low.transport && r.services > high.services {
				high = r
			}
		}
		least := slices.ContainsFunc(rows, func(r row) bool {
			return r.proxies == low.proxies && r.event == low.event && r.transport == low.transport && r.services < low.services
		})
		if high.services > low.services && !least && low.last > 0 {
			e := math.Log(float64(high.last)/float64(low.last)) / math.Log(float64(high.services)/float64(low.services))
			fmt.Fprintf(&out, "| %d | %s | %.2f |\n", low.proxies, low.event, e)
		}
	}
	fmt.Print(out.String())
	name := filepath.Join(kubetest.Root(t), "test/bench/results", resultName()+".md")
	if err := os.WriteFile(name, []byte(out.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

// resultName is where a run's table is kept: those of the aims' row, of the whole grid, and of chosen sizes stand beside each other.
func resultName() string {
	switch chosen := os.Getenv("SIZES"); {
	case chosen != "":
		return "sizes-" + strings.ReplaceAll(chosen, ",", "-")
	case os.Getenv("FULL") != "":
		return "grid"
	}
	return "table"
}

func machine() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "an unknown machine"
	}
	for _, line := range strings.Split(string(text), "\n") {
		if name, model, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(model)
		}
	}
	return "an unknown machine"
}
