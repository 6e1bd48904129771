package lifecycle

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	admission "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/slipway-mesh/slipway/api/v1alpha1"
	"github.com/slipway-mesh/slipway/internal/install/apply"
	"github.com/slipway-mesh/slipway/test/kubetest"
)

// mixer is a namespace of Deployments whose pods the test makes as the injector would: there are no controllers.
type mixer struct {
	kube client.Client
}

func (m mixer) deployment(t *testing.T, name string, annotations map[string]string) {
	t.Helper()
	labels := map[string]string{"app": name}
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "market", Name: name, Annotations: annotations},
		Spec: appsv1.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "app"}}}}}}
	if err := m.kube.Create(ctx, d); err != nil {
		t.Fatal(err)
	}
	m.pod(t, name, "default", "old")
	ready(t, m.kube)
}

// pod gives the Deployment one pod, with a sidecar of the revision and the injector's version.
func (m mixer) pod(t *testing.T, name, revision, version string) {
	t.Helper()
	grace := int64(0)
	if err := m.kube.DeleteAllOf(ctx, &corev1.Pod{}, client.InNamespace("market"), client.MatchingLabels{"app": name}, client.GracePeriodSeconds(grace)); err != nil {
		t.Fatal(err)
	}
	yes := true
	d := &appsv1.Deployment{}
	if err := m.kube.Get(ctx, client.ObjectKey{Namespace: "market", Name: name}, d); err != nil {
		t.Fatal(err)
	}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "market", GenerateName: name + "-", Labels: map[string]string{"app": name, "security.istio.io/tlsMode": "istio"},
			Annotations:     map[string]string{"istio.io/rev": revision, "sidecar.istio.io/status": fmt.Sprintf(`{"version":%q}`, version)},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "Deployment", Name: name, UID: d.UID, Controller: &yes}}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "app"}}},
	}
	if err := m.kube.Create(ctx, pod); err != nil {
		t.Fatal(err)
	}
}

func staleWorkloads(t *testing.T, server *kubetest.Server) {
	in := Installer{Cluster: apply.Cluster{Client: server.Client}}
	canary := Owner{Namespace: "istio-system", Name: "canary"}
	converge(t, server.Client, in, target(t, mesh, "profile: minimal"))
	converge(t, server.Client, in, target(t, canary, "profile: minimal\nrevision: canary"))
	market := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "market", Labels: map[string]string{"istio.io/rev": "canary"}}}
	if err := server.Client.Create(ctx, market); err != nil {
		t.Fatal(err)
	}
	// The test injects by hand: without these the API server asks nobody.
	if err := server.Client.DeleteAllOf(ctx, &admission.MutatingWebhookConfiguration{}); err != nil {
		t.Fatal(err)
	}
	m := mixer{server.Client}
	m.deployment(t, "a", nil)
	m.deployment(t, "b", nil)
	m.deployment(t, "c", nil)
	m.deployment(t, "kept", map[string]string{restartAnnotation: "false"})
	one := intstr.FromInt32(1)
	budget := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "market", Name: "guard"},
		Spec: policyv1.PodDisruptionBudgetSpec{MinAvailable: &one, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "b"}}}}
	if err := server.Client.Create(ctx, budget); err != nil {
		t.Fatal(err)
	}
	world, err := in.injection(ctx)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	step := func(policy string, at time.Time) Restart {
		t.Helper()
		restart, err := in.Restart(ctx, v1alpha1.WorkloadsSpec{Restart: policy}, at)
		if err != nil {
			t.Fatal(err)
		}
		return restart
	}
	if r := step(v1alpha1.RestartNever, now); r.Stale != 4 || len(r.Restarting) != 0 {
		t.Fatalf("looking only: %+v", r)
	}
	if r := step(v1alpha1.RestartStale, now); !slices.Equal(r.Restarting, []string{"Deployment market/a"}) {
		t.Fatalf("the first batch: %+v", r)
	}
	if r := step(v1alpha1.RestartStale, now); !slices.Equal(r.Restarting, []string{"Deployment market/a"}) {
		t.Fatalf("while it is on its way: %+v", r)
	}
	if r := step(v1alpha1.RestartStale, now.Add(time.Hour)); !slices.Equal(r.Failed, []string{"Deployment market/a"}) || len(r.Restarting) != 0 {
		t.Fatalf("it does not become ready: %+v", r)
	}
	m.pod(t, "a", "canary", world.versions["canary"])
	ready(t, server.Client)
	r := step(v1alpha1.RestartStale, now)
	if r.Current != 1 || !slices.Equal(r.Restarting, []string{"Deployment market/c"}) || len(r.Waiting) != 1 || !strings.Contains(r.Waiting[0], "guard") {
		t.Fatalf("the next, but for the one that is guarded: %+v", r)
	}
	// It becomes ready with the sidecar that it had: it is not restarted for ever.
	ready(t, server.Client)
	if r := step(v1alpha1.RestartStale, now); len(r.Restarting) != 0 || len(r.Waiting) != 3 || !strings.Contains(strings.Join(r.Waiting, " "), "stayed as it was") {
		t.Fatalf("a restart that changed nothing: %+v", r)
	}
	budget.Status = policyv1.PodDisruptionBudgetStatus{DisruptionsAllowed: 1, ObservedGeneration: 1}
	if err := server.Client.Status().Update(ctx, budget); err != nil {
		t.Fatal(err)
	}
	if r := step(v1alpha1.RestartStale, now); !slices.Equal(r.Restarting, []string{"Deployment market/b"}) {
		t.Fatalf("the guard lets it go: %+v", r)
	}
	// Another configuration of the same revision makes a sidecar stale as well.
	converge(t, server.Client, in, target(t, canary, "profile: minimal\nrevision: canary\nvalues: {global: {proxy: {logLevel: debug}}}"))
	list, err := in.Workloads(ctx)
	if err != nil || list[0].Name != "Deployment market/a" || !strings.Contains(list[0].Stale, "older configuration") {
		t.Errorf("after a changed configuration: %+v %v", list, err)
	}
	remove(t, in, canary)
	remove(t, in, mesh)
}
