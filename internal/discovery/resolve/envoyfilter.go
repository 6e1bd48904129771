package resolve

import (
	"fmt"

	api "istio.io/api/networking/v1alpha3"
	networking "istio.io/client-go/pkg/apis/networking/v1alpha3"

	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
	"github.com/slipway-mesh/slipway/internal/discovery/world"
)

// PatchMistake is what Envoy's types do not have of a patch.
type PatchMistake struct {
	Field, Message string
	// Lost says that the whole patch is left out.
	Lost bool
}

func (s *step) envoyFilter(namespace, name string, object *networking.EnvoyFilter) {
	key := world.Key(namespace, name)
	r := &report{kind: "EnvoyFilter", namespace: namespace, name: name}
	defer s.keepProblems(r)
	if object == nil {
		s.World.EnvoyFilters, _, _ = s.World.EnvoyFilters.Delete(key)
	} else {
		checkEnvoyFilter(r, &object.Spec)
		if s.options.Patches != nil {
			for _, mistake := range s.options.Patches(&object.Spec) {
				r.add(mistake.Field, ReasonInvalid, mistake.Lost, mistake.Message)
			}
		}
		s.World.EnvoyFilters, _, _ = s.World.EnvoyFilters.Insert(key, &mesh.EnvoyFilter{
			Owner: mesh.Owner{Kind: r.kind, Namespace: namespace, Name: name}, Selector: object.Spec.GetWorkloadSelector().GetLabels(),
			Priority: object.Spec.Priority, Created: object.CreationTimestamp.Unix(), Patches: object.Spec.ConfigPatches, Form: form(&object.Spec),
		})
	}
	s.dirty.Filters = true
}

// checkEnvoyFilter says what of a filter cannot work, as far as one can say without knowing Envoy.
func checkEnvoyFilter(r *report, spec *api.EnvoyFilter) {
	if len(spec.TargetRefs) > 0 {
		r.warn("spec.targetRefs", ReasonUnsupported, "is not read: select proxies by spec.workloadSelector")
	}
	for i, patch := range spec.ConfigPatches {
		field := fmt.Sprintf("spec.configPatches[%d]", i)
		operation := patch.GetPatch().GetOperation()
		if patch.GetApplyTo() == api.EnvoyFilter_BOOTSTRAP {
			r.warn(field+".applyTo", ReasonUnsupported, "reaches, when they start, proxies that ask for it, and no others: they have BOOTSTRAP_XDS_AGENT: \"true\" in proxyMetadata")
			if operation != api.EnvoyFilter_Patch_MERGE {
				r.warn(field+".patch.operation", ReasonInvalid, "a bootstrap can be merged into, and nothing else")
			}
		}
		switch {
		case patch.GetApplyTo() == api.EnvoyFilter_INVALID:
			r.refuse(field+".applyTo", "must say what is patched")
		case operation == api.EnvoyFilter_Patch_INVALID:
			r.refuse(field+".patch.operation", "must say what is done")
		case operation != api.EnvoyFilter_Patch_REMOVE && patch.GetPatch().GetValue() == nil:
			r.refuse(field+".patch.value", "must say what to put there")
		}
		if patch.GetApplyTo() == api.EnvoyFilter_EXTENSION_CONFIG && operation != api.EnvoyFilter_Patch_ADD {
			r.warn(field+".patch.operation", ReasonInvalid, "an extension configuration can be added, and nothing else: there are none but those that patches add")
		}
		if patch.GetPatch().GetFilterClass() != api.EnvoyFilter_Patch_UNSPECIFIED {
			r.warn(field+".patch.filterClass", ReasonUnsupported, "is not read: name the place by an operation and a match")
		}
		if patch.GetMatch().GetWaypoint() != nil || patch.GetMatch().GetContext() == api.EnvoyFilter_WAYPOINT {
			r.warn(field+".match", ReasonUnsupported, "there are no waypoints")
		}
	}
}
