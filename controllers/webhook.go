package controllers

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"

	admissionv1 "k8s.io/api/admission/v1"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"github.com/slipway-mesh/slipway/api/v1alpha1"
	"github.com/slipway-mesh/slipway/internal/install/lifecycle"
	"github.com/slipway-mesh/slipway/internal/install/manifest"
)

// ValidatePath is where the API server asks about IstioOperators.
const ValidatePath = "/validate-install-istio-io-v1alpha1-istiooperator"

// Validator answers kubectl apply: it refuses what could not be installed, with the field that is wrong, and warns of
// what has no effect. It says what the reconciler would.
type Validator struct {
	Build     lifecycle.Build
	Installer lifecycle.Installer
}

// Handle answers one review. An update that leaves the spec as it is always passes, so that a resource that is stored
// with a mistake can be labelled, and deleted.
func (v *Validator) Handle(ctx context.Context, request admission.Request) admission.Response {
	spec, err := specIn(request.Object.Raw)
	if err != nil {
		return admission.Errored(http.StatusBadRequest, err)
	}
	if request.Operation == admissionv1.Update {
		if old, err := specIn(request.OldObject.Raw); err == nil && reflect.DeepEqual(old, spec) {
			return admission.Allowed("")
		}
	}
	build := v.Build
	if build.Profiles, err = v.Installer.Profiles(ctx, request.Namespace); err != nil {
		return admission.Allowed("").WithWarnings(fmt.Sprintf("the spec is not checked before it is installed: %v", err))
	}
	if _, err := lifecycle.Render(build, lifecycle.Owner{Namespace: request.Namespace, Name: request.Name}, spec); err != nil {
		return admission.Denied(err.Error())
	}
	return admission.Allowed("").WithWarnings(warnings(spec)...)
}

func specIn(raw []byte) (map[string]any, error) {
	var resource struct {
		Spec map[string]any `json:"spec"`
	}
	err := json.Unmarshal(raw, &resource)
	if resource.Spec == nil {
		resource.Spec = map[string]any{}
	}
	return resource.Spec, err
}

// warnings are those of the written spec; it could be rendered, so it can be decoded.
func warnings(spec map[string]any) []string {
	text, err := json.Marshal(spec)
	if err != nil {
		return nil
	}
	typed := &v1alpha1.IstioOperatorSpec{}
	if err := json.Unmarshal(text, typed); err != nil {
		return nil
	}
	all := v1alpha1.Warnings(typed)
	if values, ok := spec["values"].(map[string]any); ok {
		for _, path := range manifest.Idle(values) {
			all = append(all, path+": has no effect in Slipway")
		}
	}
	return all
}
