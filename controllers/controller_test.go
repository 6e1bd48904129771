package controllers

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/slipway-mesh/slipway/api/v1alpha1"
	"github.com/slipway-mesh/slipway/internal/install/apply"
	"github.com/slipway-mesh/slipway/internal/install/lifecycle"
	"github.com/slipway-mesh/slipway/internal/install/manifest"
	"github.com/slipway-mesh/slipway/test/kubetest"
)

var ctx = context.Background()

// bench is an operator on a real API server, whose reconciler is called by hand. There is no kubelet: run plays its part
// for the Deployments that it is told run.
type bench struct {
	kube       client.Client
	reconciler *IstioOperatorReconciler
	events     *events.FakeRecorder
}

var key = client.ObjectKey{Namespace: "istio-system", Name: "mesh"}

func newBench(t *testing.T) *bench {
	t.Helper()
	server := kubetest.Start(t)
	crds, err := manifest.CRDs()
	if err != nil {
		t.Fatal(err)
	}
	for _, object := range crds {
		if object.GetName() == "istiooperators.install.istio.io" {
			if err := server.Client.Create(ctx, object); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := server.Client.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: key.Namespace}}); err != nil {
		t.Fatal(err)
	}
	recorder := events.NewFakeRecorder(1000)
	return &bench{kube: server.Client, events: recorder, reconciler: &IstioOperatorReconciler{
		Client: server.Client, Direct: server.Client, Events: recorder, Metrics: NewMetrics(prometheus.NewRegistry()),
		Installer: lifecycle.Installer{Cluster: apply.Cluster{Client: server.Client}},
		Build:     lifecycle.Build{Hub: "docker.io/slipway", Tag: "1.0.0", Version: "1.0.0"},
	}}
}

// write makes the resource have the spec.
func (b *bench) write(t *testing.T, spec string) {
	t.Helper()
	object := &unstructured.Unstructured{}
	text := "apiVersion: install.istio.io/v1alpha1\nkind: IstioOperator\nmetadata: {name: mesh, namespace: istio-system}\nspec:\n  " +
		strings.ReplaceAll(strings.TrimSpace(spec), "\n", "\n  ")
	if err := yaml.Unmarshal([]byte(text), &object.Object); err != nil {
		t.Fatal(err)
	}
	kubetest.Eventually(t, 10*time.Second, func() error {
		live := &unstructured.Unstructured{}
		live.SetGroupVersionKind(object.GroupVersionKind())
		if err := b.kube.Get(ctx, key, live); err != nil {
			return b.kube.Create(ctx, object.DeepCopy())
		}
		live.Object["spec"] = object.Object["spec"]
		return b.kube.Update(ctx, live)
	})
}

// step reconciles once and returns the status.
func (b *bench) step(t *testing.T) v1alpha1.IstioOperatorStatus {
	t.Helper()
	if _, err := b.reconciler.Reconcile(ctx, ctrl.Request{NamespacedName: key}); err != nil {
		t.Fatal(err)
	}
	resource := &v1alpha1.IstioOperator{}
	if err := b.kube.Get(ctx, key, resource); client.IgnoreNotFound(err) != nil {
		t.Fatal(err)
	}
	return resource.Status
}

// run says of every Deployment whether its pods run.
func (b *bench) run(t *testing.T, runs bool) {
	t.Helper()
	if err := kubetest.Play(ctx, b.kube, runs); err != nil {
		t.Fatal(err)
	}
}

// until steps, with pods that run or not, until the status is the phase and says the text.
func (b *bench) until(t *testing.T, runs bool, phase v1alpha1.Phase, text string) v1alpha1.IstioOperatorStatus {
	t.Helper()
	var last v1alpha1.IstioOperatorStatus
	for range 20 {
		last = b.step(t)
		if last.Status == phase && strings.Contains(last.Message, text) && last.ObservedGeneration == b.generation(t) {
			return last
		}
		b.run(t, runs)
	}
	t.Fatalf("the status is %s: %s; not %s: %s", last.Status, last.Message, phase, text)
	return last
}

func (b *bench) generation(t *testing.T) int64 {
	t.Helper()
	resource := &v1alpha1.IstioOperator{}
	if err := b.kube.Get(ctx, key, resource); err != nil {
		t.Fatal(err)
	}
	return resource.Generation
}

func (b *bench) told(text string) bool {
	for {
		select {
		case event := <-b.events.Events:
			if strings.Contains(event, text) {
				return true
			}
		default:
			return false
		}
	}
}

const spec = "profile: minimal\ncomponents: {base: {enabled: false}}\nvalues: {pilot: {autoscaleEnabled: false}}\n"

func TestReconcile(t *testing.T) {
	b := newBench(t)
	b.write(t, spec)
	b.step(t) // preflight
	if got := b.step(t).Status; got != v1alpha1.PhaseUpdating {
		t.Errorf("after the first writes the status is %s", got)
	}
	if got := b.step(t).Status; got != v1alpha1.PhaseReconciling {
		t.Errorf("while pods start the status is %s", got)
	}
	status := b.until(t, true, v1alpha1.PhaseHealthy, "")
	if status.ComponentStatus["Pilot"].Version != "1.0.0" || status.Attempt != nil {
		t.Errorf("healthy: %+v", status)
	}
	if !b.told("HEALTHY") {
		t.Error("no event tells of health")
	}
	for _, test := range []struct {
		name string
		run  func(t *testing.T)
	}{
		{"a spec that is refused", b.refusedSpec},
		{"validation", b.validation},
		{"CRDs of others and newer ones", b.foreignCRDs},
		{"stored versions are migrated", b.storedVersions},
		{"preflight", b.preflight},
		{"drift", b.drift},
		{"a fight is given up", b.fight},
		{"plan mode", b.planMode},
		{"rollback", b.rollback},
		{"removal blocked by sidecars", b.blockedRemoval},
		{"an unused revision goes", b.unused},
	} {
		if !t.Run(test.name, test.run) {
			t.FailNow()
		}
	}
}

func (b *bench) refusedSpec(t *testing.T) {
	b.write(t, spec+"meshConfig: {accessLogFile: x}\nhub: '!'")
	status := b.until(t, true, v1alpha1.PhaseError, "spec.hub")
	if status.ComponentStatus["Pilot"].Status != v1alpha1.PhaseHealthy {
		t.Error("what runs is forgotten")
	}
	b.write(t, spec)
	b.until(t, true, v1alpha1.PhaseHealthy, "")
}

// foreignCRDs: one that Helm installed, and one that serves a newer version, are left and told of.
func (b *bench) foreignCRDs(t *testing.T) {
	crd := func(plural, kind, version string) *unstructured.Unstructured {
		object := &unstructured.Unstructured{}
		text := fmt.Sprintf(`{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: %s.networking.istio.io, labels: {app.kubernetes.io/managed-by: Helm}},
  spec: {group: networking.istio.io, scope: Namespaced, names: {kind: %s, plural: %s}, versions: [{name: %s, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}]}}`, plural, kind, plural, version)
		if err := yaml.Unmarshal([]byte(text), &object.Object); err != nil {
			t.Fatal(err)
		}
		return object
	}
	if err := b.kube.Create(ctx, crd("sidecars", "Sidecar", "v1")); err != nil {
		t.Fatal(err)
	}
	if err := b.kube.Apply(ctx, client.ApplyConfigurationFromUnstructured(crd("gateways", "Gateway", "v9")), client.FieldOwner(apply.FieldManager)); err != nil {
		t.Fatal(err)
	}
	b.write(t, "profile: minimal\nvalues: {pilot: {autoscaleEnabled: false}}")
	b.until(t, true, v1alpha1.PhaseHealthy, "2 objects are left as they are, such as CustomResourceDefinition")
	live := crd("gateways", "Gateway", "")
	if err := b.kube.Get(ctx, client.ObjectKeyFromObject(live), live); err != nil {
		t.Fatal(err)
	}
	if versions, _, _ := unstructured.NestedSlice(live.Object, "spec", "versions"); len(versions) != 1 {
		t.Errorf("the newer CRD was changed: %v", versions)
	}
	b.write(t, spec)
	b.until(t, true, v1alpha1.PhaseHealthy, "")
}

func (b *bench) edit(t *testing.T, text string) {
	t.Helper()
	object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "istio-system", Name: "istio"}}
	patch := client.RawPatch("application/merge-patch+json", []byte(fmt.Sprintf(`{"data":{"mesh":%q}}`, text)))
	if err := b.kube.Patch(ctx, object, patch, client.FieldOwner("kubectl-edit")); err != nil {
		t.Fatal(err)
	}
}

func (b *bench) drift(t *testing.T) {
	b.edit(t, "a")
	b.until(t, true, v1alpha1.PhaseHealthy, "")
	if !b.told("ConfigMap istio-system/istio: data.mesh was set by kubectl-edit") {
		t.Error("no event tells of the correction")
	}
	b.write(t, spec+"lifecycle: {drift: {mode: Warn}}")
	b.edit(t, "b")
	status := b.until(t, true, v1alpha1.PhaseHealthy, "")
	if len(status.Drift) != 1 || status.Drift[0].Manager != "kubectl-edit" || status.Drift[0].Fields[0] != "data.mesh" {
		t.Errorf("drift: %+v", status.Drift)
	}
	condition := status.Conditions[len(status.Conditions)-1]
	if condition.Type != v1alpha1.ConditionDrifted || condition.Status != metav1.ConditionTrue {
		t.Errorf("conditions: %+v", status.Conditions)
	}
	b.write(t, spec)
	if status := b.until(t, true, v1alpha1.PhaseHealthy, ""); len(status.Drift) != 0 {
		t.Errorf("drift after the correction: %+v", status.Drift)
	}
}

func (b *bench) fight(t *testing.T) {
	for k := range maxCorrections {
		b.edit(t, fmt.Sprint(k))
		b.step(t)
	}
	b.edit(t, "again")
	if status := b.step(t); len(status.Drift) != 1 || status.Status != v1alpha1.PhaseHealthy {
		t.Errorf("an object that somebody sets again and again: %+v", status)
	}
	b.reconciler.fights = fights{}
	if status := b.step(t); len(status.Drift) != 0 {
		t.Errorf("after the fight: %+v", status.Drift)
	}
}

func (b *bench) planMode(t *testing.T) {
	planned := spec + "meshConfig: {accessLogFile: /dev/stderr}\nlifecycle: {mode: Plan}"
	b.write(t, planned)
	status := b.until(t, true, v1alpha1.PhaseActionRequired, "spec.lifecycle.approvedPlan")
	if status.Plan == nil || len(status.Plan.Changes) != 1 || !strings.HasPrefix(status.Plan.Changes[0], "~ ConfigMap istio-system/istio") {
		t.Fatalf("the plan: %+v", status.Plan)
	}
	mesh := func() string {
		object := &corev1.ConfigMap{}
		if err := b.kube.Get(ctx, client.ObjectKey{Namespace: "istio-system", Name: "istio"}, object); err != nil {
			t.Fatal(err)
		}
		return object.Data["mesh"]
	}
	if strings.Contains(mesh(), "stderr") {
		t.Error("it was applied without approval")
	}
	b.write(t, strings.Replace(planned, "mode: Plan", "mode: Plan, approvedPlan: "+status.Plan.Hash, 1))
	b.until(t, true, v1alpha1.PhaseHealthy, "")
	if !strings.Contains(mesh(), "stderr") {
		t.Error("it was not applied with approval")
	}
	b.write(t, spec)
	b.until(t, true, v1alpha1.PhaseHealthy, "")
}

func (b *bench) image(t *testing.T) string {
	t.Helper()
	d := &appsv1.Deployment{}
	if err := b.kube.Get(ctx, client.ObjectKey{Namespace: "istio-system", Name: "istiod"}, d); err != nil {
		t.Fatal(err)
	}
	return d.Spec.Template.Spec.Containers[0].Image
}

func (b *bench) rollback(t *testing.T) {
	good := b.image(t)
	broken := spec + "tag: broken\nlifecycle: {rollback: {timeout: 1ms}}"
	b.write(t, broken)
	status := b.until(t, false, v1alpha1.PhaseUpdating, "")
	if status.Attempt == nil || b.image(t) == good {
		t.Fatalf("the edit is not on its way: %+v", status)
	}
	for range 5 { // the pods of the broken image do not run; those of the good one do
		b.run(t, b.image(t) == good)
		status = b.step(t)
	}
	if status.Status != v1alpha1.PhaseActionRequired || !strings.Contains(status.Message, "rolled back to installation") || b.image(t) != good {
		t.Fatalf("%s: %s (image %s)", status.Status, status.Message, b.image(t))
	}
	b.write(t, spec)
	b.until(t, true, v1alpha1.PhaseHealthy, "")
}

func (b *bench) blockedRemoval(t *testing.T) {
	b.write(t, spec+"lifecycle: {removal: {policy: Block}}")
	b.until(t, true, v1alpha1.PhaseHealthy, "")
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "sleep", Labels: map[string]string{"security.istio.io/tlsMode": "istio"}, Annotations: map[string]string{"istio.io/rev": "default"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "sleep", Image: "sleep"}}},
	}
	if err := b.kube.Create(ctx, pod); err != nil {
		t.Fatal(err)
	}
	resource := &v1alpha1.IstioOperator{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}}
	if err := b.kube.Delete(ctx, resource); err != nil {
		t.Fatal(err)
	}
	status := b.step(t)
	if status.Status != v1alpha1.PhaseActionRequired || !strings.Contains(status.Message, "default/sleep") {
		t.Fatalf("%s: %s", status.Status, status.Message)
	}
	b.image(t) // it is still there
	grace := int64(0)
	if err := b.kube.Delete(ctx, pod, &client.DeleteOptions{GracePeriodSeconds: &grace}); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		b.step(t)
	}
	if err := b.kube.Get(ctx, key, resource); client.IgnoreNotFound(err) != nil || err == nil {
		t.Errorf("the resource is still there: %v", err)
	}
}
