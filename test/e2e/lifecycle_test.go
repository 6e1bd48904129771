package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/slipway-mesh/slipway/test/kubetest"
)

func (w *world) slipway(t *testing.T, args ...string) string {
	t.Helper()
	return w.run(t, 5*time.Minute, "bin/slipway", args...)
}

// drift: what somebody edits comes back, and an event says who it was.
func (w *world) drift(t *testing.T) {
	w.kubectl(t, "patch", "hpa", "-n", "istio-system", "istiod", "--type=merge", "--field-manager=a-person", "-p", `{"spec":{"maxReplicas":9}}`)
	kubetest.Eventually(t, 20*time.Second, func() error {
		if got := w.kubectl(t, "get", "hpa", "-n", "istio-system", "istiod", "-o", "jsonpath={.spec.maxReplicas}"); got != "5" {
			return fmt.Errorf("maxReplicas is %s", got)
		}
		events := w.kubectl(t, "get", "events", "-n", "istio-system", "-o", "jsonpath={range .items[*]}{.reason} {.message}{'\\n'}{end}")
		if !strings.Contains(events, "DriftCorrected HorizontalPodAutoscaler istio-system/istiod: spec.maxReplicas was set by a-person") {
			return fmt.Errorf("no event: %s", events)
		}
		return nil
	})
}

// scaling: a real autoscaler changes the replicas, and the operator leaves them.
func (w *world) scaling(t *testing.T) {
	w.mustApply(t, operatorYAML("  profile: default\n  components:\n    ingressGateways:\n    - name: istio-ingressgateway\n      k8s:\n        hpaSpec: {minReplicas: 2}\n"))
	gateway := func(path string) string {
		return w.kubectl(t, "get", "deployment", "-n", "istio-system", "istio-ingressgateway", "-o", "jsonpath="+path)
	}
	kubetest.Eventually(t, time.Minute, func() error {
		if got := gateway("{.status.readyReplicas}"); got != "2" {
			return fmt.Errorf("%s replicas are ready", got)
		}
		return nil
	})
	w.healthy(t)
	before := gateway("{.metadata.generation}")
	w.kubectl(t, "annotate", "iop", "-n", "istio-system", resource, "look=again") // makes the operator look
	w.kubectl(t, "patch", "serviceaccount", "-n", "istio-system", "istiod", "-p", `{"metadata":{"labels":{"app":"edited"}}}`)
	kubetest.Eventually(t, 20*time.Second, func() error { // it has looked when the edit is undone
		if got := w.kubectl(t, "get", "serviceaccount", "-n", "istio-system", "istiod", "-o", "jsonpath={.metadata.labels.app}"); got != "istiod" {
			return fmt.Errorf("label app is %s", got)
		}
		return nil
	})
	if after, n := gateway("{.metadata.generation}"), gateway("{.spec.replicas}"); after != before || n != "2" {
		t.Errorf("the operator wrote the Deployment: generation %s, then %s; %s replicas", before, after, n)
	}
}

// deployed is what runs in the mesh's namespace. How many replicas there are is the autoscaler's to say, at any moment.
func (w *world) deployed(t *testing.T) string {
	t.Helper()
	return w.kubectl(t, "get", "deployments", "-n", "istio-system", "-o", `jsonpath={range .items[*]}{.metadata.name} {.metadata.uid} {.metadata.labels} {.spec.template}{"\n"}{end}`)
}

// plan says what an edit would change, and changes nothing.
func (w *world) plan(t *testing.T) {
	before := w.deployed(t)
	out := w.slipway(t, "plan", "-f", "samples/operator/customised.yaml")
	for _, want := range []string{"for IstioOperator istio-system/" + resource, "+ Deployment istio-system/istio-egressgateway", "~ Deployment istio-system/istio-ingressgateway: spec.replicas, spec.template",
		"Pods are replaced: Deployment istio-system/istio-ingressgateway"} {
		if !strings.Contains(out, want) {
			t.Errorf("plan does not say %q:\n%s", want, out)
		}
	}
	if after := w.deployed(t); after != before {
		t.Errorf("plan changed something: %s, then %s", before, after)
	}
	if out, err := w.try(time.Minute, "", "bin/slipway", "manifest", "diff", "--resource", resource); err != nil {
		t.Errorf("what is installed differs from what it should be: %s", out)
	}
	w.slipway(t, "verify-install")
	if out := w.slipway(t, "explain", "components.ingressGateways", "--resource", resource, "--set", "profile=demo"); !strings.Contains(out, "profile de") {
		t.Errorf("explain: %s", out)
	}
}

// rollback takes the resource back to the ports of the step before.
func (w *world) rollback(t *testing.T) {
	if out := w.slipway(t, "history"); strings.Count(out, "\n") < 4 {
		t.Errorf("history: %s", out)
	}
	before := w.servicePorts(t)
	w.mustApply(t, operatorYAML("  profile: demo\n  components:\n    ingressGateways:\n    - name: istio-ingressgateway\n      k8s:\n        service:\n          ports: [{name: status-port, port: 15021, targetPort: 15021}]\n"))
	w.healthy(t)
	if got := w.servicePorts(t); got == before {
		t.Fatalf("the edit did not show: %s", got)
	}
	w.slipway(t, "rollback", "-y")
	w.healthy(t)
	if got := w.servicePorts(t); got != before {
		t.Errorf("ports after the rollback: %s, not %s", got, before)
	}
	// An upgrade that does not become healthy goes back by itself.
	w.mustApply(t, operatorYAML("  profile: demo\n  lifecycle: {rollback: {timeout: 15s}}\n  components:\n    pilot:\n      tag: nosuchtag\n"))
	kubetest.Eventually(t, 90*time.Second, func() error {
		s, err := w.status(resource)
		if err != nil {
			return err
		}
		if s.Status.Status != "ACTION_REQUIRED" || !strings.Contains(s.Status.Message, "rolled back to installation") {
			return fmt.Errorf("status is %s: %s", s.Status.Status, s.Status.Message)
		}
		return nil
	})
	if image := w.kubectl(t, "get", "deployment", "-n", "istio-system", "istiod", "-o", "jsonpath={.spec.template.spec.containers[0].image}"); strings.Contains(image, "nosuchtag") {
		t.Errorf("the image after the rollback is %s", image)
	}
	w.mustApply(t, operatorYAML("  profile: demo\n"))
	w.healthy(t)
}

const canaryYAML = `apiVersion: install.istio.io/v1alpha1
kind: IstioOperator
metadata: {namespace: istio-system, name: canary}
spec:
  profile: minimal
  revision: canary
  lifecycle: {workloads: {restart: Stale, batchSize: 2}}
  values:
    pilot: {autoscaleEnabled: false, resources: {requests: {cpu: 10m, memory: 100Mi}}}
`

// canary moves the workloads to a second revision by a tag and back, while requests go on.
func (w *world) canary(t *testing.T) {
	w.mustApply(t, canaryYAML)
	w.phase(t, "canary", "HEALTHY")
	w.slipway(t, "tag", "set", "prod", "--revision", "default")
	w.kubectl(t, "label", "namespace", "default", "istio-injection-", "istio.io/rev=prod")
	if out := w.slipway(t, "tag", "list"); !strings.Contains(out, "prod default  default") {
		t.Errorf("tag list: %s", out)
	}
	stop := w.keepAsking(t)
	w.slipway(t, "tag", "set", "prod", "--revision", "canary", "--overwrite")
	kubetest.Eventually(t, 3*time.Minute, func() error { // the operator restarts them
		// The status may still be of the last look, when all was current: what runs decides.
		if got := w.revisions(t); strings.Contains(got, "default") || !strings.Contains(got, "canary") {
			return fmt.Errorf("the sidecars are of %s", got)
		}
		var s struct {
			Status struct {
				Workloads struct {
					Current, Stale      int
					Restarting, Waiting []string
				}
			}
		}
		if err := json.Unmarshal([]byte(w.kubectl(t, "get", "iop", "-n", "istio-system", "canary", "-o", "json")), &s); err != nil {
			return err
		}
		if got := s.Status.Workloads; got.Stale > 0 || got.Current < 6 || len(got.Restarting) > 0 {
			return fmt.Errorf("workloads: %+v", got)
		}
		return nil
	})
	if out := w.slipway(t, "proxy-status"); strings.Contains(out, "REJECTED") || strings.Count(out, "istiod-canary") < 6 {
		t.Errorf("proxy-status of both control planes:\n%s", out)
	}
	w.slipway(t, "tag", "set", "prod", "--revision", "default", "--overwrite")
	out := w.slipway(t, "x", "workloads", "restart", "--batch-size", "3") // this time by hand
	if got := w.revisions(t); strings.Contains(got, "canary") {
		t.Errorf("the sidecars are of %s after:\n%s", got, out)
	}
	asked, failed := stop()
	t.Logf("%d requests while the workloads moved to canary and back, %d of them failed", asked, failed)
	if failed > 0 {
		t.Errorf("%d of %d requests failed", failed, asked)
	}
	w.kubectl(t, "delete", "iop", "-n", "istio-system", "canary", "--timeout=60s")
	w.kubectl(t, "label", "namespace", "default", "istio-injection=enabled", "istio.io/rev-")
	w.slipway(t, "tag", "remove", "prod", "-y")
	if left := w.kubectl(t, "get", "deployment,service,mutatingwebhookconfiguration", "-A", "-o", "name"); strings.Contains(left, "canary") || strings.Contains(left, "revision-tag") {
		t.Errorf("left of the canary: %s", left)
	}
	w.healthy(t)
	w.slipway(t, "verify-install")
}

// revisions are those of the sidecars in the default namespace, without those that are on their way out.
func (w *world) revisions(t *testing.T) string {
	t.Helper()
	var pods struct {
		Items []struct {
			Metadata struct {
				Annotations       map[string]string
				DeletionTimestamp string
			}
		}
	}
	if err := json.Unmarshal([]byte(w.kubectl(t, "get", "pods", "-n", "default", "-l", "security.istio.io/tlsMode", "-o", "json")), &pods); err != nil {
		t.Fatal(err)
	}
	found := map[string]int{}
	for _, pod := range pods.Items {
		if pod.Metadata.DeletionTimestamp == "" {
			found[pod.Metadata.Annotations["istio.io/rev"]]++
		}
	}
	return fmt.Sprint(found)
}

func (w *world) phase(t *testing.T, name, want string) {
	t.Helper()
	kubetest.Eventually(t, 2*time.Minute, func() error {
		s, err := w.status(name)
		if err == nil && s.Status.Status != want {
			err = fmt.Errorf("%s is %s: %s", name, s.Status.Status, s.Status.Message)
		}
		return err
	})
}

// keepAsking asks for the product page without a pause until it is stopped, and says how often, and how often in vain.
func (w *world) keepAsking(t *testing.T) (stop func() (asked, failed int64)) {
	t.Helper()
	url := w.page(t)
	var asked int64
	var lost []string // the requests' agents
	var slowest time.Duration
	var ending atomic.Bool
	done := make(chan struct{})
	t.Cleanup(func() { ending.Store(true); <-done })
	go func() {
		defer close(done)
		for !ending.Load() {
			asked++
			// Bookinfo's parts pass the agent on, and all proxies log it.
			agent, begun := fmt.Sprintf("\"asking/%d\"", asked), time.Now()
			code, body, err := get(url, "User-Agent", strings.Trim(agent, `"`))
			took := time.Since(begun)
			slowest = max(slowest, took)
			if err != nil || code != 200 {
				lost = append(lost, agent)
				t.Logf("%s: %s, %d after %v: %v %.100s", begun.Format(time.TimeOnly), agent, code, took, err, body)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}()
	return func() (int64, int64) {
		ending.Store(true)
		<-done
		t.Logf("the slowest of %d requests took %v", asked, slowest)
		w.tellOf(t, lost)
		return asked, int64(len(lost))
	}
}

// tellOf logs what the proxies that are still there noted of requests by these agents.
func (w *world) tellOf(t *testing.T, agents []string) {
	t.Helper()
	if len(agents) == 0 {
		return
	}
	for _, pod := range strings.Fields(w.kubectl(t, "get", "pods", "-A", "-l", "service.istio.io/canonical-name", "-o", "jsonpath={range .items[*]}{.metadata.namespace}/{.metadata.name} {end}")) {
		namespace, name, _ := strings.Cut(pod, "/")
		out, err := w.try(time.Minute, "", w.node, "kubectl", "logs", "-n", namespace, name, "-c", "istio-proxy")
		if err != nil {
			continue // it has no proxy, or is gone
		}
		for line := range strings.Lines(out) {
			if slices.ContainsFunc(agents, func(agent string) bool { return strings.Contains(line, agent) }) {
				t.Logf("%s: %s", pod, line)
			}
		}
	}
}

// takeOver: what was installed from the command line is taken over by a resource, and no pod restarts; then all goes.
func (w *world) takeOver(t *testing.T) {
	w.slipway(t, "verify-install")
	pods := func() string {
		return w.kubectl(t, "get", "pods", "-n", "istio-system", "-o", "jsonpath={range .items[*]}{.metadata.name} {.status.containerStatuses[*].restartCount} {end}")
	}
	before := pods()
	w.slipway(t, "operator", "init")
	w.mustApply(t, operatorYAML("  profile: minimal\n"))
	w.healthy(t)
	if after := pods(); after != before {
		t.Errorf("pods before the take-over: %s; after: %s", before, after)
	}
	if out := w.slipway(t, "history"); !strings.Contains(out, "istiod") {
		t.Errorf("history of the only owner: %s", out)
	}
	w.slipway(t, "uninstall", "--purge", "-y")
	kubetest.Eventually(t, 20*time.Second, func() error { // the API server deletes a CRD's objects first
		if left := w.kubectl(t, "get", "crd", "-o", "name"); strings.Contains(left, "istio.io") {
			return fmt.Errorf("CRDs left after --purge: %s", left)
		}
		return nil
	})
	if left := w.kubectl(t, "get", "deployments,services,configmaps", "-n", "istio-system", "-o", "name"); strings.Contains(left, "istio") {
		t.Errorf("left after --purge: %s", left)
	}
}
