package envoy

import (
	"math"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	upstream "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
	networking "istio.io/api/networking/v1alpha3"

	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
)

// The clusters that every proxy has.
const (
	PassthroughCluster        = "PassthroughCluster"
	BlackHoleCluster          = "BlackHoleCluster"
	InboundPassthroughCluster = "InboundPassthroughCluster"
)

// clusters makes those of a host: one a port, and one a port and subset.
func clusters(config *mesh.Config, o *mesh.Outbound, endpoints *mesh.Endpoints) []*Resource {
	if o.Service == nil {
		return nil
	}
	var out []*Resource
	for _, port := range o.Service.Ports {
		out = appendCluster(out, config, o, endpoints, port, mesh.Subset{})
		if o.Rule != nil {
			for _, subset := range o.Rule.Subsets {
				out = appendCluster(out, config, o, endpoints, port, subset)
			}
		}
	}
	return out
}

func appendCluster(out []*Resource, config *mesh.Config, o *mesh.Outbound, endpoints *mesh.Endpoints, port mesh.Port, subset mesh.Subset) []*Resource {
	name := mesh.ClusterName(o.Host, subset.Name, port.Number)
	c := &cluster.Cluster{Name: name, ConnectTimeout: millis(config.ConnectTimeoutMillis)}
	if !discover(c, o, endpoints, port, subset) {
		return out
	}
	policy := policyFor(o.Rule, port.Number, subset)
	balance(c, policy.GetLoadBalancer())
	pool(c, policy.GetConnectionPool())
	detectOutliers(c, policy.GetOutlierDetection())
	secure(c, config, o, port, subset, policy.GetTls())
	protocol(c, port, policy)
	if o.Rule != nil {
		c.Metadata = ownerMetadata(o.Rule.Owner, "destination-rule")
	} else {
		c.Metadata = &core.Metadata{FilterMetadata: map[string]*structpb.Struct{"istio": {}}}
	}
	c.Metadata.FilterMetadata["istio"] = withServices(c.Metadata.FilterMetadata["istio"], o)
	return append(out, NewResource(name, c))
}

// withServices names the service, as istio-proxy's telemetry and Kiali read it.
func withServices(s *structpb.Struct, o *mesh.Outbound) *structpb.Struct {
	if s.Fields == nil {
		s.Fields = map[string]*structpb.Value{}
	}
	s.Fields["services"] = structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{structpb.NewStructValue(&structpb.Struct{
		Fields: map[string]*structpb.Value{
			"host": structpb.NewStringValue(o.Host), "name": structpb.NewStringValue(o.Service.Name), "namespace": structpb.NewStringValue(o.Service.Namespace),
		},
	})}})
	return s
}

// discover says where the cluster's endpoints come from; false if it could have none, which Envoy would refuse.
func discover(c *cluster.Cluster, o *mesh.Outbound, endpoints *mesh.Endpoints, port mesh.Port, subset mesh.Subset) bool {
	kind, service := cluster.Cluster_EDS, o.Service
	switch {
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
		assignment := loadAssignment(c.Name, endpoints, port.Number, subset, true)
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
		c.DnsRefreshRate = millis(60_000)
		c.RespectDnsTtl = true
	}
	return true
}

// passesThrough says that connections go where the caller meant: to a pod of a headless service, or to any host of an entry
// without resolution. A gateway's callers meant the gateway.
func passesThrough(o *mesh.Outbound) bool {
	return !o.Edge && (o.Service.Resolution == mesh.Passthrough || o.Service.Headless)
}

// policyFor is the traffic policy of a port of a subset: the subset's blocks over the rule's, and a port's own settings
// in place of both.
func policyFor(rule *mesh.DestinationRule, port uint32, subset mesh.Subset) *networking.TrafficPolicy {
	if rule == nil {
		return nil
	}
	merged := overlay(rule.Policy, subset.Policy)
	for _, level := range merged.GetPortLevelSettings() {
		if level.GetPort().GetNumber() == port {
			return &networking.TrafficPolicy{LoadBalancer: level.LoadBalancer, ConnectionPool: level.ConnectionPool,
				OutlierDetection: level.OutlierDetection, Tls: level.Tls}
		}
	}
	return merged
}

func overlay(base, over *networking.TrafficPolicy) *networking.TrafficPolicy {
	if over == nil {
		return base
	}
	if base == nil {
		return over
	}
	out := &networking.TrafficPolicy{LoadBalancer: base.LoadBalancer, ConnectionPool: base.ConnectionPool,
		OutlierDetection: base.OutlierDetection, Tls: base.Tls, PortLevelSettings: base.PortLevelSettings}
	if over.LoadBalancer != nil {
		out.LoadBalancer = over.LoadBalancer
	}
	if over.ConnectionPool != nil {
		out.ConnectionPool = over.ConnectionPool
	}
	if over.OutlierDetection != nil {
		out.OutlierDetection = over.OutlierDetection
	}
	if over.Tls != nil {
		out.Tls = over.Tls
	}
	if len(over.PortLevelSettings) > 0 {
		out.PortLevelSettings = over.PortLevelSettings
	}
	return out
}

var simplePolicies = map[networking.LoadBalancerSettings_SimpleLB]cluster.Cluster_LbPolicy{
	networking.LoadBalancerSettings_UNSPECIFIED: cluster.Cluster_LEAST_REQUEST, networking.LoadBalancerSettings_LEAST_CONN: cluster.Cluster_LEAST_REQUEST,
	networking.LoadBalancerSettings_LEAST_REQUEST: cluster.Cluster_LEAST_REQUEST, networking.LoadBalancerSettings_RANDOM: cluster.Cluster_RANDOM,
	networking.LoadBalancerSettings_ROUND_ROBIN: cluster.Cluster_ROUND_ROBIN,
}

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
		c.LbPolicy = cluster.Cluster_RING_HASH
		if hash.GetMaglev() != nil {
			c.LbPolicy = cluster.Cluster_MAGLEV
		}
	}
}

func pool(c *cluster.Cluster, settings *networking.ConnectionPoolSettings) {
	limit := func(n int32) uint32 {
		if n > 0 {
			return uint32(n)
		}
		return math.MaxUint32
	}
	tcp, http := settings.GetTcp(), settings.GetHttp()
	c.CircuitBreakers = &cluster.CircuitBreakers{Thresholds: []*cluster.CircuitBreakers_Thresholds{{
		MaxConnections: u32(limit(tcp.GetMaxConnections())), MaxPendingRequests: u32(limit(http.GetHttp1MaxPendingRequests())),
		MaxRequests: u32(limit(http.GetHttp2MaxRequests())), MaxRetries: u32(limit(http.GetMaxRetries())), TrackRemaining: true,
	}}}
	if t := tcp.GetConnectTimeout(); t != nil {
		c.ConnectTimeout = t
	}
	if keep := tcp.GetTcpKeepalive(); keep != nil {
		k := &core.TcpKeepalive{}
		if keep.Probes > 0 {
			k.KeepaliveProbes = u32(keep.Probes)
		}
		if keep.Time != nil {
			k.KeepaliveTime = u32(uint32(keep.Time.Seconds))
		}
		if keep.Interval != nil {
			k.KeepaliveInterval = u32(uint32(keep.Interval.Seconds))
		}
		c.UpstreamConnectionOptions = &cluster.UpstreamConnectionOptions{TcpKeepalive: k}
	}
}

func detectOutliers(c *cluster.Cluster, settings *networking.OutlierDetection) {
	if settings == nil {
		return
	}
	out := &cluster.OutlierDetection{EnforcingSuccessRate: u32(0), Interval: settings.Interval, BaseEjectionTime: settings.BaseEjectionTime}
	if n := settings.Consecutive_5XxErrors; n != nil {
		out.Consecutive_5Xx, out.EnforcingConsecutive_5Xx = n, enforce(n.Value)
	}
	if n := settings.ConsecutiveGatewayErrors; n != nil {
		out.ConsecutiveGatewayFailure, out.EnforcingConsecutiveGatewayFailure = n, enforce(n.Value)
	}
	if settings.MaxEjectionPercent > 0 {
		out.MaxEjectionPercent = u32(uint32(settings.MaxEjectionPercent))
	}
	c.OutlierDetection = out
}

func enforce(n uint32) *wrapperspb.UInt32Value {
	if n == 0 {
		return u32(0)
	}
	return u32(100)
}

// protocol says how requests are spoken upstream. Where it is not known, as they came.
func protocol(c *cluster.Cluster, port mesh.Port, policy *networking.TrafficPolicy) {
	http2 := &core.Http2ProtocolOptions{}
	var options *upstream.HttpProtocolOptions
	upgrade := policy.GetConnectionPool().GetHttp().GetH2UpgradePolicy() == networking.ConnectionPoolSettings_HTTPSettings_UPGRADE
	switch {
	case port.Protocol.IsHTTP2() || upgrade && port.Protocol == mesh.HTTP:
		options = &upstream.HttpProtocolOptions{UpstreamProtocolOptions: &upstream.HttpProtocolOptions_ExplicitHttpConfig_{
			ExplicitHttpConfig: &upstream.HttpProtocolOptions_ExplicitHttpConfig{ProtocolConfig: &upstream.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{Http2ProtocolOptions: http2}},
		}}
	case port.Protocol == mesh.Auto:
		options = useDownstream()
	default:
		return
	}
	c.TypedExtensionProtocolOptions = map[string]*anypb.Any{httpOptions: pack(options)}
}

const httpOptions = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

func useDownstream() *upstream.HttpProtocolOptions {
	return &upstream.HttpProtocolOptions{UpstreamProtocolOptions: &upstream.HttpProtocolOptions_UseDownstreamProtocolConfig{
		UseDownstreamProtocolConfig: &upstream.HttpProtocolOptions_UseDownstreamHttpConfig{
			HttpProtocolOptions: &core.Http1ProtocolOptions{}, Http2ProtocolOptions: &core.Http2ProtocolOptions{},
		},
	}}
}

// fixedClusters are those that every outbound view has.
func fixedClusters(config *mesh.Config) []*Resource {
	passthrough := &cluster.Cluster{
		Name: PassthroughCluster, ClusterDiscoveryType: &cluster.Cluster_Type{Type: cluster.Cluster_ORIGINAL_DST}, LbPolicy: cluster.Cluster_CLUSTER_PROVIDED,
		ConnectTimeout: millis(config.ConnectTimeoutMillis), TypedExtensionProtocolOptions: map[string]*anypb.Any{httpOptions: pack(useDownstream())},
	}
	pool(passthrough, nil)
	blackHole := &cluster.Cluster{
		Name: BlackHoleCluster, ClusterDiscoveryType: &cluster.Cluster_Type{Type: cluster.Cluster_STATIC}, ConnectTimeout: millis(config.ConnectTimeoutMillis),
	}
	return []*Resource{NewResource(PassthroughCluster, passthrough), NewResource(BlackHoleCluster, blackHole)}
}
