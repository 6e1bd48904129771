package adopt

import (
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/slipway-mesh/slipway/internal/install/apply"
	"github.com/slipway-mesh/slipway/internal/install/manifest"
)

// addGateways puts the mesh's gateways into the spec, as their objects are.
func (m *Mesh) addGateways(spec map[string]any) {
	lists := map[string]string{ingress: "ingressGateways", egress: "egressGateways"}
	for _, object := range m.Objects {
		list, ok := lists[object.GetLabels()[manifest.LabelComponent]]
		if !ok || object.GetKind() != "Deployment" {
			continue
		}
		gateway := map[string]any{"name": object.GetName(), "enabled": true}
		if object.GetNamespace() != m.Namespace {
			gateway["namespace"] = object.GetNamespace()
		}
		if labels, ok, _ := unstructured.NestedMap(object.Object, "spec", "selector", "matchLabels"); ok {
			gateway["label"] = labels
		}
		k8s := m.workload(object, "istio-proxy")
		if service := m.serviceOf(object); service != nil {
			k8s["service"] = service
		}
		if len(k8s) > 0 {
			gateway["k8s"] = k8s
		}
		all := components(spec)
		gateways, _ := all[list].([]any)
		all[list] = append(gateways, gateway)
	}
}

// workload reads the settings of a Deployment that a component's k8s says.
func (m *Mesh) workload(deployment apply.Object, container string) map[string]any {
	k8s := map[string]any{}
	for field, path := range map[string][]string{
		"nodeSelector": {"nodeSelector"}, "affinity": {"affinity"}, "tolerations": {"tolerations"}, "priorityClassName": {"priorityClassName"},
	} {
		value, ok, _ := unstructured.NestedFieldCopy(deployment.Object, append([]string{"spec", "template", "spec"}, path...)...)
		if ok && !empty(value) {
			k8s[field] = value
		}
	}
	eachMap(deployment.Object, func(c map[string]any) {
		if c["name"] != container {
			return
		}
		if resources, ok := c["resources"].(map[string]any); ok && len(resources) > 0 {
			k8s["resources"] = resources
		}
		if env := ownEnv(c["env"]); len(env) > 0 {
			k8s["env"] = env
		}
	}, "spec", "template", "spec", "containers")
	if hpa := m.autoscalerOf(deployment); hpa != nil {
		k8s["hpaSpec"] = hpa
	} else if replicas, ok, _ := unstructured.NestedInt64(deployment.Object, "spec", "replicas"); ok && replicas != 1 {
		k8s["replicaCount"] = replicas
	}
	return k8s
}

func empty(value any) bool {
	switch v := value.(type) {
	case map[string]any:
		for _, child := range v {
			if !empty(child) {
				return false
			}
		}
		return true
	case []any:
		return len(v) == 0
	}
	return value == nil || value == ""
}

// chartEnv are the variables that Istio's charts set by themselves, beside those of a prefix below.
var chartEnv = []string{"REVISION", "JWT_POLICY", "PILOT_CERT_PROVIDER", "POD_NAME", "POD_NAMESPACE", "SERVICE_ACCOUNT", "KUBECONFIG", "PILOT_TRACE_SAMPLING",
	"PILOT_ENABLE_ANALYSIS", "CLUSTER_ID", "GOMEMLIMIT", "GOMAXPROCS", "PLATFORM", "NODE_NAME", "CA_ADDR", "INSTANCE_IP", "HOST_IP", "ISTIO_CPU_LIMIT",
	"ISTIO_META_WORKLOAD_NAME", "ISTIO_META_OWNER", "ISTIO_META_MESH_ID", "TRUST_DOMAIN", "ISTIO_META_UNPRIVILEGED_POD", "ISTIO_META_CLUSTER_ID",
	"ISTIO_META_NODE_NAME", "LOG_LEVEL", "INJECTION_WEBHOOK_CONFIG_NAME", "ISTIOD_ADDR", "PILOT_ENABLE_PROTOCOL_SNIFFING_FOR_OUTBOUND",
	"PILOT_ENABLE_PROTOCOL_SNIFFING_FOR_INBOUND", "ENABLE_LEADER_ELECTION", "EXTERNAL_ISTIOD", "SHARED_MESH_CONFIG", "CERT_SIGNER_DOMAIN"}

// ownEnv are the variables that a person set: plain values that no chart sets.
func ownEnv(value any) []any {
	list, _ := value.([]any)
	var own []any
	for _, element := range list {
		m, _ := element.(map[string]any)
		name, _ := m["name"].(string)
		if _, plain := m["value"].(string); plain && !slices.Contains(chartEnv, name) {
			own = append(own, map[string]any{"name": name, "value": m["value"]})
		}
	}
	return own
}

// autoscalerOf is the spec of the autoscaler of a workload, without what names the workload.
func (m *Mesh) autoscalerOf(workload apply.Object) map[string]any {
	for _, object := range m.Objects {
		target, _, _ := unstructured.NestedString(object.Object, "spec", "scaleTargetRef", "name")
		if object.GetKind() != "HorizontalPodAutoscaler" || object.GetNamespace() != workload.GetNamespace() || target != workload.GetName() {
			continue
		}
		spec, _, _ := unstructured.NestedMap(object.Object, "spec")
		return spec
	}
	return nil
}

// serviceOf is what is said of the Service that selects the gateway's pods.
func (m *Mesh) serviceOf(deployment apply.Object) map[string]any {
	labels, _, _ := unstructured.NestedStringMap(deployment.Object, "spec", "template", "metadata", "labels")
	for _, object := range m.Objects {
		if object.GetKind() != "Service" || object.GetNamespace() != deployment.GetNamespace() {
			continue
		}
		selector, _, _ := unstructured.NestedStringMap(object.Object, "spec", "selector")
		if len(selector) == 0 || !within(selector, labels) {
			continue
		}
		service := map[string]any{}
		for _, field := range []string{"type", "ports", "loadBalancerIP", "loadBalancerSourceRanges", "externalTrafficPolicy", "loadBalancerClass"} {
			if value, ok, _ := unstructured.NestedFieldCopy(object.Object, "spec", field); ok && !empty(value) {
				service[field] = value
			}
		}
		if service["externalTrafficPolicy"] == "Cluster" {
			delete(service, "externalTrafficPolicy")
		}
		eachMap(service, func(port map[string]any) { delete(port, "nodePort") }, "ports")
		return service
	}
	return nil
}

func within(part, whole map[string]string) bool {
	for name, value := range part {
		if whole[name] != value {
			return false
		}
	}
	return true
}
