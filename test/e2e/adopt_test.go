package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/slipway-mesh/slipway/test/kubetest"
)

// adopted: a mesh that was made from plain manifests is taken over as it is, then moved to a revision beside it, gateway
// and all, and its old control plane goes; requests go on all the time.
func (w *world) adopted(t *testing.T) {
	w.run(t, 3*time.Minute, "bin/slipway", "operator", "init")
	manifests := w.slipway(t, "manifest", "generate", "--set", "components.pilot.k8s.resources.requests.cpu=10m", "--set", "components.pilot.k8s.resources.requests.memory=100Mi",
		"--set", "components.ingressGateways.[name:istio-ingressgateway].k8s.resources.requests.cpu=10m", "--set", "meshConfig.accessLogFile=/dev/stdout")
	if out, err := w.try(time.Minute, manifests, w.node, "kubectl", "apply", "--server-side", "-f", "-"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	w.kubectl(t, "rollout", "status", "deployment", "-n", "istio-system", "--timeout=60s")
	w.kubectl(t, "rollout", "restart", "deployment", "-n", "default")
	for _, name := range []string{"productpage-v1", "reviews-v1", "reviews-v2", "reviews-v3", "details-v1", "ratings-v1"} {
		w.kubectl(t, "rollout", "status", "deployment/"+name, "-n", "default", "--timeout=60s")
	}
	w.kubectl(t, "apply", "-f", "samples/bookinfo/networking/bookinfo-gateway.yaml")
	kubetest.Eventually(t, time.Minute, func() error {
		code, _, err := get(w.page(t))
		if err == nil && code != 200 {
			err = fmt.Errorf("the page answers %d", code)
		}
		return err
	})

	pods := func() []string { // with their restarts
		return strings.Fields(w.kubectl(t, "get", "pods", "-n", "istio-system", "-o", "jsonpath={range .items[*]}{.metadata.name}={.status.containerStatuses[*].restartCount} {end}"))
	}
	before := pods()
	if out := w.slipway(t, "adopt", "list"); !strings.Contains(out, "manifests") {
		t.Fatalf("adopt list: %s", out)
	}
	stop := w.keepAsking(t)
	out := w.slipway(t, "adopt", "own", "-y")
	after := pods()
	for _, pod := range before { // an autoscaler may have added others
		if !slices.Contains(after, pod) {
			t.Errorf("pods before: %s; after: %s\n%s", before, after, out)
		}
	}
	service := w.kubectl(t, "get", "service", "-n", "istio-system", "istio-ingressgateway", "-o", "jsonpath={.metadata.uid} {.spec.clusterIP} {.status.loadBalancer.ingress[0].ip}")
	w.mustApply(t, w.slipway(t, "adopt", "move", "--resource", "adopted"))
	w.phase(t, "slipway", "HEALTHY")
	w.kubectl(t, "label", "namespace", "default", "istio-injection-", "istio.io/rev=slipway")
	w.slipway(t, "x", "workloads", "restart", "--batch-size", "3")
	if got := w.revisions(t); got != "map[slipway:6]" {
		t.Errorf("the sidecars are of %s", got)
	}
	w.mustApply(t, w.slipway(t, "adopt", "move", "--resource", "adopted", "--gateways"))
	kubetest.Eventually(t, 2*time.Minute, func() error { return w.ready("slipway") })
	w.kubectl(t, "delete", "iop", "-n", "istio-system", "adopted", "--timeout=60s")
	asked, failed := stop()
	t.Logf("%d requests while the mesh was adopted and moved, %d of them failed", asked, failed)
	if failed > 0 {
		t.Errorf("%d of %d requests failed", failed, asked)
	}
	if left := w.kubectl(t, "get", "deployments", "-n", "istio-system", "-o", "name"); left != "deployment.apps/istio-ingressgateway\ndeployment.apps/istiod-slipway" {
		t.Errorf("left: %s", left)
	}
	if after := w.kubectl(t, "get", "service", "-n", "istio-system", "istio-ingressgateway", "-o", "jsonpath={.metadata.uid} {.spec.clusterIP} {.status.loadBalancer.ingress[0].ip}"); after != service {
		t.Errorf("the gateway's Service was %s, and is %s", service, after)
	}
	w.slipway(t, "uninstall", "--purge", "-y")
}
