package envoy

import (
	"strings"

	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
)

// outboundStatName is what a cluster is counted by, where MeshConfig has a pattern; empty is its own name.
func outboundStatName(config *mesh.Config, o *mesh.Outbound, port mesh.Port, subset mesh.Subset) string {
	if config.OutboundStatName == "" {
		return ""
	}
	return statName(config.OutboundStatName, o.Host, o.Service.Name, o.Service.Namespace, port, subset.Name)
}

// inboundStatName is that of what comes for a workload's port.
func inboundStatName(config *mesh.Config, port mesh.InboundPort) string {
	if config.InboundStatName == "" {
		return ""
	}
	name, rest, _ := strings.Cut(port.Service, ".")
	namespace, _, _ := strings.Cut(rest, ".")
	return statName(config.InboundStatName, port.Service, name, namespace, mesh.Port{Number: port.Number, Name: port.Name, TargetPort: port.Port}, "")
}

// statName fills in a pattern. A service outside Kubernetes has no name but its host.
// https://istio.io/latest/docs/reference/config/istio.mesh.v1alpha1/#MeshConfig-outbound_cluster_stat_name
func statName(pattern, host, name, namespace string, port mesh.Port, subset string) string {
	short := host
	if strings.HasPrefix(host, name+"."+namespace+".svc") {
		short = name + "." + namespace
	}
	return strings.NewReplacer("%SERVICE%", short, "%SERVICE_FQDN%", host, "%SERVICE_NAME%", name, "%SERVICE_PORT%", itoa(port.Number),
		"%TARGET_PORT%", itoa(port.TargetPort), "%SERVICE_PORT_NAME%", port.Name, "%SUBSET_NAME%", subset).Replace(pattern)
}
