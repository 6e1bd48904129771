package e2e

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/slipway-mesh/slipway/test/kubetest"
)

const wrongRouteYAML = `apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: astray, namespace: default}
spec:
  hosts: [astray.example.com]
  http: [{route: [{destination: {host: nosuch}}]}]
`

// page: what a person sees in a browser, through slipway dashboard; and who may see it. SCREENSHOTS names a folder for what it looks like.
func (w *world) pageShown(t *testing.T) {
	w.mustApply(t, wrongRouteYAML)
	defer w.kubectl(t, "delete", "virtualservice", "-n", "default", "astray")
	w.replicas(t, 2)
	defer func() {
		w.replicas(t, 1)
		w.healthy(t)
	}()
	w.pageGuarded(t)

	stop := w.keepAsking(t)
	defer stop()
	url := w.dashboard(t)
	replicas := regexp.MustCompile(`istiod-\S+ has \d+, istiod-\S+ has \d+\.`)
	tabs := map[string][]string{
		"traffic":       {"istio-ingressgateway", "productpage", "reviews", "ratings", `class="call"`, `<span class="good">yes</span>`, "productpage.default.svc.cluster.local"},
		"services":      {"reviews.default.svc.cluster.local", "9080 HTTP", "kubernetes.default.svc.cluster.local"},
		"proxies":       {"productpage-v1-", "istio-ingressgateway-", ">cds</span>", "0 not in step"},
		"objects":       {"<b>bookinfo</b>", "<b>astray</b>", "nosuch", "</meter>"},
		"installations": {"<b>" + resource + "</b>", "HEALTHY", "Pilot"},
	}
	for tab, wants := range tabs {
		kubetest.Eventually(t, 30*time.Second, func() error { return browse(t, url+"?tab="+tab, wants...) })
	}
	if dom := chromium(t, "--dump-dom", url+"?tab=proxies"); !replicas.MatchString(dom) || strings.Contains(dom, `class="bad" role="alert"`) {
		t.Errorf("the proxies of both replicas are not shown:\n%s", dom)
	}
	kubetest.Eventually(t, 30*time.Second, func() error { return browse(t, url+"?tab=traffic", "/s</text>") })
	// The script has put a later look in the place of the first.
	at := regexp.MustCompile(`data-at="(\d+)"`).FindAllStringSubmatch(chromium(t, "--virtual-time-budget=7000", "--dump-dom", url), -1)
	if len(at) != 2 || at[0][1] >= at[1][1] {
		t.Errorf("the page is not read anew: %v", at)
	}
	if dir := os.Getenv("SCREENSHOTS"); dir != "" {
		for tab := range tabs {
			chromium(t, "--window-size=1280,800", "--screenshot="+filepath.Join(dir, tab+".png"), url+"?tab="+tab)
		}
	}
}

// replicas has so many of the control plane, by way of the IstioOperator: the autoscaler would undo anything else.
func (w *world) replicas(t *testing.T, n int) {
	t.Helper()
	want := strconv.Itoa(n)
	w.kubectl(t, "patch", "iop", "-n", "istio-system", resource, "--type=merge", "-p", `{"spec":{"values":{"pilot":{"autoscaleMin":`+want+`}}}}`)
	kubetest.Eventually(t, time.Minute, func() error {
		if got := w.kubectl(t, "get", "hpa", "-n", "istio-system", "istiod", "-o", "jsonpath={.spec.minReplicas}"); got != want {
			return fmt.Errorf("the autoscaler keeps %s replicas at least", got)
		}
		return nil
	})
	w.kubectl(t, "scale", "deployment", "-n", "istio-system", "istiod", "--replicas="+want) // the autoscaler takes its time
	w.kubectl(t, "rollout", "status", "deployment", "-n", "istio-system", "istiod", "--timeout=50s")
}

// pageGuarded: only accounts of the control plane's namespace see it from elsewhere.
func (w *world) pageGuarded(t *testing.T) {
	t.Helper()
	ip := strings.Fields(w.kubectl(t, "get", "pods", "-n", "istio-system", "-l", "app=istiod", "-o", "jsonpath={.items[*].status.podIP}"))[0]
	token := func(namespace string, more ...string) string {
		return w.kubectl(t, append([]string{"create", "token", "-n", namespace, "default"}, more...)...)
	}
	for _, c := range []struct{ who, token, want string }{
		{"nobody", "", "401"}, {"a forged token", "x.y.z", "401"}, {"another audience", token("istio-system", "--audience=other"), "401"},
		{"another namespace", token("default", "--audience=istio-ca"), "403"}, {"the control plane's namespace", token("istio-system", "--audience=istio-ca"), "200"},
	} {
		for _, path := range []string{"/mesh", "/debug/syncz"} {
			args := []string{"--net=/run/netns/slipway-" + clusterName, "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-m", "20", "http://" + ip + ":8080" + path}
			if c.token != "" {
				args = append(args, "-H", "Authorization: Bearer "+c.token)
			}
			if got := w.run(t, time.Minute, "nsenter", args...); got != c.want {
				t.Errorf("%s asks for %s and gets %s, not %s", c.who, path, got, c.want)
			}
		}
	}
}

// dashboard runs slipway dashboard mesh while the test runs, and returns the URL that it prints.
func (w *world) dashboard(t *testing.T) string {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, "bin/slipway", "dashboard", "mesh", "--browser=false")
	cmd.Dir, cmd.Env = w.root, append(os.Environ(), "KUBECONFIG="+w.kubeconfig)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); _ = cmd.Wait() })
	lines := bufio.NewScanner(out)
	if !lines.Scan() {
		t.Fatalf("slipway dashboard prints nothing: %v", lines.Err())
	}
	return lines.Text()
}

// browse says what a page lacks, as a browser has it.
func browse(t *testing.T, url string, wants ...string) error {
	t.Helper()
	dom := chromium(t, "--dump-dom", url)
	for _, want := range wants {
		if !strings.Contains(dom, want) {
			return fmt.Errorf("%s has no %q:\n%s", url, want, dom)
		}
	}
	return nil
}

// chromium runs a browser without a window, and returns what it prints. What the page's scripts log is an error.
func chromium(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	args = append([]string{"--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
		"--disable-sync", "--enable-logging=stderr", "--user-data-dir=" + t.TempDir()}, args...)
	cmd := exec.CommandContext(ctx, "chromium", args...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("chromium %v: %v\n%s", args, err, stderr.String())
	}
	for line := range strings.Lines(stderr.String()) {
		if strings.Contains(line, "CONSOLE") {
			t.Errorf("the page logs: %s", line)
		}
	}
	return string(out)
}
