// Package e2e runs the product on a real cluster: what a person types, and what then must be so. It needs root.
package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const clusterName = "e2e"

// world is the cluster that all tests share; they run in order, as a person would go on.
type world struct {
	root, kubeconfig, node string
	oldRoot                string // of the authority, before it was replaced
}

func TestMain(m *testing.M) {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "e2e: the tests need root: a real cluster has network namespaces, cgroups and mounts")
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// TestStory is the main job from a bare machine to a removed mesh.
func TestStory(t *testing.T) {
	w := start(t)
	t.Cleanup(func() { w.run(t, time.Minute, "bin/slipway-cluster", "down", "--name", clusterName) })
	for _, step := range []struct {
		name string
		run  func(t *testing.T)
	}{
		{"L1 operator init", w.operatorInit},
		{"bad IstioOperators are refused", w.badOperators},
		{"L2 default profile becomes healthy", w.defaultProfile},
		{"L4 the gateway has an address", w.gatewayAddress},
		{"HorizontalPodAutoscalers see the pods' use", w.autoscalers},
		{"drift is corrected, and told", w.drift},
		{"an autoscaler's replicas stay", w.scaling},
		{"I1 plain and injected deployments", w.kubeInject},
		{"I2 namespace and pod labels", w.injectionLabels},
		{"probes of pods that take mesh traffic only", w.probes},
		{"T1 Bookinfo through the gateway", w.bookinfo},
		{"T2 weights", w.weights},
		{"T3 header match, edited in place", w.headerMatch},
		{"T12 prefix and port", w.prefixAndPort},
		{"a bad VirtualService stops no other", w.badVirtualService},
		{"mTLS between sidecars, plain text still accepted", w.mutualTLS},
		{"O1 metrics rise by what was sent", w.telemetry},
		{"alerts and boards read what is exported", w.exported},
		{"T15 Ingress", w.ingress},
		{"no proxy rejected anything", w.noRejections},
		{"every proxy is in step", w.proxyStatus},
		{"S2 a new root is asked for", w.rotate},
		{"proxy-config and route", w.explained},
		{"describe and bug-report", w.reported},
		{"the page, in a browser", w.pageShown},
		{"plan, diff, verify and explain", w.plan},
		{"a second operator takes over", w.secondOperator},
		{"L3 the customised resource", w.customised},
		{"L4 Istio 1.1's ports", w.oldPorts},
		{"an image that cannot start is never healthy", w.brokenImage},
		{"rollback, by hand and by itself", w.rollback},
		{"an upgrade in place", w.upgrade},
		{"canary by revision and tag", w.canary},
		{"S2 the new root is in force", w.rotated},
		{"deleting the resource removes all but CRDs", w.remove},
		{"operator remove", w.operatorRemove},
		{"install without an operator", w.install},
		{"L5 a resource takes over", w.takeOver},
		{"another installer's mesh is adopted and moved", w.adopted},
	} {
		if !t.Run(step.name, step.run) {
			w.diagnose(t)
			t.Fatalf("%s failed; what follows stands on it", step.name)
		}
	}
}

func start(t *testing.T) *world {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	w := &world{root: filepath.Dir(filepath.Dir(dir))}
	w.run(t, time.Minute, "bin/slipway-cluster", "down", "--name", clusterName)
	w.run(t, 20*time.Minute, "bin/slipway-cluster", "up", "--name", clusterName)
	w.kubeconfig = strings.TrimSpace(w.run(t, time.Minute, "bin/slipway-cluster", "kubeconfig", "--name", clusterName))
	w.node = strings.TrimSpace(w.run(t, time.Minute, "bin/slipway-cluster", "binary"))
	tars, err := filepath.Glob(filepath.Join(w.root, "dist/images/*.tar"))
	if err != nil || len(tars) == 0 {
		t.Fatal("no images in dist/images: run hack/setup.sh")
	}
	w.run(t, 2*time.Minute, "bin/slipway-cluster", append([]string{"load", "--name", clusterName}, tars...)...)
	return w
}

// try runs a command in the repository and returns what it printed.
func (w *world) try(timeout time.Duration, stdin, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Stdin = w.root, strings.NewReader(stdin)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+w.kubeconfig)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (w *world) run(t *testing.T, timeout time.Duration, name string, args ...string) string {
	t.Helper()
	out, err := w.try(timeout, "", name, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

func (w *world) kubectl(t *testing.T, args ...string) string {
	t.Helper()
	return strings.TrimSpace(w.run(t, time.Minute, w.node, append([]string{"kubectl"}, args...)...))
}

// apply applies YAML and returns kubectl's answer and error.
func (w *world) apply(yaml string) (string, error) {
	return w.try(time.Minute, yaml, w.node, "kubectl", "apply", "-f", "-")
}

func (w *world) mustApply(t *testing.T, yaml string) {
	t.Helper()
	if out, err := w.apply(yaml); err != nil {
		t.Fatalf("kubectl apply: %v\n%s", err, out)
	}
}

// get asks a URL from the host, with headers given as NAME, VALUE, ...
func get(url string, headers ...string) (int, string, error) {
	request, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return 0, "", err
	}
	for i := 0; i+1 < len(headers); i += 2 {
		if headers[i] == "Host" {
			request.Host = headers[i+1]
		} else {
			request.Header.Set(headers[i], headers[i+1])
		}
	}
	client := http.Client{Timeout: 10 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	response, err := client.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	return response.StatusCode, string(body), err
}

func (w *world) diagnose(t *testing.T) {
	for _, args := range [][]string{
		{"get", "iop,pods", "-A", "-o", "wide"}, {"logs", "-n", "istio-operator", "deploy/istio-operator", "--tail=20"},
		{"logs", "-n", "istio-system", "deploy/istiod", "--tail=30"},
		{"get", "events", "-A", "--sort-by=.metadata.creationTimestamp", "--no-headers"},
	} {
		out, _ := w.try(time.Minute, "", w.node, append([]string{"kubectl"}, args...)...)
		lines := strings.Split(strings.TrimSpace(out), "\n")
		t.Logf("kubectl %s:\n%s", strings.Join(args, " "), strings.Join(lines[max(0, len(lines)-40):], "\n"))
	}
}
