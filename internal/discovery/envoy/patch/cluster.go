package patch

import (
	"strconv"
	"strings"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	networking "istio.io/api/networking/v1alpha3"
)

// cluster applies the patches to a cluster, and says whether it stays.
func (e *editor) cluster(c *cluster.Cluster) bool {
	stays := true
	inbound := strings.HasPrefix(c.Name, "inbound|") || strings.HasPrefix(c.Name, "InboundPassthrough")
	e.each(networking.EnvoyFilter_CLUSTER, inbound, func(p *one) {
		if !stays || !matchesCluster(p.GetMatch().GetCluster(), c.Name) {
			return
		}
		switch {
		case p.op() == networking.EnvoyFilter_Patch_REMOVE:
			stays = false
		case p.merges():
			e.mergeInto(p, c)
		}
	})
	return stays
}

// matchesCluster compares with a name such as outbound|80|v1|reviews.default.svc.cluster.local.
func matchesCluster(match *networking.EnvoyFilter_ClusterMatch, name string) bool {
	if match == nil {
		return true
	}
	if match.Name != "" {
		return match.Name == name
	}
	parts := strings.SplitN(name, "|", 4)
	if len(parts) != 4 {
		return match.PortNumber == 0 && match.Service == "" && match.Subset == ""
	}
	return (match.PortNumber == 0 || strconv.Itoa(int(match.PortNumber)) == parts[1]) &&
		(match.Subset == "" || match.Subset == parts[2]) && (match.Service == "" || match.Service == parts[3])
}
