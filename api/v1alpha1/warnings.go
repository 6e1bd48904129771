package v1alpha1

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// moved are values that have a better place, from Istio's list.
var moved = map[string]string{
	"global.certificates":                          "meshConfig.certificates",
	"global.outboundTrafficPolicy":                 "meshConfig.outboundTrafficPolicy",
	"global.localityLbSetting":                     "meshConfig.localityLbSetting",
	"global.enableTracing":                         "meshConfig.enableTracing",
	"global.mtls.auto":                             "meshConfig.enableAutoMtls",
	"global.mtls.enabled":                          "a PeerAuthentication",
	"global.proxy.accessLogFormat":                 "meshConfig.accessLogFormat",
	"global.proxy.accessLogFile":                   "meshConfig.accessLogFile",
	"global.proxy.accessLogEncoding":               "meshConfig.accessLogEncoding",
	"global.proxy.concurrency":                     "meshConfig.defaultConfig.concurrency",
	"global.proxy.envoyAccessLogService":           "meshConfig.defaultConfig.envoyAccessLogService",
	"global.proxy.envoyMetricsService":             "meshConfig.defaultConfig.envoyMetricsService",
	"global.proxy.protocolDetectionTimeout":        "meshConfig.protocolDetectionTimeout",
	"global.proxy.holdApplicationUntilProxyStarts": "meshConfig.defaultConfig.holdApplicationUntilProxyStarts",
	"global.tracer":                                "meshConfig.extensionProviders",
	"pilot.ingress":                                "meshConfig.ingressService, ingressControllerMode and ingressClass",
}

// Warnings lists what of a written spec is accepted and better not said so: fields without effect, and those that have a
// better place.
func Warnings(spec *IstioOperatorSpec) []string {
	var all []string
	warn := func(path, format string, args ...any) { all = append(all, path+": "+fmt.Sprintf(format, args...)) }
	if spec.ResourceSuffix != "" {
		warn("spec.resourceSuffix", "has no effect")
	}
	if spec.CompatibilityVersion != "" {
		warn("spec.compatibilityVersion", "has no effect: Slipway has one behaviour")
	}
	if spec.InstallPackagePath != "" {
		warn("spec.installPackagePath", "is a folder where the operator runs, not where you are")
	}
	values := map[string]any{}
	if spec.Values != nil {
		_ = json.Unmarshal(spec.Values.Raw, &values) // validation reports what cannot be read
	}
	for _, path := range slices.Sorted(maps.Keys(moved)) {
		if valueAt(values, path) != nil {
			warn("spec.values."+path, "is deprecated; use %s", moved[path])
		}
	}
	if spec.Components != nil {
		warnComponents(spec.Components, values, warn)
	}
	if spec.MeshConfig != nil {
		mesh := map[string]any{}
		_ = json.Unmarshal(spec.MeshConfig.Raw, &mesh)
		if valueAt(mesh, "defaultConfig.proxyMetadata.ISTIO_META_DNS_CAPTURE") == "true" {
			warn("spec.meshConfig.defaultConfig.proxyMetadata.ISTIO_META_DNS_CAPTURE", "has no effect: DNS capture is not part of Slipway yet")
		}
	}
	return all
}

func warnComponents(components *ComponentsSpec, values map[string]any, warn func(path, format string, args ...any)) {
	check := func(path, root string, c *ComponentSpec) {
		if c == nil {
			return
		}
		if c.Spec != nil {
			warn(path+".spec", "has no effect")
		}
		if c.K8s != nil && c.K8s.ReplicaCount != nil && valueAt(values, root+".autoscaleEnabled") != false {
			warn(path+".k8s.replicaCount", "is the autoscaler's to change unless values.%s.autoscaleEnabled is false", root)
		}
	}
	check("spec.components.pilot", "pilot", components.Pilot)
	for _, group := range []struct {
		field, root string
		gateways    []GatewaySpec
	}{{"ingressGateways", "gateways.istio-ingressgateway", components.IngressGateways}, {"egressGateways", "gateways.istio-egressgateway", components.EgressGateways}} {
		for i := range group.gateways {
			check(fmt.Sprintf("spec.components.%s.[name:%s]", group.field, group.gateways[i].Name), group.root, &group.gateways[i].ComponentSpec)
		}
	}
}

// valueAt returns what is at a dotted path; nil for nothing.
func valueAt(values map[string]any, path string) any {
	var value any = values
	for _, name := range strings.Split(path, ".") {
		m, _ := value.(map[string]any)
		value = m[name]
	}
	return value
}
