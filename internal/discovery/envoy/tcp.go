package envoy

import (
	"strings"

	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	tcp "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	networking "istio.io/api/networking/v1alpha3"

	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
)

const tcpProxyName = "envoy.filters.network.tcp_proxy"

// tcpTo proxies connections to a cluster.
func tcpTo(s side, cluster string) *listener.Filter {
	return tcpInto(s, cluster, nil)
}

// tcpInto proxies connections to the application, for as long as its limits let them last.
func tcpInto(s side, cluster string, limits *networking.ConnectionPoolSettings) *listener.Filter {
	return tcpFilter(logged(s, &tcp.TcpProxy{StatPrefix: cluster, ClusterSpecifier: &tcp.TcpProxy_Cluster{Cluster: cluster},
		IdleTimeout: limits.GetTcp().GetIdleTimeout(), MaxDownstreamConnectionDuration: limits.GetTcp().GetMaxConnectionDuration()}))
}

func tcpFilter(proxy *tcp.TcpProxy) *listener.Filter { return networkFilter(tcpProxyName, proxy) }

func networkFilter(name string, message proto.Message) *listener.Filter {
	return &listener.Filter{Name: name, ConfigType: &listener.Filter_TypedConfig{TypedConfig: pack(message)}}
}

// logged makes a filter tell of its connections.
func logged(s side, proxy *tcp.TcpProxy) *tcp.TcpProxy {
	proxy.AccessLog = s.connectionLogs()
	if s.counts {
		proxy.AccessLogOptions = &tcp.TcpProxy_TcpAccessLogOptions{FlushAccessLogOnConnected: true}
	}
	return proxy
}

// tcpToAny proxies connections to destinations by weight. What their rules say of connections is taken from the first one's.
func tcpToAny(config *mesh.Config, destinations []mesh.Destination, lookup Lookup) []*listener.Filter {
	first := destinations[0]
	proxy := &tcp.TcpProxy{StatPrefix: clusterOf(first), ClusterSpecifier: &tcp.TcpProxy_Cluster{Cluster: clusterOf(first)}}
	logged(outboundSide(config, lookup.Flavour), proxy)
	if len(destinations) > 1 {
		weighted := &tcp.TcpProxy_WeightedCluster{}
		for _, d := range destinations {
			if d.Weight > 0 {
				weighted.Clusters = append(weighted.Clusters, &tcp.TcpProxy_WeightedCluster_ClusterWeight{Name: clusterOf(d), Weight: d.Weight})
			}
		}
		proxy.ClusterSpecifier = &tcp.TcpProxy_WeightedClusters{WeightedClusters: weighted}
	}
	policy := lookup.policy(config, first)
	settings := policy.GetConnectionPool().GetTcp()
	proxy.IdleTimeout, proxy.MaxDownstreamConnectionDuration = settings.GetIdleTimeout(), settings.GetMaxConnectionDuration()
	if policy.GetLoadBalancer().GetConsistentHash().GetUseSourceIp() {
		proxy.HashPolicy = []*typev3.HashPolicy{{PolicySpecifier: &typev3.HashPolicy_SourceIp_{SourceIp: &typev3.HashPolicy_SourceIp{}}}}
	}
	proxy.TunnelingConfig = tunnel(policy.GetTunnel())
	return append(findServer(config, destinations, lookup), tcpFilter(proxy))
}

// tunnel carries connections through an HTTP proxy to the host that the rule names.
func tunnel(settings *networking.TrafficPolicy_TunnelSettings) *tcp.TcpProxy_TunnelingConfig {
	if settings == nil {
		return nil
	}
	return &tcp.TcpProxy_TunnelingConfig{Hostname: settings.TargetHost + ":" + itoa(settings.TargetPort), UsePost: strings.EqualFold(settings.Protocol, "POST")}
}

func clusterOf(d mesh.Destination) string { return mesh.ClusterName(d.Host, d.Subset, d.Port) }
