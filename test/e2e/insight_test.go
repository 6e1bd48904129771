package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/slipway-mesh/slipway/test/kubetest"
)

// scrape reads the metrics of running pods.
func (w *world) scrape(t *testing.T, namespace, selector, at string) []string {
	t.Helper()
	var texts []string
	for _, ip := range strings.Fields(w.kubectl(t, "get", "pods", "-n", namespace, "-l", selector, "--field-selector", "status.phase=Running", "-o", "jsonpath={.items[*].status.podIP}")) {
		texts = append(texts, w.run(t, time.Minute, "nsenter", "--net=/run/netns/slipway-"+clusterName, "curl", "-s", "-m", "5", "http://"+ip+at))
	}
	return texts
}

// metric adds up the series of a metric that a pod's agent tells of and that have all of some labels.
func (w *world) metric(t *testing.T, namespace, selector, name string, labels ...string) int {
	t.Helper()
	total := 0
	for _, text := range w.scrape(t, namespace, selector, ":15020/stats/prometheus") {
		lines := bufio.NewScanner(strings.NewReader(text))
		lines.Buffer(nil, 1<<20)
	next:
		for lines.Scan() {
			if !strings.HasPrefix(lines.Text(), name+"{") {
				continue
			}
			for _, label := range labels {
				if !strings.Contains(lines.Text(), label) {
					continue next
				}
			}
			n, err := strconv.Atoi(lines.Text()[strings.LastIndexByte(lines.Text(), ' ')+1:])
			if err != nil {
				t.Fatalf("%s: %v", lines.Text(), err)
			}
			total += n
		}
	}
	return total
}

// telemetry: istio_requests_total rises by what was sent, at the gateway and at who is called, with who called whom.
func (w *world) telemetry(t *testing.T) {
	const n = 12
	atGateway := func() int {
		return w.metric(t, "istio-system", "istio=ingressgateway", "istio_requests_total", `reporter="source"`, `source_workload="istio-ingressgateway"`, `destination_service="productpage.default.svc.cluster.local"`,
			`destination_workload="productpage-v1"`, `destination_workload_namespace="default"`, `response_code="200"`)
	}
	atPage := func() int {
		return w.metric(t, "default", "app=productpage", "istio_requests_total", `reporter="destination"`, `source_workload="istio-ingressgateway"`, `source_workload_namespace="istio-system"`,
			`destination_service_name="productpage"`, `destination_workload="productpage-v1"`, `connection_security_policy="mutual_tls"`, `response_code="200"`)
	}
	gateway, page := atGateway(), atPage()
	w.versions(t, n)
	if got := atGateway() - gateway; got != n {
		t.Errorf("at the gateway istio_requests_total rose by %d for %d requests", got, n)
	}
	if got := atPage() - page; got != n {
		t.Errorf("at productpage istio_requests_total rose by %d for %d requests", got, n)
	}
}

// proxyStatus: every proxy holds what was sent, and the configuration of Bookinfo has nothing wrong with it.
func (w *world) proxyStatus(t *testing.T) {
	out := w.run(t, time.Minute, "bin/slipway", "proxy-status")
	lines := strings.Split(strings.TrimSpace(out), "\n")
	row := regexp.MustCompile(`^\S+\.(default|istio-system)\s+(SYNCED\s+){5}istiod-\S+\s+\S+$`)
	if len(lines) < 8 || !strings.HasPrefix(lines[0], "NAME") {
		t.Fatalf("proxy-status says:\n%s", out)
	}
	for _, line := range lines[1:] {
		if !row.MatchString(line) {
			t.Errorf("not in step: %q", line)
		}
	}
	if out, err := w.try(time.Minute, "", "bin/slipway", "analyze", "-n", "default"); err != nil {
		t.Errorf("analyze: %v\n%s", err, out)
	}
	if now, err := w.roots(); err != nil || len(now.Roots) != 1 || now.Phase != "" || now.Follow != len(lines)-1 || len(now.Behind) > 0 {
		t.Errorf("x ca status of %d proxies: %+v (%v)", len(lines)-1, now, err)
	}
}

// standing is what x ca status says.
type standing struct {
	Phase  string
	Roots  []any
	Follow int
	Behind []string
}

func (w *world) roots() (standing, error) {
	var now standing
	text, err := w.try(time.Minute, "", "bin/slipway", "x", "ca", "status", "-o", "json")
	if err == nil {
		err = json.Unmarshal([]byte(text), &now)
	}
	return now, err
}

// rotate asks for a new root, which all that follows is done under way to.
func (w *world) rotate(t *testing.T) {
	before, err := w.roots()
	if err != nil {
		t.Fatal(err)
	}
	w.oldRoot = fmt.Sprint(before.Roots...)
	w.slipway(t, "x", "ca", "rotate")
	kubetest.Eventually(t, time.Minute, func() error {
		now, err := w.roots()
		if err != nil || now.Phase != "Distribute" || len(now.Roots) != 2 {
			return fmt.Errorf("x ca status: %+v (%w)", now, err)
		}
		return nil
	})
}

// rotated: the new root signs, and nobody trusts the old one any more.
func (w *world) rotated(t *testing.T) {
	kubetest.Eventually(t, 6*time.Minute, func() error {
		now, err := w.roots()
		if err != nil || now.Phase != "" || len(now.Roots) != 1 || fmt.Sprint(now.Roots...) == w.oldRoot {
			return fmt.Errorf("x ca status: %+v (%w)", now, err)
		}
		return nil
	})
}

const ingressYAML = `apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: shop, namespace: default}
spec:
  ingressClassName: istio
  rules:
  - host: shop.example.com
    http:
      paths:
      - {path: /productpage, pathType: Prefix, backend: {service: {name: productpage, port: {number: 9080}}}}
`

// ingress: Kubernetes' own Ingress is served live, and says where.
func (w *world) ingress(t *testing.T) {
	w.mustApply(t, ingressYAML)
	url := "http://" + w.address(t) + "/productpage"
	deadline := time.Now().Add(30 * time.Second)
	for {
		status, body, err := get(url, "Host", "shop.example.com")
		if err == nil && status == http.StatusOK && strings.Contains(body, "reviews") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the Ingress is answered %d (%v)", status, err)
		}
		time.Sleep(200 * time.Millisecond)
	}
	want := w.address(t)
	for {
		if got := w.kubectl(t, "get", "ingress", "shop", "-o", "jsonpath={.status.loadBalancer.ingress[0].ip}"); strings.TrimSpace(got) == want {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("the status says %q, not %s", got, want)
		}
		time.Sleep(500 * time.Millisecond)
	}
	w.kubectl(t, "delete", "ingress", "shop")
	for deadline = time.Now().Add(30 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		if status, _, err := get(fmt.Sprintf("http://%s/nothing-there", want), "Host", "shop.example.com"); err == nil && status == http.StatusNotFound {
			return
		} else if time.Now().After(deadline) {
			t.Fatalf("without the Ingress it is answered %d (%v)", status, err)
		}
	}
}

// proxyConfig and route tell what a proxy holds, and where a request would go by it.
func (w *world) explained(t *testing.T) {
	out := w.slipway(t, "proxy-config", "cluster", "deploy/productpage-v1.default", "--fqdn", "reviews")
	if !strings.Contains(out, "reviews.default.svc.cluster.local") || !strings.Contains(out, "reviews.default\n") {
		t.Errorf("proxy-config cluster: %s", out)
	}
	for _, part := range []string{"listener", "route", "endpoint", "secret", "all"} {
		if out := w.slipway(t, "proxy-config", part, "deploy/productpage-v1.default"); strings.Count(out, "\n") < 2 {
			t.Errorf("proxy-config %s: %s", part, out)
		}
	}
	if out := w.slipway(t, "proxy-config", "secret", "deploy/productpage-v1.default", "-o", "json"); strings.Contains(out, "PRIVATE KEY") {
		t.Errorf("proxy-config secret tells the key: %s", out)
	}
	if out := w.slipway(t, "proxy-config", "log", "deploy/productpage-v1.default", "--level", "http:debug"); !strings.Contains(out, "http: debug") {
		t.Errorf("proxy-config log: %s", out)
	}
	w.mustApply(t, "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: listed, namespace: default}, spec: {action: DENY, rules: [{to: [{operation: {paths: [/nosuchpath]}}]}]}}")
	kubetest.Eventually(t, 20*time.Second, func() error {
		if out := w.slipway(t, "x", "authz", "check", "deploy/productpage-v1.default"); !regexp.MustCompile(`DENY +listed.default +1`).MatchString(out) {
			return fmt.Errorf("authz check: %s", out)
		}
		return nil
	})
	w.kubectl(t, "delete", "authorizationpolicy", "-n", "default", "listed")
	w.mustApply(t, `{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: asked, namespace: default}, spec: {hosts: [reviews], http: [
  {match: [{headers: {end-user: {exact: jason}}}], route: [{destination: {host: reviews, subset: v2}}]}, {route: [{destination: {host: reviews, subset: v3}}]}]}}`)
	for header, subset := range map[string]string{"end-user:jason": "v2", "end-user:alice": "v3"} {
		kubetest.Eventually(t, 20*time.Second, func() error {
			out := w.slipway(t, "route", "--from", "deploy/productpage-v1.default", "--to", "http://reviews:9080/reviews/1", "-H", header)
			for _, want := range []string{"virtual-service asked.default", "outbound|9080|" + subset + "|reviews.default.svc.cluster.local", "destination-rule reviews.default", "endpoint"} {
				if !strings.Contains(out, want) {
					return fmt.Errorf("route for %s does not say %s:\n%s", header, want, out)
				}
			}
			return nil
		})
	}
	if out := w.slipway(t, "wait", "virtualservice", "asked.default"); !regexp.MustCompile(`has reached (\d+) of (\d+) proxies\n$`).MatchString(out) {
		t.Errorf("wait: %s", out)
	}
	if out, err := w.try(time.Minute, "", "bin/slipway", "wait", "virtualservice", "nosuch.default", "--timeout", "2s"); err == nil {
		t.Errorf("wait for what is not there: %s", out)
	}
	w.kubectl(t, "delete", "virtualservice", "-n", "default", "asked")
	out = w.slipway(t, "route", "--gateway", "--from", "deploy/istio-ingressgateway.istio-system", "--to", "http://"+w.address(t)+"/productpage")
	if !strings.Contains(out, "virtual-service bookinfo.default") || !strings.Contains(out, "productpage.default.svc.cluster.local") {
		t.Errorf("route at the gateway: %s", out)
	}
}

const tcpGateway = `
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: tcp, namespace: default}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 31400, name: tcp, protocol: TCP}, hosts: ["*"]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: tcp, namespace: default}
spec:
  hosts: ["*"]
  gateways: [tcp]
  tcp: [{match: [{port: 31400}], route: [{destination: {host: details, port: {number: 9080}}}]}]
`

// exported: the real binaries export every metric that the alerts and boards read, with the labels that are asked of it.
func (w *world) exported(t *testing.T) {
	w.mustApply(t, tcpGateway)
	kubetest.Eventually(t, 15*time.Second, func() error {
		_, err := w.try(time.Minute, "", "nsenter", "--net=/run/netns/slipway-"+clusterName, "curl", "-sf", "-m", "5",
			"http://"+w.kubectl(t, "get", "pods", "-n", "istio-system", "-l", "istio=ingressgateway", "-o", "jsonpath={.items[0].status.podIP}")+":31400/details/0")
		return err
	})
	list, err := os.ReadFile(filepath.Join(w.root, "monitoring/metrics.txt"))
	if err != nil {
		t.Fatal(err)
	}
	kubetest.Eventually(t, 15*time.Second, func() error { // Envoy's histograms follow
		var all []string
		for _, from := range [][3]string{{"istio-operator", "name=istio-operator", ":8383/metrics"}, {"istio-system", "app=istiod", ":15014/metrics"},
			{"istio-system", "istio=ingressgateway", ":15020/stats/prometheus"}, {"default", "app=productpage", ":15020/stats/prometheus"}} {
			texts := w.scrape(t, from[0], from[1], from[2])
			if len(texts) == 0 {
				return fmt.Errorf("no pod %s in %s", from[1], from[0])
			}
			for _, text := range texts {
				all = append(all, strings.Split(text, "\n")...)
			}
		}
		var missing []string
		for _, line := range strings.Split(strings.TrimSpace(string(list)), "\n") {
			name, labels, _ := strings.Cut(line, " ")
			if !slices.ContainsFunc(all, func(series string) bool { return hasSeries(series, name, labels) }) {
				missing = append(missing, line)
			}
		}
		if len(missing) > 0 {
			return fmt.Errorf("nobody exports:\n%s", strings.Join(missing, "\n"))
		}
		return nil
	})
	w.kubectl(t, "delete", "gateway.networking.istio.io/tcp", "virtualservice/tcp")
}

// hasSeries says whether a line of an exposition is of the metric and has all of the labels.
func hasSeries(series, name, labels string) bool {
	rest, ok := strings.CutPrefix(series, name)
	if !ok || rest == "" || rest[0] != '{' && rest[0] != ' ' {
		return false
	}
	for _, label := range strings.Split(labels, ",") {
		if label != "" && !strings.Contains(rest, label+`="`) {
			return false
		}
	}
	return true
}

// reported: describe names what applies; a bug report has the parts of the mesh, and nothing secret.
func (w *world) reported(t *testing.T) {
	pod := w.slipway(t, "describe", "pod", "deploy/reviews-v2.default")
	for _, want := range []string{"Sidecar: revision default", "Service: reviews.default.svc.cluster.local", "DestinationRule: default/reviews", "Matching subsets: v2", "mutual TLS PERMISSIVE"} {
		if !strings.Contains(pod, want) {
			t.Errorf("describe pod does not say %q:\n%s", want, pod)
		}
	}
	if service := w.slipway(t, "describe", "service", "productpage.default"); !strings.Contains(service, "VirtualService: default/bookinfo") {
		t.Errorf("describe service does not name the VirtualService:\n%s", service)
	}
	file := filepath.Join(t.TempDir(), "report.tar.gz")
	w.slipway(t, "bug-report", "--output-file", file, "--proxies", "3")
	files := strings.Fields(w.run(t, time.Minute, "tar", "-tzf", file))
	for _, want := range []string{"version.txt", "istiooperators.yaml", "configuration/VirtualService.yaml", "analyze.json", "proxy-status.txt", "/discovery.log", "/syncz.json", "/config_dump.json", "/istio-operator.log"} {
		if !slices.ContainsFunc(files, func(name string) bool { return strings.HasSuffix(name, want) }) {
			t.Errorf("the report has no %s: %v", want, files)
		}
	}
	text := w.run(t, time.Minute, "tar", "-xzOf", file)
	for _, secret := range []string{"PRIVATE KEY", "ca-key.pem", "SecretsConfigDump"} {
		if strings.Contains(text, secret) {
			t.Errorf("the report has %q in it", secret)
		}
	}
}
