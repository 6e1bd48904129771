package e2e

import (
	"encoding/json"
	"fmt"
	"math"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/slipway-mesh/slipway/test/kubetest"
)

const plainDeployment = `apiVersion: apps/v1
kind: Deployment
metadata: {name: nginx-deployment, labels: {app: nginx}}
spec:
  replicas: 1
  selector: {matchLabels: {app: nginx}}
  template:
    metadata: {labels: {app: nginx}}
    spec:
      containers:
      - name: nginx
        image: docker.io/istio/examples-bookinfo-details-v1:1.20.3
        ports: [{containerPort: 80}]
`

// readyOf is the READY column of the pods that a selector finds, such as 2/2.
func (w *world) readyOf(namespace, selector string) (string, error) {
	out, err := w.try(time.Minute, "", w.node, "kubectl", "get", "pods", "-n", namespace, "-l", selector, "--no-headers")
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	fields := strings.Fields(lines[len(lines)-1])
	if len(lines) != 1 || len(fields) < 3 {
		return "", fmt.Errorf("pods: %s", out)
	}
	return fields[1], nil
}

func (w *world) waitReady(t *testing.T, namespace, selector, want string) {
	t.Helper()
	kubetest.Eventually(t, 90*time.Second, func() error {
		got, err := w.readyOf(namespace, selector)
		if err == nil && got != want {
			err = fmt.Errorf("ready: %s, not %s", got, want)
		}
		return err
	})
}

// kubeInject types what the document of scenario I1 types.
func (w *world) kubeInject(t *testing.T) {
	w.mustApply(t, plainDeployment)
	w.waitReady(t, "default", "app=nginx", "1/1")
	for _, native := range []string{"false", "true"} {
		injected, err := w.try(time.Minute, plainDeployment, "env", "ENABLE_NATIVE_SIDECARS="+native, "bin/slipway", "kube-inject", "-f", "-")
		if err != nil {
			t.Fatalf("kube-inject: %v\n%s", err, injected)
		}
		out, err := w.apply(injected)
		if err != nil || !strings.Contains(out, "deployment.apps/nginx-deployment configured") {
			t.Fatalf("kubectl apply: %v: %s", err, out)
		}
		w.waitReady(t, "default", "app=nginx", "2/2")
	}
	w.kubectl(t, "delete", "deployment", "nginx-deployment")
}

func podYAML(namespace, name, labels string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: %s, labels: {app: %s%s}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: app, image: "docker.io/istio/examples-bookinfo-details-v1:1.20.3"}]
---
`, name, namespace, name, labels)
}

// injectionLabels: the namespace's label injects new pods, removing it stops that, and a pod's own label overrides. A gateway's pod that
// leaves its proxy to injection gets one.
func (w *world) injectionLabels(t *testing.T) {
	w.kubectl(t, "create", "namespace", "labels")
	w.mustApply(t, podYAML("labels", "none", "")+podYAML("labels", "asks", `, sidecar.istio.io/inject: "true"`))
	w.kubectl(t, "label", "namespace", "labels", "istio-injection=enabled")
	w.mustApply(t, podYAML("labels", "after", "")+podYAML("labels", "refuses", `, sidecar.istio.io/inject: "false"`))
	w.kubectl(t, "label", "namespace", "labels", "istio-injection-")
	w.mustApply(t, podYAML("labels", "later", ""))
	w.mustApply(t, `{apiVersion: v1, kind: Pod, metadata: {name: edge, namespace: labels, labels: {app: edge, sidecar.istio.io/inject: "true"}, annotations: {inject.istio.io/templates: gateway}}, spec: {terminationGracePeriodSeconds: 0, containers: [{name: istio-proxy, image: auto}]}}`)
	for name, want := range map[string]string{"none": "1/1", "asks": "2/2", "after": "2/2", "refuses": "1/1", "later": "1/1", "edge": "1/1"} {
		w.waitReady(t, "labels", "app="+name, want)
	}
	w.kubectl(t, "delete", "namespace", "labels", "--wait=false")
}

// probes: the kubelet finds a pod ready that takes mesh traffic only, and one not whose application is not.
func (w *world) probes(t *testing.T) {
	w.kubectl(t, "create", "namespace", "probes")
	w.kubectl(t, "label", "namespace", "probes", "istio-injection=enabled")
	w.mustApply(t, "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: default, namespace: probes}, spec: {mtls: {mode: STRICT}}}")
	probed := func(name, probe string) string {
		return strings.Replace(podYAML("probes", name, ""), `1.20.3"}`, `1.20.3", readinessProbe: {periodSeconds: 1, `+probe+`}}`, 1)
	}
	w.mustApply(t, probed("http", "httpGet: {path: /health, port: 9080}")+probed("tcp", "tcpSocket: {port: 9080}")+probed("bad", "httpGet: {path: /health, port: 9999}"))
	w.waitReady(t, "probes", "app=http", "2/2")
	w.waitReady(t, "probes", "app=tcp", "2/2")
	w.waitReady(t, "probes", "app=bad", "1/2")
	w.kubectl(t, "delete", "namespace", "probes", "--wait=false")
}

func (w *world) page(t *testing.T) string { return "http://" + w.address(t) + "/productpage" }

func (w *world) bookinfo(t *testing.T) {
	w.kubectl(t, "label", "namespace", "default", "istio-injection=enabled")
	w.kubectl(t, "apply", "-f", "samples/bookinfo/platform/kube/bookinfo.yaml")
	w.kubectl(t, "apply", "-f", "samples/bookinfo/networking/bookinfo-gateway.yaml", "-f", "samples/bookinfo/networking/destination-rule-all.yaml")
	for _, selector := range []string{"app=details", "app=ratings", "app=productpage", "app=reviews,version=v1", "app=reviews,version=v2", "app=reviews,version=v3"} {
		w.waitReady(t, "default", selector, "2/2")
	}
	kubetest.Eventually(t, 30*time.Second, func() error {
		code, body, err := get(w.page(t))
		if err == nil && (code != 200 || !strings.Contains(body, "The Comedy of Errors") || strings.Contains(body, "Error fetching")) {
			err = fmt.Errorf("productpage answered %d: %s", code, body)
		}
		return err
	})
	for path, want := range map[string]int{"/api/v1/products": 200, "/nosuchpath": 404} { // the gateway takes only what is routed
		if code, _, err := get("http://" + w.address(t) + path); err != nil || code != want {
			t.Errorf("GET %s: %d %v, not %d", path, code, err, want)
		}
	}
}

var reviewsPod = regexp.MustCompile(`reviews-(v\d)`)

// versions counts which version of reviews serves n requests.
func (w *world) versions(t *testing.T, n int, headers ...string) map[string]int {
	t.Helper()
	counts := map[string]int{}
	url := w.page(t)
	for range n {
		code, body, err := get(url, headers...)
		if err != nil || code != 200 {
			t.Fatalf("productpage: %d %v", code, err)
		}
		counts[reviewsPod.FindString(body)]++
	}
	return counts
}

// settled waits until a rule shows: only what want lists is seen in a row of requests.
func (w *world) settled(t *testing.T, want string, headers ...string) {
	t.Helper()
	kubetest.Eventually(t, 10*time.Second, func() error {
		if counts := w.versions(t, 8, headers...); counts[want] != 8 {
			return fmt.Errorf("reviews are served by %v, not %s alone", counts, want)
		}
		return nil
	})
}

// within checks a share against its binomial bounds: four standard deviations.
func within(t *testing.T, what string, got, n int, share float64) {
	t.Helper()
	bound := 4 * math.Sqrt(float64(n)*share*(1-share))
	if math.Abs(float64(got)-float64(n)*share) > bound {
		t.Errorf("%s: %d of %d, not %.0f±%.0f", what, got, n, float64(n)*share, bound)
	}
	t.Logf("%s: %d of %d", what, got, n)
}

func (w *world) weights(t *testing.T) {
	before := w.versions(t, 60)
	if len(before) != 3 {
		t.Errorf("without a rule all three versions serve, not %v", before)
	}
	w.kubectl(t, "apply", "-f", "samples/bookinfo/networking/virtual-service-reviews-75-25.yaml")
	kubetest.Eventually(t, 10*time.Second, func() error { // v2 has no share any more
		if counts := w.versions(t, 20); counts["reviews-v2"] > 0 {
			return fmt.Errorf("reviews are still served by %v", counts)
		}
		return nil
	})
	const n = 400
	counts := w.versions(t, n)
	within(t, "reviews-v1", counts["reviews-v1"], n, 0.75)
	within(t, "reviews-v3", counts["reviews-v3"], n, 0.25)
}

// underLoad asks for the page again and again while the rules change. No request may be lost: answered by an error, or by a
// page without reviews.
func (w *world) underLoad(t *testing.T, change func()) {
	t.Helper()
	url, stop := w.page(t), make(chan struct{})
	lost := make(chan string, 1)
	sent := 0
	go func() {
		defer close(lost)
		for {
			select {
			case <-stop:
				return
			default:
			}
			code, body, err := get(url)
			sent++
			if err != nil || code != 200 || reviewsPod.FindString(body) == "" {
				lost <- fmt.Sprintf("request %d: %d %v %s", sent, code, err, body)
				return
			}
		}
	}()
	change()
	close(stop)
	for what := range lost {
		t.Errorf("a request was lost: %s", what)
	}
	t.Logf("%d requests", sent)
}

// headerMatch adds, edits and removes rules by applying one VirtualService again, subsets first, without a lost request.
func (w *world) headerMatch(t *testing.T) {
	w.underLoad(t, func() { w.editRules(t) })
}

func (w *world) editRules(t *testing.T) {
	w.kubectl(t, "delete", "virtualservice", "reviews")
	w.kubectl(t, "delete", "-f", "samples/bookinfo/networking/destination-rule-all.yaml")
	w.kubectl(t, "apply", "-f", "samples/bookinfo/networking/destination-rule-all.yaml")
	w.kubectl(t, "apply", "-f", "samples/bookinfo/networking/virtual-service-reviews-jason-v2-v3.yaml")
	w.settled(t, "reviews-v3")
	w.settled(t, "reviews-v2", "end-user", "jason")
	w.settled(t, "reviews-v3", "end-user", "alice")
	w.kubectl(t, "apply", "-f", "samples/bookinfo/networking/virtual-service-reviews-test-v2.yaml")
	w.settled(t, "reviews-v1")
	w.settled(t, "reviews-v2", "end-user", "jason")
	w.kubectl(t, "delete", "virtualservice", "reviews")
	kubetest.Eventually(t, 10*time.Second, func() error {
		if counts := w.versions(t, 30); len(counts) != 3 {
			return fmt.Errorf("without the rule reviews are served by %v", counts)
		}
		return nil
	})
}

const sample = `apiVersion: networking.istio.io/v1alpha3
kind: Gateway
metadata: {name: sample-gateway}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 80, name: http, protocol: HTTP}
    hosts: ["*"]
---
apiVersion: networking.istio.io/v1alpha3
kind: VirtualService
metadata: {name: sample-virtual-service}
spec:
  hosts: ["test.wilump.dev"]
  gateways: [sample-gateway]
  http:
  - match: [{uri: {prefix: /details}}]
    route: [{destination: {host: details, port: {number: 9080}}}]
`

func (w *world) prefixAndPort(t *testing.T) {
	w.mustApply(t, sample)
	url := "http://" + w.address(t) + "/details/0"
	kubetest.Eventually(t, 10*time.Second, func() error {
		code, body, err := get(url, "Host", "test.wilump.dev")
		if err == nil && (code != 200 || !strings.Contains(body, "Shakespeare")) {
			err = fmt.Errorf("%d: %s", code, body)
		}
		return err
	})
	if code, _, _ := get(url, "Host", "other.example"); code != 404 {
		t.Errorf("another host is answered with %d", code)
	}
	w.kubectl(t, "delete", "virtualservice/sample-virtual-service", "gateway/sample-gateway")
}

// badVirtualService: one is refused by the webhook; one that is stored all the same stops nothing.
func (w *world) badVirtualService(t *testing.T) {
	bad := "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: bad}\nspec:\n  hosts: [ratings]\n  http:\n  - match: [{uri: {prefix: /x}}]\n"
	if out, err := w.apply(bad); err == nil || !strings.Contains(out, "spec.http[0]") {
		t.Errorf("kubectl apply answered %v: %s", err, out)
	}
	// Past the webhook: an object of another revision is not looked at by it, and becomes ours by its label alone.
	regex := "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: bad, labels: {istio.io/rev: default}}\nspec:\n  hosts: [ratings]\n  http:\n  - match: [{uri: {regex: \"a(b\"}}]\n    route: [{destination: {host: ratings}}]\n"
	w.mustApply(t, regex)
	w.kubectl(t, "apply", "-f", "samples/bookinfo/networking/virtual-service-reviews-v3.yaml")
	w.settled(t, "reviews-v3")
	w.kubectl(t, "delete", "virtualservice", "bad", "reviews")
}

func (w *world) stat(t *testing.T, selector, name string) int {
	t.Helper()
	pod := strings.Fields(w.kubectl(t, "get", "pods", "-l", selector, "-o", "name"))[0]
	total := 0
	for _, line := range strings.Split(w.kubectl(t, "exec", pod, "-c", "istio-proxy", "--", "pilot-agent", "request", "GET", "stats?filter="+name), "\n") {
		var n int
		if _, value, ok := strings.Cut(line, ": "); ok {
			_, _ = fmt.Sscan(value, &n)
			total += n
		}
	}
	return total
}

// mutualTLS: productpage reaches reviews over TLS between their identities, and a client without a sidecar still gets
// through.
func (w *world) mutualTLS(t *testing.T) {
	before := w.stat(t, "app=reviews,version=v1", "listener.0.0.0.0_15006.ssl.handshake")
	w.kubectl(t, "apply", "-f", "samples/bookinfo/networking/virtual-service-all-v1.yaml")
	w.settled(t, "reviews-v1")
	w.versions(t, 5)
	if after := w.stat(t, "app=reviews,version=v1", "listener.0.0.0.0_15006.ssl.handshake"); after == 0 && before == 0 {
		t.Error("reviews has taken no TLS connection")
	}
	if failed := w.stat(t, "app=productpage", "cluster.*ssl.fail_verify_san"); failed != 0 {
		t.Errorf("%d connections failed at the peer's identity", failed)
	}
	pod := strings.Fields(w.kubectl(t, "get", "pods", "-l", "app=productpage", "-o", "name"))[0]
	clusters := w.kubectl(t, "exec", pod, "-c", "istio-proxy", "--", "pilot-agent", "request", "GET", "config_dump?resource=dynamic_active_clusters&name_regex=outbound.9080..reviews.default.svc.cluster.local")
	if !strings.Contains(clusters, "spiffe://cluster.local/ns/default/sa/bookinfo-reviews") {
		t.Errorf("productpage's cluster for reviews does not ask for its identity: %.500s", clusters)
	}
	w.mustApply(t, podYAML("default", "outsider", `, sidecar.istio.io/inject: "false"`))
	w.waitReady(t, "default", "app=outsider", "1/1")
	ip := w.kubectl(t, "get", "pods", "-l", "app=reviews,version=v1", "-o", "jsonpath={.items[0].status.podIP}")
	out := w.run(t, time.Minute, "nsenter", "--net=/run/netns/slipway-"+clusterName, "curl", "-s", "-m", "5", "http://"+ip+":9080/reviews/0")
	if !strings.Contains(out, "Reviewer1") {
		t.Errorf("a client without a sidecar is answered: %s", out)
	}
	w.kubectl(t, "delete", "pod", "outsider")
	w.kubectl(t, "delete", "-f", "samples/bookinfo/networking/virtual-service-all-v1.yaml")
}

// noRejections asks the control plane what the proxies said to all that has been sent so far.
func (w *world) noRejections(t *testing.T) {
	out := w.slipway(t, "proxy-status", "-o", "json")
	var proxies []struct {
		ID    string
		VHDS  bool
		Types map[string]struct {
			Rejected int
			Error    string
		}
	}
	if err := json.Unmarshal([]byte(out), &proxies); err != nil || len(proxies) < 7 {
		t.Fatalf("proxy-status: %v: %s", err, out)
	}
	for _, p := range proxies {
		if !p.VHDS {
			t.Errorf("%s does not take routes by virtual host", p.ID)
		}
		for name, state := range p.Types {
			if state.Rejected > 0 {
				t.Errorf("%s rejected %s: %s", p.ID, name, state.Error)
			}
		}
	}
}
