package controllers

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/slipway-mesh/slipway/api/v1alpha1"
	"github.com/slipway-mesh/slipway/internal/install/apply"
	"github.com/slipway-mesh/slipway/test/kubetest"
)

// storedVersions: a CRD of old whose objects are stored in a version that ours does not have loses neither.
func (b *bench) storedVersions(t *testing.T) {
	definition := object(t, `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: workloadgroups.networking.istio.io}
spec: {group: networking.istio.io, scope: Namespaced, names: {kind: WorkloadGroup, plural: workloadgroups, singular: workloadgroup},
  versions: [{name: v1alpha1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]}`)
	live := definition.DeepCopy()
	if err := b.kube.Get(ctx, client.ObjectKeyFromObject(live), live); !apierrors.IsNotFound(err) {
		if err := b.kube.Delete(ctx, live); err != nil {
			t.Fatal(err)
		}
	}
	kubetest.Eventually(t, 10e9, func() error {
		return b.kube.Apply(ctx, client.ApplyConfigurationFromUnstructured(definition.DeepCopy()), client.FieldOwner(apply.FieldManager))
	})
	group := object(t, `{apiVersion: networking.istio.io/v1alpha1, kind: WorkloadGroup, metadata: {namespace: istio-system, name: old}, spec: {template: {serviceAccount: kept}}}`)
	kubetest.Eventually(t, 10e9, func() error { return b.kube.Create(ctx, group) })
	b.write(t, "profile: minimal\nvalues: {pilot: {autoscaleEnabled: false}}")
	b.until(t, true, v1alpha1.PhaseHealthy, "")
	kubetest.Eventually(t, 20e9, func() error {
		b.step(t)
		if err := b.kube.Get(ctx, client.ObjectKeyFromObject(live), live); err != nil {
			return err
		}
		versions, _, _ := unstructured.NestedSlice(live.Object, "spec", "versions")
		stored, _, _ := unstructured.NestedStringSlice(live.Object, "status", "storedVersions")
		if len(stored) != 1 || stored[0] == "v1alpha1" || len(versions) < 2 || strings.Contains(fmt.Sprint(versions), "name:v1alpha1 ") {
			return fmt.Errorf("stored %v of %d versions", stored, len(versions))
		}
		return nil
	})
	now := object(t, `{apiVersion: networking.istio.io/v1, kind: WorkloadGroup, metadata: {namespace: istio-system, name: old}}`)
	kubetest.Eventually(t, 10e9, func() error { return b.kube.Get(ctx, client.ObjectKeyFromObject(now), now) })
	if account, _, _ := unstructured.NestedString(now.Object, "spec", "template", "serviceAccount"); account != "kept" {
		t.Errorf("the object lost its content: %v", now.Object)
	}
	b.write(t, spec)
	b.until(t, true, v1alpha1.PhaseHealthy, "")
}

func object(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	out := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(text), &out.Object); err != nil {
		t.Fatal(err)
	}
	return out
}

// preflight: what is worth knowing is in the condition; what stops an installation is an error, and goes when it is gone.
func (b *bench) preflight(t *testing.T) {
	quota := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: "istio-system", Name: "tight"},
		Spec: corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{"pods": resource.MustParse("0")}}}
	if err := b.kube.Create(ctx, quota); err != nil {
		t.Fatal(err)
	}
	quota.Status = corev1.ResourceQuotaStatus{Hard: quota.Spec.Hard, Used: corev1.ResourceList{"pods": resource.MustParse("0")}}
	if err := b.kube.Status().Update(ctx, quota); err != nil {
		t.Fatal(err)
	}
	cilium := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "cilium-config"}, Data: map[string]string{"kube-proxy-replacement": "true"}}
	if err := b.kube.Create(ctx, cilium); err != nil {
		t.Fatal(err)
	}
	b.write(t, spec+"meshConfig: {accessLogFile: a}")
	status := b.until(t, true, v1alpha1.PhaseHealthy, "")
	condition := meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionPreflight)
	if condition == nil || condition.Status != metav1.ConditionTrue || !strings.Contains(condition.Message, "ResourceQuota istio-system/tight has no pods left") ||
		!strings.Contains(condition.Message, "bpf-lb-sock-hostns-only") {
		t.Errorf("preflight: %+v", condition)
	}
	for _, made := range []client.Object{quota, cilium} {
		if err := b.kube.Delete(ctx, made); err != nil {
			t.Fatal(err)
		}
	}
	b.reconciler.Installer.Kubernetes = "v1.20.1"
	b.write(t, spec+"meshConfig: {accessLogFile: b}")
	if _, err := b.reconciler.Reconcile(ctx, ctrl.Request{NamespacedName: key}); err == nil {
		t.Error("what preflight stopped is not tried again")
	}
	stopped := &v1alpha1.IstioOperator{}
	if err := b.kube.Get(ctx, key, stopped); err != nil || stopped.Status.Status != v1alpha1.PhaseError ||
		!strings.Contains(stopped.Status.Message, "preflight: Kubernetes is of version v1.20.1") {
		t.Errorf("%v: %s: %s", err, stopped.Status.Status, stopped.Status.Message)
	}
	if live := (&corev1.ConfigMap{}); b.kube.Get(ctx, client.ObjectKey{Namespace: "istio-system", Name: "istio"}, live) != nil || strings.Contains(live.Data["mesh"], "accessLogFile: b") {
		t.Error("what preflight stopped was applied")
	}
	b.reconciler.Installer.Kubernetes = "v1.34.4"
	b.until(t, true, v1alpha1.PhaseHealthy, "")
	b.write(t, spec)
	b.until(t, true, v1alpha1.PhaseHealthy, "")
}

// unused: a revision that nothing uses goes by itself; one that a namespace asks for stays.
func (b *bench) unused(t *testing.T) {
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: map[string]string{"istio.io/rev": "old"}}}
	if err := b.kube.Create(ctx, namespace); err != nil {
		t.Fatal(err)
	}
	b.write(t, spec+"revision: old\nlifecycle: {removal: {unusedFor: 1s}}")
	if status := b.until(t, true, v1alpha1.PhaseHealthy, ""); status.UnusedSince != nil {
		t.Errorf("a namespace asks for it, and it is unused since %s", status.UnusedSince)
	}
	namespace.Labels = nil
	if err := b.kube.Update(ctx, namespace); err != nil {
		t.Fatal(err)
	}
	if status := b.step(t); status.UnusedSince == nil {
		t.Error("nothing uses it, and the status does not say so")
	}
	kubetest.Eventually(t, 20e9, func() error {
		b.step(t)
		err := b.kube.Get(ctx, key, &v1alpha1.IstioOperator{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("the resource is still there: %w", err)
	})
	if !b.told("nothing has used the control plane since") {
		t.Error("no event tells why it went")
	}
}
