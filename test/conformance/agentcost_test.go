//go:build bench

package conformance

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/slipway-mesh/slipway/test/kubetest"
)

// The aims.
const (
	injectionAim = 5 * time.Millisecond // p99, at 100 pods a second
	memoryAim    = 20 << 20             // of an agent, resident
	readyAim     = time.Second          // from Envoy's start
)

// TestInjectionCost injects 100 pods a second for ten seconds, of 50 workloads, over TLS as the API server asks. The API server itself
// stands still meanwhile: with what it does by itself, it would be measured too. Between them go requests that only say that there is
// nothing: what they take is the machine's, as is the time that other machines on the same processors took from it.
func TestInjectionCost(t *testing.T) {
	m := startControlPlane(t)
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 50, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	const spec = `{"containers":[{"name":"app","image":"app","ports":[{"containerPort":8080}],"readinessProbe":{"httpGet":{"path":"/","port":8080}}}]}`
	const review = `{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{"uid":"1","namespace":"default","object":{"apiVersion":"v1","kind":"Pod","metadata":{"generateName":"web-%[1]d-","labels":{"app":"web-%[1]d","sidecar.istio.io/inject":"true"}},"spec":%[2]s}}}`
	inject := func(workload int) (time.Duration, error) {
		body := fmt.Sprintf(review, workload, spec)
		begun := time.Now()
		response, err := client.Post("https://"+m.hooks+"/inject", "application/json", strings.NewReader(body))
		if err != nil {
			return 0, err
		}
		defer func() { _ = response.Body.Close() }()
		text, err := io.ReadAll(response.Body)
		if err == nil && !bytes.Contains(text, []byte(`"patch"`)) {
			err = fmt.Errorf("nothing is injected: %.300s", text)
		}
		return time.Since(begun), err
	}
	kubetest.Eventually(t, 10*time.Second, func() error { _, err := inject(0); return err })
	halt(t, "kube-apiserver", "etcd")
	nothing := func(int) (time.Duration, error) {
		begun := time.Now()
		response, err := client.Get("https://" + m.hooks + "/nothing")
		if err != nil {
			return 0, err
		}
		_, err = io.Copy(io.Discard, response.Body)
		_ = response.Body.Close()
		return time.Since(begun), err
	}
	var mu sync.Mutex
	took := make([][]time.Duration, 2)
	var group sync.WaitGroup
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	stolen, begun := stolenTime(t), time.Now()
	for i := range 2000 {
		<-ticker.C
		group.Go(func() {
			one, err := []func(int) (time.Duration, error){inject, nothing}[i%2](i / 2 % 50)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			took[i%2] = append(took[i%2], one)
		})
	}
	group.Wait()
	share := 100 * (stolenTime(t) - stolen).Seconds() / time.Since(begun).Seconds() / float64(runtime.NumCPU())
	for _, list := range took {
		slices.Sort(list)
	}
	at := func(list []time.Duration, share int) time.Duration {
		return list[len(list)*share/100].Round(10 * time.Microsecond)
	}
	p99 := at(took[0], 99)
	t.Logf("1000 pods: p50 %s, p90 %s, p95 %s, p99 %s (aim %s), the slowest %s", at(took[0], 50), at(took[0], 90), at(took[0], 95), p99, injectionAim, took[0][len(took[0])-1].Round(10*time.Microsecond))
	t.Logf("of nothing: p50 %s, p95 %s, p99 %s; %.0f %% of the processors' time was others'", at(took[1], 50), at(took[1], 95), at(took[1], 99), share)
	if p99 > injectionAim {
		t.Errorf("p99 is %s", p99)
	}
}

// stolenTime is how long this machine wanted a processor that another one had.
func stolenTime(t *testing.T) time.Duration {
	t.Helper()
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		t.Fatal(err)
	}
	const column = 8 // after the name; in hundredths of a second
	ticks, err := strconv.ParseInt(strings.Fields(string(text))[column], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// halt stops processes that the test has started until it is over.
func halt(t *testing.T, names ...string) {
	t.Helper()
	threads, err := filepath.Glob("/proc/self/task/*/children") // each thread has those that it has started
	if err != nil {
		t.Fatal(err)
	}
	var children []string
	for _, thread := range threads {
		text, _ := os.ReadFile(thread)
		children = append(children, strings.Fields(string(text))...)
	}
	found := 0
	for _, child := range children {
		text, _ := os.ReadFile(filepath.Join("/proc", child, "cmdline"))
		if arguments := strings.Split(string(text), "\x00"); len(arguments) > 1 && slices.Contains(names, arguments[1]) {
			pid, _ := strconv.Atoi(child)
			if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGCONT) })
			found++
		}
	}
	if found != len(names) {
		t.Fatalf("%d of %v run", found, names)
	}
}

// TestAgentCost says what an agent with its Envoy takes of memory when it has been there for a while, and how soon it is ready.
func TestAgentCost(t *testing.T) {
	m, network := startNetwork(t)
	p := network.Pod(t, "client")
	m.pods = &pods{client: p}
	ready := make(chan time.Time, 1)
	go func() {
		for {
			response, _, err := m.fromWithin(time.Second, p, "127.0.0.1:15020", "localhost", "/healthz/ready")
			if err == nil && response.StatusCode == http.StatusOK {
				ready <- time.Now()
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
	}()
	m.injectWith(t, p, "default", `{app: client}`, []string{"ISTIO_META_DNS_CAPTURE=true"})
	at := <-ready
	envoy, agent := process(t, filepath.Join(p.Dir(), "envoy")), process(t, filepath.Join(p.Dir(), "slipway-agent"))
	took := at.Sub(envoy.started)
	for range 200 {
		_, _, _ = m.from(p, reviewsIP+":80", "reviews", "/")
		_, _, _ = m.from(p, "127.0.0.1:15020", "localhost", "/stats/prometheus")
	}
	memory := process(t, filepath.Join(p.Dir(), "slipway-agent")).resident
	t.Logf("ready %s after Envoy's start (aim %s); the agent holds %.1f MB at first, and %.1f MB after 200 scrapes (aim %d MB)", took.Round(10*time.Millisecond), readyAim, float64(agent.resident)/(1<<20), float64(memory)/(1<<20), memoryAim>>20)
	if took > readyAim || memory > memoryAim {
		t.Error("the aims are not met")
	}
}

// running is a process.
type running struct {
	resident int
	started  time.Time
}

// process finds the process of a program.
func process(t *testing.T, program string) running {
	t.Helper()
	pid, err := pidOf(program)
	if err != nil || pid == 0 {
		t.Fatalf("%s does not run (%v)", program, err)
	}
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	status, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		t.Fatal(err)
	}
	out := running{started: startOf(t, dir)}
	for _, line := range strings.Split(string(status), "\n") {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			_, _ = fmt.Sscan(rest, &out.resident)
			out.resident <<= 10
		}
	}
	return out
}

// startOf reads when a process was started, which the kernel counts in hundredths of a second from its own start.
func startOf(t *testing.T, dir string) time.Time {
	t.Helper()
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		t.Fatal(err)
	}
	uptime, err := os.ReadFile("/proc/uptime")
	if err != nil {
		t.Fatal(err)
	}
	const field = 22 - 3 // the third comes after the name, which is in parentheses
	var up, ticks float64
	after := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	_, _ = fmt.Sscan(string(uptime), &up)
	_, _ = fmt.Sscan(after[field], &ticks)
	return time.Now().Add(-time.Duration((up - ticks/100) * float64(time.Second)))
}
