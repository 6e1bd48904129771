package envoy

import (
	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"
	networking "istio.io/api/networking/v1alpha3"
)

var simplePolicies = map[networking.LoadBalancerSettings_SimpleLB]cluster.Cluster_LbPolicy{
	networking.LoadBalancerSettings_UNSPECIFIED: cluster.Cluster_LEAST_REQUEST, networking.LoadBalancerSettings_LEAST_CONN: cluster.Cluster_LEAST_REQUEST,
	networking.LoadBalancerSettings_LEAST_REQUEST: cluster.Cluster_LEAST_REQUEST, networking.LoadBalancerSettings_RANDOM: cluster.Cluster_RANDOM,
	networking.LoadBalancerSettings_ROUND_ROBIN: cluster.Cluster_ROUND_ROBIN,
}

// balance says how the cluster picks an endpoint.
func balance(c *cluster.Cluster, settings *networking.LoadBalancerSettings) {
	if c.LbPolicy == cluster.Cluster_CLUSTER_PROVIDED {
		return
	}
	c.LbPolicy = simplePolicies[settings.GetSimple()]
	if settings.GetSimple() == networking.LoadBalancerSettings_PASSTHROUGH {
		c.LbPolicy = cluster.Cluster_CLUSTER_PROVIDED
		c.ClusterDiscoveryType = &cluster.Cluster_Type{Type: cluster.Cluster_ORIGINAL_DST}
		c.EdsClusterConfig, c.LoadAssignment = nil, nil
		return
	}
	if hash := settings.GetConsistentHash(); hash != nil {
		balanceByHash(c, hash)
		return
	}
	warmUp(c, settings)
}

// minimumRing is Istio's default; Envoy's own is the same number today.
const minimumRing = 1024

func balanceByHash(c *cluster.Cluster, hash *networking.LoadBalancerSettings_ConsistentHashLB) {
	if maglev := hash.GetMaglev(); maglev != nil {
		c.LbPolicy = cluster.Cluster_MAGLEV
		if maglev.TableSize != 0 {
			c.LbConfig = &cluster.Cluster_MaglevLbConfig_{MaglevLbConfig: &cluster.Cluster_MaglevLbConfig{TableSize: wrapperspb.UInt64(maglev.TableSize)}}
		}
		return
	}
	size := hash.GetRingHash().GetMinimumRingSize()
	if size == 0 {
		size = hash.MinimumRingSize // what older documents write
	}
	if size == 0 {
		size = minimumRing
	}
	c.LbPolicy = cluster.Cluster_RING_HASH
	c.LbConfig = &cluster.Cluster_RingHashLbConfig_{RingHashLbConfig: &cluster.Cluster_RingHashLbConfig{MinimumRingSize: wrapperspb.UInt64(size)}}
}

// warmUp gives new endpoints a growing share. Envoy has it for two policies only.
func warmUp(c *cluster.Cluster, settings *networking.LoadBalancerSettings) {
	window, aggression, least := settings.GetWarmup().GetDuration(), 1.0, 10.0
	if window == nil {
		window = settings.GetWarmupDurationSecs() // what older documents write
	}
	if window == nil {
		return
	}
	if v := settings.GetWarmup().GetAggression(); v != nil {
		aggression = v.Value
	}
	if v := settings.GetWarmup().GetMinimumPercent(); v != nil {
		least = v.Value
	}
	slow := &cluster.Cluster_SlowStartConfig{SlowStartWindow: window, MinWeightPercent: &typev3.Percent{Value: least},
		Aggression: &core.RuntimeDouble{DefaultValue: aggression, RuntimeKey: "slipway.warmup.aggression"}}
	switch c.LbPolicy {
	case cluster.Cluster_LEAST_REQUEST:
		c.LbConfig = &cluster.Cluster_LeastRequestLbConfig_{LeastRequestLbConfig: &cluster.Cluster_LeastRequestLbConfig{SlowStartConfig: slow}}
	case cluster.Cluster_ROUND_ROBIN:
		c.LbConfig = &cluster.Cluster_RoundRobinLbConfig_{RoundRobinLbConfig: &cluster.Cluster_RoundRobinLbConfig{SlowStartConfig: slow}}
	}
}
