package manifest

import (
	"encoding/json"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
)

// A setting is one patch that k8s.* asks for: on the object of a kind and name, by strategic merge.
type setting struct {
	object, name string
	schema       any
	patch        map[string]any
}

// applySettings patches the rendered objects with the component's k8s settings. A setting whose object the chart did
// not render, such as hpaSpec where autoscaling is off, has no effect.
func applySettings(objects []Object, c component) error {
	if c.k8s == nil || c.workload == "" {
		return nil
	}
	settings, err := settingsOf(c)
	if err != nil {
		return &Error{Path: c.path + ".k8s", Err: err}
	}
	for _, s := range settings {
		for _, object := range objects {
			if object.GetKind() != s.object || object.GetName() != s.name || len(s.patch) == 0 {
				continue
			}
			if err := strategicMerge(object, s.patch, s.schema); err != nil {
				return &Error{Path: c.path + ".k8s", Err: fmt.Errorf("patch %s %s: %w", s.object, s.name, err)}
			}
		}
	}
	for _, object := range objects {
		finish(object, c)
	}
	return nil
}

func settingsOf(c component) ([]setting, error) {
	k8s, err := toMap(c.k8s)
	if err != nil {
		return nil, err
	}
	service, _ := k8s["service"].(map[string]any)
	if service != nil {
		service = copyValue(service).(map[string]any)
		delete(service, "ports") // the chart renders them: a user's list replaces the profile's
	}
	spec := func(v map[string]any) map[string]any {
		if len(v) == 0 {
			return nil
		}
		return map[string]any{"spec": v}
	}
	hpa, _ := k8s["hpaSpec"].(map[string]any)
	pdb, _ := k8s["podDisruptionBudget"].(map[string]any)
	list := []setting{
		{c.workload, c.instance, &appsv1.Deployment{}, deploymentPatch(c, k8s)},
		{"HorizontalPodAutoscaler", c.instance, &autoscalingv2.HorizontalPodAutoscaler{}, spec(hpa)},
		{"PodDisruptionBudget", c.instance, &policyv1.PodDisruptionBudget{}, spec(pdb)},
		{"Service", c.instance, nil, spec(service)},
	}
	if annotations, ok := k8s["serviceAnnotations"]; ok {
		list = append(list, setting{"Service", c.instance, nil, map[string]any{"metadata": map[string]any{"annotations": annotations}}})
	}
	return list, nil
}

// deploymentPatch places each setting where a Deployment has it.
func deploymentPatch(c component, k8s map[string]any) map[string]any {
	patch := map[string]any{}
	place := func(name, path string) {
		if value, ok := k8s[name]; ok {
			set(patch, path, value)
		}
	}
	place("replicaCount", "spec.replicas")
	place("strategy", "spec.strategy")
	place("podAnnotations", "spec.template.metadata.annotations")
	for _, name := range []string{"affinity", "nodeSelector", "tolerations", "priorityClassName", "securityContext", "volumes"} {
		place(name, "spec.template.spec."+name)
	}
	container := map[string]any{}
	for _, name := range []string{"env", "imagePullPolicy", "readinessProbe", "resources", "volumeMounts"} {
		if value, ok := k8s[name]; ok {
			container[name] = value
		}
	}
	if len(container) > 0 {
		container["name"] = c.container
		set(patch, "spec.template.spec.containers", []any{container})
	}
	return patch
}

func strategicMerge(object Object, patch map[string]any, schema any) error {
	if schema == nil { // no list in the patch has a merge key that we want
		object.Object = mergePlain(object.Object, patch)
		return nil
	}
	original, err := json.Marshal(object.Object)
	if err != nil {
		return err
	}
	change, err := json.Marshal(patch)
	if err != nil {
		return err
	}
	result, err := strategicpatch.StrategicMergePatch(original, change, schema)
	if err != nil {
		return err
	}
	object.Object = nil
	return json.Unmarshal(result, &object.Object)
}

func mergePlain(base, patch map[string]any) map[string]any {
	for name, value := range patch {
		there, ok1 := base[name].(map[string]any)
		added, ok2 := value.(map[string]any)
		if ok1 && ok2 {
			base[name] = mergePlain(there, added)
		} else {
			base[name] = value
		}
	}
	return base
}

// finish repairs what merging can leave: a PodDisruptionBudget may say only one of minAvailable and maxUnavailable, and
// the user's word stands.
func finish(object Object, c component) {
	budget := c.k8s.PodDisruptionBudget
	if object.GetKind() != "PodDisruptionBudget" || object.GetName() != c.instance || budget == nil || budget.MaxUnavailable == nil {
		return
	}
	if spec, ok := object.Object["spec"].(map[string]any); ok && budget.MinAvailable == nil {
		delete(spec, "minAvailable")
	}
}
