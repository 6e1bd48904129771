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
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/slipway-mesh/slipway/test/kubetest"
)

// row is one measured event.
type row struct {
	services, proxies int
	event             string
	last              time.Duration // from the write to the last proxy's last message
	cpu               time.Duration // of slipwayd
	bytes             int64
	reached           int // proxies that were sent something
	memory            int64
}

func TestBench(t *testing.T) {
	grid := [][]int{{100, 100}, {1000, 100}, {1000, 500}}
	if os.Getenv("FULL") != "" {
		grid = nil
		for _, services := range []int{100, 1000, 5000} {
			for _, proxies := range []int{100, 500, 2000} {
				if proxies <= services*replicas {
					grid = append(grid, []int{services, proxies})
				}
			}
		}
	}
	b := newBench(t)
	var rows []row
	filled := 0
	for _, size := range grid {
		if size[0] > filled {
			fill(t, b.kube.Client, filled, size[0])
			filled = size[0]
		}
		rows = append(rows, b.measure(t, size[0], size[1])...)
	}
	report(t, rows)
}

type bench struct {
	kube *kubetest.Server
	bin  string
}

func newBench(t *testing.T) *bench {
	t.Helper()
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
	address, debug string
	pid            int
	stop           func()
}

func (b *bench) start(t *testing.T) *plane {
	t.Helper()
	at := func() string { return fmt.Sprintf("127.0.0.1:%d", kubetest.FreePort(t)) }
	p := &plane{address: at(), debug: at()}
	debug := p.debug
	cmd := exec.Command(filepath.Join(b.bin, "slipwayd"), "--kubeconfig", b.kube.Kubeconfig, "--grpcAddr", p.address, "--secureGRPCAddr", at(), "--httpAddr", debug, "--monitoringAddr", at(), "--httpsAddr", at())
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
		response, err := http.Get("http://" + debug + "/ready")
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
	response, err := http.Get("http://" + p.debug + "/debug/pprof/heap?gc=1")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, name+".pb.gz"), text, 0o644); err != nil {
		t.Fatal(err)
	}
}

// fleet is the clients of one plane.
type fleet struct {
	clients []*sidecar
	cancel  context.CancelFunc
	wait    sync.WaitGroup
}

func (f *fleet) connect(t *testing.T, target string) {
	ctx, cancel := context.WithCancel(context.Background())
	f.cancel = cancel
	for _, c := range f.clients {
		f.wait.Add(1)
		go func() {
			defer f.wait.Done()
			if err := c.run(ctx, target); err != nil && ctx.Err() == nil {
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

func (b *bench) measure(t *testing.T, services, proxies int) []row {
	t.Helper()
	p := b.start(t)
	defer p.stop()
	idle := p.memory(t, "VmRSS")
	f := &fleet{}
	shared := newNames()
	for i := range proxies {
		f.clients = append(f.clients, newSidecar(shared, i*services*replicas/proxies, replicas))
	}
	var rows []row
	event := func(name string, least int, do func()) {
		t.Helper()
		cpu, bytes, start := p.cpu(t), f.bytes(), time.Now()
		do()
		last, reached := f.until(t, start, least)
		r := row{services: services, proxies: proxies, event: name, last: last.Sub(start), cpu: p.cpu(t) - cpu, bytes: f.bytes() - bytes, reached: reached, memory: p.memory(t, "VmRSS")}
		t.Logf("%+v", r)
		rows = append(rows, r)
	}
	event("connect", proxies, func() { f.connect(t, p.address) })
	rows[0].memory = p.memory(t, "VmHWM")
	p.profile(t, fmt.Sprintf("heap-%d-%d", services, proxies))
	event("reconnect", 0, func() { f.disconnect(); f.connect(t, p.address) })
	for round := range 3 {
		event("VirtualService", proxies, func() { b.virtualService(t, round) })
		event("DestinationRule", proxies, func() { b.destinationRule(t, round) })
		event("endpoint", proxies, func() { b.endpoint(t, round) })
		event("Service", proxies, func() { b.service(t, services, round) })
		event("namespace", 0, func() { b.namespace(t, round) })
		event("root policy", 0, func() { b.rootPolicy(t, round) })
	}
	f.disconnect()
	t.Logf("%d services: %d MB before the first proxy", services, idle>>20)
	b.clean(t)
	return medians(rows)
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
	for _, object := range kubetest.Objects(t, "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: bench, namespace: load-0}\n---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: bench, namespace: load-0}\n"+
		"---\napiVersion: v1\nkind: Service\nmetadata: {name: bench-0, namespace: load-0}\n---\napiVersion: v1\nkind: Service\nmetadata: {name: bench-1, namespace: load-0}\n---\napiVersion: v1\nkind: Service\nmetadata: {name: bench-2, namespace: load-0}\n"+
		"---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: default, namespace: istio-system}\n") {
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
func report(t *testing.T, rows []row) {
	t.Helper()
	var out strings.Builder
	fmt.Fprintf(&out, "# Control plane, measured from outside\n\n%s, %d processors shared by API server, etcd, slipwayd and clients.\n", machine(), runtime.NumCPU())
	out.WriteString("Times are from the write to the last proxy's last message; the middle one of three rounds. Memory is the peak for connect, else what is resident.\n\n")
	out.WriteString("| services | proxies | event | last | CPU | bytes | proxies reached | memory |\n|---|---|---|---|---|---|---|---|\n")
	for _, r := range rows {
		fmt.Fprintf(&out, "| %d | %d | %s | %d ms | %.2f s | %.2f MB | %d | %d MB |\n", r.services, r.proxies, r.event, r.last.Milliseconds(), r.cpu.Seconds(), float64(r.bytes)/1e6, r.reached, r.memory>>20)
	}
	out.WriteString("\n## Growth\n\nThe exponent e of last = services^e, between the fewest and the most services with the same number of proxies.\n\n| proxies | event | exponent |\n|---|---|---|\n")
	for _, low := range rows {
		high := low
		for _, r := range rows {
			if r.proxies == low.proxies && r.event == low.event && r.services > high.services {
				high = r
			}
		}
		least := slices.ContainsFunc(rows, func(r row) bool { return r.proxies == low.proxies && r.event == low.event && r.services < low.services })
		if high.services > low.services && !least && low.last > 0 {
			e := math.Log(float64(high.last)/float64(low.last)) / math.Log(float64(high.services)/float64(low.services))
			fmt.Fprintf(&out, "| %d | %s | %.2f |\n", low.proxies, low.event, e)
		}
	}
	fmt.Print(out.String())
	name := filepath.Join(kubetest.Root(t), "test/bench/results", "table.md")
	if err := os.WriteFile(name, []byte(out.String()), 0o644); err != nil {
		t.Fatal(err)
	}
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
