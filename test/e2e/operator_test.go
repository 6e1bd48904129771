package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/slipway-mesh/slipway/test/kubetest"
)

type operatorStatus struct {
	Metadata struct{ Generation int64 }
	Status   struct {
		Status, Message    string
		ObservedGeneration int64
		ComponentStatus    map[string]struct{ Status, Error string }
	}
}

func (w *world) status(name string) (operatorStatus, error) {
	var s operatorStatus
	out, err := w.try(time.Minute, "", w.node, "kubectl", "get", "iop", "-n", "istio-system", name, "-o", "json")
	if err != nil {
		return s, fmt.Errorf("%w: %s", err, out)
	}
	return s, json.Unmarshal([]byte(out), &s)
}

const resource = "example-istiocontrolplane"

// healthy waits until the resource's last generation is HEALTHY.
func (w *world) healthy(t *testing.T) operatorStatus {
	t.Helper()
	kubetest.Eventually(t, 3*time.Minute, func() error { return w.ready(resource) })
	last, err := w.status(resource)
	if err != nil {
		t.Fatal(err)
	}
	return last
}

// ready says whether the named resource's last generation is HEALTHY.
func (w *world) ready(name string) error {
	s, err := w.status(name)
	if err == nil && (s.Status.Status != "HEALTHY" || s.Status.ObservedGeneration != s.Metadata.Generation) {
		err = fmt.Errorf("status is %s: %s", s.Status.Status, s.Status.Message)
	}
	return err
}

func (w *world) operatorInit(t *testing.T) {
	w.run(t, 3*time.Minute, "bin/slipway", "operator", "init")
	w.kubectl(t, "get", "namespace", "istio-operator", "istio-system")
	w.kubectl(t, "get", "crd", "istiooperators.install.istio.io")
	w.kubectl(t, "get", "-n", "istio-operator", "deployment,service", "istio-operator")
	if ready := w.kubectl(t, "get", "-n", "istio-operator", "deployment", "istio-operator", "-o", "jsonpath={.status.readyReplicas}"); ready != "1" {
		t.Errorf("ready replicas of the operator: %q", ready)
	}
}

func operatorYAML(spec string) string {
	return "apiVersion: install.istio.io/v1alpha1\nkind: IstioOperator\nmetadata:\n  namespace: istio-system\n  name: " + resource + "\nspec:\n" + spec
}

// badOperators: what the schema can tell is refused by the API server, the rest by the operator's webhook; a value
// without effect is warned of.
func (w *world) badOperators(t *testing.T) {
	for name, c := range map[string]struct{ spec, want string }{
		"unknown field": {"  profil: demo\n", "profil"},
		"wrong type":    {"  components:\n    pilot:\n      enabled: \"yes\"\n", "enabled"},
	} {
		out, err := w.apply(operatorYAML(c.spec))
		if err == nil || !strings.Contains(out, c.want) {
			t.Errorf("%s: kubectl apply answered %v: %s", name, err, out)
		}
	}
	for name, c := range map[string]struct{ spec, want string }{
		"unknown profile": {"  profile: nosuch\n", "spec.profile"},
		"unusable value":  {"  values:\n    global:\n      proxy:\n        includeIPRanges: nonsense\n", "spec.values.global.proxy.includeIPRanges"},
		"unknown value":   {"  values: {global: {proxy: {logLevl: debug}}}\n", "did you mean logLevel?"},
		"unknown option":  {"  meshConfig: {acessLogFile: x}\n", "spec.meshConfig.acessLogFile"},
	} {
		kubetest.Eventually(t, 20*time.Second, func() error { // the webhook may be registered a moment after the operator is ready
			if out, err := w.apply(operatorYAML(c.spec)); err == nil || !strings.Contains(out, c.want) {
				return fmt.Errorf("%s: kubectl apply said: %s (%w)", name, out, errors.Join(err))
			}
			return nil
		})
	}
	out, err := w.apply(operatorYAML("  profile: empty\n  values: {global: {sts: {servicePort: 1}}}\n"))
	if err != nil || !strings.Contains(out, "Warning: spec.values.global.sts.servicePort: has no effect") {
		t.Errorf("a value without effect: %v: %s", err, out)
	}
	w.kubectl(t, "delete", "iop", "-n", "istio-system", resource, "--timeout=30s")
}

func (w *world) defaultProfile(t *testing.T) {
	w.kubectl(t, "apply", "-f", "samples/operator/default.yaml")
	s := w.healthy(t)
	for _, name := range []string{"Base", "Pilot", "IngressGateways"} {
		if got := s.Status.ComponentStatus[name].Status; got != "HEALTHY" {
			t.Errorf("component %s is %q", name, got)
		}
	}
	w.kubectl(t, "rollout", "status", "-n", "istio-system", "deployment/istiod", "--timeout=5s")
	w.kubectl(t, "rollout", "status", "-n", "istio-system", "deployment/istio-ingressgateway", "--timeout=5s")
}

func (w *world) servicePorts(t *testing.T) string {
	return w.kubectl(t, "get", "service", "-n", "istio-system", "istio-ingressgateway", "-o", "jsonpath={.spec.ports[*].port}")
}

func (w *world) address(t *testing.T) string {
	t.Helper()
	var ip string
	kubetest.Eventually(t, 30*time.Second, func() error {
		ip = w.kubectl(t, "get", "service", "-n", "istio-system", "istio-ingressgateway", "-o", "jsonpath={.status.loadBalancer.ingress[0].ip}")
		if ip == "" {
			return fmt.Errorf("the Service has no address")
		}
		return nil
	})
	return ip
}

func (w *world) gatewayAddress(t *testing.T) {
	w.address(t)
	if got := w.servicePorts(t); got != "15021 80 443" {
		t.Errorf("ports of the default profile's gateway: %s", got)
	}
}

// customised is the document of scenario L3, over the running default installation.
// autoscalers checks that the autoscalers know the pods' use, and so can act.
func (w *world) autoscalers(t *testing.T) {
	for _, name := range []string{"istiod", "istio-ingressgateway"} {
		kubetest.Eventually(t, 90*time.Second, func() error {
			got := w.kubectl(t, "get", "hpa", "-n", "istio-system", name, "-o", `jsonpath={.status.conditions[?(@.type=="ScalingActive")].status} {.status.currentMetrics[0].resource.current.averageValue}`)
			if active, use, _ := strings.Cut(got, " "); active != "True" || use == "" {
				return fmt.Errorf("%s: %q", name, got)
			}
			return nil
		})
	}
}

func (w *world) customised(t *testing.T) {
	before := w.kubectl(t, "get", "pods", "-n", "istio-system", "-l", "app=istio-ingressgateway", "-o", "name")
	w.kubectl(t, "apply", "-f", "samples/operator/customised.yaml")
	s := w.healthy(t)
	if s.Status.ComponentStatus["EgressGateways"].Status != "HEALTHY" {
		t.Errorf("demo's egress gateway is %q", s.Status.ComponentStatus["EgressGateways"].Status)
	}
	requests := func(want string) {
		t.Helper()
		if got := w.kubectl(t, "get", "deployment", "-n", "istio-system", "istio-ingressgateway", "-o", "jsonpath={.spec.template.spec.containers[0].resources.requests.cpu} {.spec.template.spec.containers[0].resources.requests.memory}"); got != want {
			t.Errorf("requests of the gateway: %s, not %s", got, want)
		}
	}
	requests("100m 400Mi")
	if limit := w.kubectl(t, "get", "deployment", "-n", "istio-system", "istio-ingressgateway", "-o", "jsonpath={.spec.template.spec.containers[0].resources.limits.memory}"); limit != "1Gi" {
		t.Errorf("the memory limit, which was not edited, is %q", limit)
	}
	if got := w.servicePorts(t); got != "15021 80 443 31400 15443" {
		t.Errorf("ports of demo's gateway: %s", got)
	}
	if after := w.kubectl(t, "get", "pods", "-n", "istio-system", "-l", "app=istio-ingressgateway", "-o", "name"); after == before {
		t.Error("the gateway did not roll")
	}
	w.mustApply(t, operatorYAML("  profile: demo\n  components:\n    ingressGateways:\n    - name: istio-ingressgateway\n      k8s:\n        resources:\n          requests:\n            cpu: 60m\n            memory: 200Mi\n"))
	w.healthy(t)
	requests("60m 200Mi")
}

// oldPorts sets the nine ports of Istio 1.1 through k8s.service.ports.
func (w *world) oldPorts(t *testing.T) {
	spec := "  profile: demo\n  components:\n    ingressGateways:\n    - name: istio-ingressgateway\n      k8s:\n        service:\n          ports:\n"
	want := []string{"15020", "80", "443", "31400", "15029", "15030", "15031", "15032", "15443"}
	for _, port := range want {
		target := port
		if len(port) < 4 {
			target = "8" + fmt.Sprintf("%03s", port)
		}
		spec += fmt.Sprintf("          - {name: p%s, port: %s, targetPort: %s}\n", port, port, target)
	}
	w.mustApply(t, operatorYAML(spec))
	w.healthy(t)
	if got := w.servicePorts(t); got != strings.Join(want, " ") {
		t.Errorf("ports: %s", got)
	}
}

// brokenImage: the status names the component and the cause, and never says HEALTHY.
func (w *world) brokenImage(t *testing.T) {
	w.mustApply(t, operatorYAML("  profile: demo\n  components:\n    pilot:\n      tag: nosuchtag\n"))
	kubetest.Eventually(t, 90*time.Second, func() error {
		s, err := w.status(resource)
		if err != nil {
			return err
		}
		if s.Status.ObservedGeneration == s.Metadata.Generation && s.Status.Status == "HEALTHY" {
			t.Fatal("the status is HEALTHY with an image that cannot start")
		}
		if s.Status.Status != "ERROR" || !strings.Contains(s.Status.Message, "Pilot") || s.Status.ComponentStatus["Pilot"].Error == "" {
			return fmt.Errorf("status is %s: %s", s.Status.Status, s.Status.Message)
		}
		return nil
	})
	if code, _, err := get("http://" + w.address(t) + "/productpage"); err != nil || code != 200 {
		t.Errorf("what ran before does not serve any more: %d %v", code, err)
	}
	w.mustApply(t, operatorYAML("  profile: demo\n"))
	w.healthy(t)
}

func (w *world) remove(t *testing.T) {
	w.kubectl(t, "delete", "iop", "-n", "istio-system", resource, "--timeout=90s")
	if events := w.kubectl(t, "get", "events", "-n", "istio-system", "-o", "jsonpath={range .items[*]}{.reason} {.message}{'\\n'}{end}"); !strings.Contains(events, "ProxiesAttached") || !strings.Contains(events, "default/productpage") {
		t.Errorf("no event names the sidecars that were left: %s", events)
	}
	kubetest.Eventually(t, time.Minute, func() error {
		left := w.kubectl(t, "get", "pods,deployments,services,configmaps,secrets,serviceaccounts,roles,rolebindings,hpa,pdb,leases", "-n", "istio-system", "-o", "name")
		for _, name := range strings.Fields(left) {
			if name != "configmap/kube-root-ca.crt" && name != "serviceaccount/default" {
				return fmt.Errorf("left in istio-system: %s", left)
			}
		}
		return nil
	})
	for _, name := range strings.Fields(w.kubectl(t, "get", "mutatingwebhookconfigurations,validatingwebhookconfigurations,clusterroles,clusterrolebindings", "-o", "name")) {
		if strings.Contains(name, "istiod") || strings.Contains(name, "istio-sidecar") || strings.Contains(name, "istio-validator") {
			t.Errorf("left: %s", name)
		}
	}
	if roots := w.kubectl(t, "get", "configmaps", "-A", "-l", "istio.io/config=true", "-o", "name"); roots != "" {
		t.Errorf("root certificates left: %s", roots)
	}
	w.kubectl(t, "get", "crd", "virtualservices.networking.istio.io")
	if code := w.kubectl(t, "get", "iop", "-A", "-o", "name"); code != "" {
		t.Errorf("resources left: %s", code)
	}
}

// operatorRemove takes the operator away; what dump prints is what was there.
func (w *world) operatorRemove(t *testing.T) {
	dumped := w.run(t, time.Minute, "bin/slipway", "operator", "dump")
	if out, err := w.try(time.Minute, dumped, w.node, "kubectl", "diff", "-f", "-"); err != nil {
		t.Errorf("what init applied is not what dump prints: %s", out)
	}
	w.run(t, 2*time.Minute, "bin/slipway", "operator", "remove", "-y")
	kubetest.Eventually(t, time.Minute, func() error {
		if out, err := w.try(time.Minute, "", w.node, "kubectl", "get", "deployment,service,serviceaccount", "-n", "istio-operator", "-o", "name"); err != nil || strings.Contains(out, "istio-operator") {
			return errors.Join(err, fmt.Errorf("left: %s", out))
		}
		return nil
	})
	w.kubectl(t, "get", "crd", "istiooperators.install.istio.io") // it stays: to remove it would remove every mesh
}

// install brings a control plane up from the command line, without the operator; run again, it changes nothing.
func (w *world) install(t *testing.T) {
	out := w.run(t, 3*time.Minute, "bin/slipway", "install", "--set", "profile=minimal", "-y")
	if got := w.kubectl(t, "get", "deployment", "istiod", "-n", "istio-system", "-o", "jsonpath={.status.readyReplicas}"); got != "1" {
		t.Errorf("istiod has %q ready replicas after:\n%s", got, out)
	}
	before := w.deployed(t)
	w.run(t, 3*time.Minute, "bin/slipway", "install", "--set", "profile=minimal", "-y")
	if after := w.deployed(t); after != before {
		t.Errorf("the second install changed a Deployment: %s, then %s", before, after)
	}
	if list := w.run(t, time.Minute, "bin/slipway", "profile", "list"); !strings.Contains(list, "minimal") {
		t.Errorf("profile list: %s", list)
	}
}

// secondOperator: of two operators one acts; when it goes, the other does.
func (w *world) secondOperator(t *testing.T) {
	w.kubectl(t, "scale", "deployment", "istio-operator", "-n", "istio-operator", "--replicas=2")
	w.kubectl(t, "rollout", "status", "deployment/istio-operator", "-n", "istio-operator", "--timeout=60s")
	leader := func() string {
		holder := w.kubectl(t, "get", "lease", "istio-operator-lock", "-n", "istio-operator", "-o", "jsonpath={.spec.holderIdentity}")
		pod, _, _ := strings.Cut(holder, "_")
		return pod
	}
	first := leader()
	w.kubectl(t, "delete", "pod", "-n", "istio-operator", first, "--wait=false")
	w.kubectl(t, "label", "configmap", "istio", "-n", "istio-system", "operator.istio.io/managed=No", "--overwrite")
	kubetest.Eventually(t, 30*time.Second, func() error {
		now := w.kubectl(t, "get", "configmap", "istio", "-n", "istio-system", "-o", "jsonpath={.metadata.labels.operator\\.istio\\.io/managed}")
		if second := leader(); now != "Reconcile" || second == first {
			return fmt.Errorf("%s leads after %s, and the label is %s", second, first, now)
		}
		return nil
	})
	w.kubectl(t, "scale", "deployment", "istio-operator", "-n", "istio-operator", "--replicas=1")
	w.kubectl(t, "rollout", "status", "deployment/istio-operator", "-n", "istio-operator", "--timeout=60s")
}
