package envoy

import (
	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	dynamiccluster "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/dynamic_forward_proxy/v3"
	dynamic "github.com/envoyproxy/go-control-plane/envoy/extensions/common/dynamic_forward_proxy/v3"
	snidynamic "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/sni_dynamic_forward_proxy/v3"
	networking "istio.io/api/networking/v1alpha3"

	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
)

// AllowAnyDynamicDNSCluster takes requests for hosts in no registry to where DNS says that the hosts are.
const AllowAnyDynamicDNSCluster = "AllowAnyDynamicDNSCluster"

// findByName makes Envoy look up the host of each request, or the server name of each connection. It does so by itself: the HTTP filter
// that once had to be in every listener for it is not needed. Requests go to the port that their host has, or else to that of their scheme.
// https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/http/http_proxy
func findByName(c *cluster.Cluster, config *mesh.Config) {
	c.LbPolicy = cluster.Cluster_CLUSTER_PROVIDED
	c.ClusterDiscoveryType = &cluster.Cluster_ClusterType{ClusterType: &cluster.Cluster_CustomClusterType{
		Name: "envoy.clusters.dynamic_forward_proxy",
		TypedConfig: pack(&dynamiccluster.ClusterConfig{
			ClusterImplementationSpecifier: &dynamiccluster.ClusterConfig_DnsCacheConfig{DnsCacheConfig: namesFound(config)},
			AllowInsecureClusterOptions:    true, // secure says whether there is TLS, and serverName whom it is with
		}),
	}}
}

// namesFound are the addresses that a proxy found. Two with one name must be equal, and clusters change one by one: so the name has all
// that may be different.
func namesFound(config *mesh.Config) *dynamic.DnsCacheConfig {
	refresh := millis(config.DNSRefreshMillis)
	return &dynamic.DnsCacheConfig{Name: "every_" + refresh.AsDuration().String(), DnsLookupFamily: cluster.Cluster_V4_PREFERRED, DnsRefreshRate: refresh}
}

// findServer is what comes before a connection's proxy where its server's name is to be looked up; nothing for other destinations.
func findServer(config *mesh.Config, destinations []mesh.Destination, lookup Lookup) []*listener.Filter {
	for _, d := range destinations {
		o := lookup.Outbound(d.Host)
		if o == nil || o.Service == nil || o.Service.Resolution != mesh.DynamicDNS {
			continue
		}
		number := d.Port
		if port, ok := o.Service.PortByNumber(d.Port); ok && port.TargetPort != 0 {
			number = port.TargetPort
		}
		return []*listener.Filter{networkFilter("envoy.filters.network.sni_dynamic_forward_proxy", &snidynamic.FilterConfig{
			DnsCacheConfig: namesFound(config), PortSpecifier: &snidynamic.FilterConfig_PortValue{PortValue: number}})}
	}
	return nil
}

// anyByName is the cluster of all hosts in no registry.
func anyByName(config *mesh.Config) *Resource {
	c := &cluster.Cluster{Name: AllowAnyDynamicDNSCluster, ConnectTimeout: millis(config.ConnectTimeoutMillis)}
	findByName(c, config)
	policy := &networking.TrafficPolicy{Tls: config.OutsideTLS}
	nowhere := mesh.Port{Protocol: mesh.Auto}
	pool(c, config, policy)
	secure(c, config, &mesh.Outbound{Service: &mesh.Service{}}, nowhere, mesh.Subset{}, policy.Tls)
	protocol(c, config, nowhere, policy)
	return NewResource(c.Name, c)
}
