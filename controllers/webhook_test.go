package controllers

import (
	"encoding/json"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"
	"sigs.k8s.io/yaml"
)

func raw(t *testing.T, spec string) runtime.RawExtension {
	t.Helper()
	var m map[string]any
	if err := yaml.Unmarshal([]byte(spec), &m); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(map[string]any{"spec": m})
	if err != nil {
		t.Fatal(err)
	}
	return runtime.RawExtension{Raw: text}
}

func (b *bench) validation(t *testing.T) {
	own := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "istio-system", Name: "profiles", Labels: map[string]string{"install.operator.istio.io/profiles": "true"}},
		Data: map[string]string{"ours.yaml": "apiVersion: install.istio.io/v1alpha1\nkind: IstioOperator\nspec: {hub: example.com/ours}\n"}}
	if err := b.kube.Create(ctx, own); err != nil {
		t.Fatal(err)
	}
	validator := &Validator{Build: b.reconciler.Build, Installer: b.reconciler.Installer}
	for _, c := range []struct{ name, old, spec, refused, warned string }{
		{name: "good", spec: "profile: demo"},
		{name: "a profile of the user's own", spec: "profile: ours"},
		{name: "unknown profile", spec: "profile: nosuch", refused: "spec.profile"},
		{name: "unknown value", spec: "values: {global: {nosuch: 1}}", refused: "spec.values.global.nosuch: unknown field"},
		{name: "unknown mesh option", spec: "meshConfig: {nosuch: 1}", refused: "spec.meshConfig.nosuch"},
		{name: "stored with a mistake, and only labelled", old: "profile: nosuch", spec: "profile: nosuch"},
		{name: "stored with a mistake, and edited", old: "profile: nosuch", spec: "profile: nosuch2", refused: "spec.profile"},
		{name: "without effect", spec: "values: {global: {sts: {servicePort: 1}}}", warned: "spec.values.global.sts.servicePort: has no effect"},
		{name: "deprecated", spec: "values: {global: {proxy: {holdApplicationUntilProxyStarts: true}}}", warned: "use meshConfig.defaultConfig.holdApplicationUntilProxyStarts"},
		{name: "replicas and an autoscaler", spec: "components: {pilot: {k8s: {replicaCount: 2}}}", warned: "spec.components.pilot.k8s.replicaCount: is the autoscaler's"},
	} {
		t.Run(c.name, func(t *testing.T) {
			request := admission.Request{AdmissionRequest: admissionv1.AdmissionRequest{Namespace: "istio-system", Name: "mesh", Operation: admissionv1.Create, Object: raw(t, c.spec)}}
			if c.old != "" {
				request.Operation, request.OldObject = admissionv1.Update, raw(t, c.old)
			}
			response := validator.Handle(ctx, request)
			if response.Allowed != (c.refused == "") || response.Result != nil && !strings.Contains(response.Result.Message, c.refused) {
				t.Errorf("allowed is %v: %+v", response.Allowed, response.Result)
			}
			if got := strings.Join(response.Warnings, "\n"); (c.warned == "") != (got == "") || !strings.Contains(got, c.warned) {
				t.Errorf("warnings: %q, want %q", got, c.warned)
			}
		})
	}
}
