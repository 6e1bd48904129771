package envoy

import (
	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	networking "istio.io/api/networking/v1alpha3"

	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
)

// The clusters that every proxy has.
const (
	PassthroughCluster        = "PassthroughCluster"
	BlackHoleCluster          = "BlackHoleCluster"
	InboundPassthroughCluster = "InboundPassthroughCluster"
)

// clusters makes those of a host: one a port, and one a port and subset. A gateway that leads the mesh's TLS on has each a second
// time, without TLS of its own and named as server names are.
func clusters(config *mesh.Config, o *mesh.Outbound, endpoints *mesh.Endpoints) []*Resource {
	if o.Service == nil {
		return nil
	}
	var out []*Resource
	for _, port := range o.Service.Ports {
		for _, subset := range subsetsOf(o) {
			c := madeCluster{config: config, outbound: o, endpoints: endpoints, port: port, subset: subset}
			out = append(out, c.build(mesh.ClusterName(o.Host, subset.Name, port.Number), false)...)
			if o.Through {
				out = append(out, c.build(mesh.SNI(o.Host, subset.Name, port.Number), true)...)
			}
		}
	}
	return out
}

// subsetsOf are the whole service, which has no name, and the parts of it that its rule names.
func subsetsOf(o *mesh.Outbound) []mesh.Subset {
	subsets := []mesh.Subset{{}}
	if o.Rule != nil {
		subsets = append(subsets, o.Rule.Subsets...)
	}
	return subsets
}

// madeCluster is what a cluster is made of.
type madeCluster struct {
	config    *mesh.Config
	outbound  *mesh.Outbound
	endpoints *mesh.Endpoints
	port      mesh.Port
	subset    mesh.Subset
}

// build returns one cluster, or none where it could have no endpoints. through says that what it carries is encrypted already.
func (m madeCluster) build(name string, through bool) []*Resource {
	config, o, port, subset := m.config, m.outbound, m.port, m.subset
	c := &cluster.Cluster{Name: name, ConnectTimeout: millis(config.ConnectTimeoutMillis), AltStatName: outboundStatName(config, o, port, subset)}
	policy := policyFor(config, o.Rule, port.Number, subset)
	known := func() *endpoint.ClusterLoadAssignment {
		return loadAssignment(name, m.endpoints, port.Number, subset, true, nearnessOf(config, o, policy))
	}
	if !discover(c, config, o, known) {
		return nil
	}
	balance(c, policy.GetLoadBalancer())
	pool(c, config, policy)
	detectOutliers(c, policy.GetOutlierDetection())
	if near := nearnessOf(config, o, policy); near != nil && near.shares != nil && c.LbPolicy != cluster.Cluster_CLUSTER_PROVIDED {
		common(c).LocalityConfigSpecifier = &cluster.Cluster_CommonLbConfig_LocalityWeightedLbConfig_{LocalityWeightedLbConfig: &cluster.Cluster_CommonLbConfig_LocalityWeightedLbConfig{}}
	}
	chooseZones(c, zoneAware(config, policy))
	if !through {
		secure(c, config, o, port, subset, policy.GetTls())
		tellSource(c, policy.GetProxyProtocol())
		protocol(c, config, port, policy)
	}
	if o.Rule != nil {
		c.Metadata = ownerMetadata(o.Rule.Owner, "destination-rule")
	}
	return []*Resource{NewResource(name, c)}
}

// discover says where the cluster's endpoints come from: those that are known stand in it where Envoy resolves them itself. False if it
// could have none, which Envoy would refuse.
func discover(c *cluster.Cluster, config *mesh.Config, o *mesh.Outbound, known func() *endpoint.ClusterLoadAssignment) bool {
	kind, service := cluster.Cluster_EDS, o.Service
	switch {
	case service.Resolution == mesh.DynamicDNS:
		findByName(c, config)
		return true
	case service.Resolution == mesh.DNS:
		kind = cluster.Cluster_STRICT_DNS
	case service.Resolution == mesh.DNSRoundRobin:
		kind = cluster.Cluster_LOGICAL_DNS
	case passesThrough(o):
		kind = cluster.Cluster_ORIGINAL_DST
		c.LbPolicy = cluster.Cluster_CLUSTER_PROVIDED
	}
	c.ClusterDiscoveryType = &cluster.Cluster_Type{Type: kind}
	switch kind {
	case cluster.Cluster_EDS:
		c.EdsClusterConfig = &cluster.Cluster_EdsClusterConfig{EdsConfig: ads(), ServiceName: c.Name}
	case cluster.Cluster_STRICT_DNS, cluster.Cluster_LOGICAL_DNS:
		assignment := known()
		if len(assignment.Endpoints) == 0 {
			return false
		}
		if kind == cluster.Cluster_LOGICAL_DNS { // takes one endpoint only
			first := assignment.Endpoints[0]
			first.LbEndpoints = first.LbEndpoints[:1]
			assignment.Endpoints = assignment.Endpoints[:1]
		}
		c.LoadAssignment = assignment
		c.DnsLookupFamily = cluster.Cluster_V4_PREFERRED
		c.DnsRefreshRate = millis(config.DNSRefreshMillis)
		c.RespectDnsTtl = true
	}
	return true
}

// passesThrough says that connections go where the caller meant: to a pod of a headless service, or to any host of an entry
// without resolution. A gateway's callers meant the gateway.
func passesThrough(o *mesh.Outbound) bool {
	return !o.Edge && (o.Service.Resolution == mesh.Passthrough || o.Service.Headless)
}

// policyFor is the traffic policy of a port of a subset: the subset's blocks over the rule's, and those over the mesh's. A port's own
// settings take the place of all that a port can have.
func policyFor(config *mesh.Config, rule *mesh.DestinationRule, port uint32, subset mesh.Subset) *networking.TrafficPolicy {
	if rule == nil {
		return config.Traffic
	}
	merged := overlay(rule.Policy, subset.Policy)
	for _, level := range merged.GetPortLevelSettings() {
		if level.GetPort().GetNumber() == port {
			merged = &networking.TrafficPolicy{LoadBalancer: level.LoadBalancer, ConnectionPool: level.ConnectionPool, OutlierDetection: level.OutlierDetection, Tls: level.Tls,
				Tunnel: merged.Tunnel, ProxyProtocol: merged.ProxyProtocol, RetryBudget: merged.RetryBudget}
			break
		}
	}
	return overlay(config.Traffic, merged)
}

func overlay(base, over *networking.TrafficPolicy) *networking.TrafficPolicy {
	if over == nil {
		return base
	}
	if base == nil {
		return over
	}
	return &networking.TrafficPolicy{LoadBalancer: either(over.LoadBalancer, base.LoadBalancer), ConnectionPool: either(over.ConnectionPool, base.ConnectionPool),
		OutlierDetection: either(over.OutlierDetection, base.OutlierDetection), Tls: either(over.Tls, base.Tls), Tunnel: either(over.Tunnel, base.Tunnel),
		ProxyProtocol: either(over.ProxyProtocol, base.ProxyProtocol), RetryBudget: either(over.RetryBudget, base.RetryBudget),
		PortLevelSettings: eitherList(over.PortLevelSettings, base.PortLevelSettings)}
}

// either is the first where there is one.
func either[T any](a, b *T) *T {
	if a != nil {
		return a
	}
	return b
}

func eitherList[T any](a, b []T) []T {
	if len(a) > 0 {
		return a
	}
	return b
}

// fixedClusters are those that every outbound view has.
func fixedClusters(config *mesh.Config) []*Resource {
	passthrough := &cluster.Cluster{
		Name: PassthroughCluster, ClusterDiscoveryType: &cluster.Cluster_Type{Type: cluster.Cluster_ORIGINAL_DST}, LbPolicy: cluster.Cluster_CLUSTER_PROVIDED,
		ConnectTimeout: millis(config.ConnectTimeoutMillis), TypedExtensionProtocolOptions: asItCame(config),
	}
	pool(passthrough, config, nil)
	blackHole := &cluster.Cluster{
		Name: BlackHoleCluster, ClusterDiscoveryType: &cluster.Cluster_Type{Type: cluster.Cluster_STATIC}, ConnectTimeout: millis(config.ConnectTimeoutMillis),
	}
	out := []*Resource{NewResource(PassthroughCluster, passthrough), NewResource(BlackHoleCluster, blackHole)}
	if config.ResolveOutside {
		out = append(out, anyByName(config))
	}
	return out
}
