package envoy

import (
	"math"
	"time"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	upstream "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	networking "istio.io/api/networking/v1alpha3"

	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
)

// pool limits what is open to the cluster at once. Without a limit there is none: Envoy's own would surprise.
func pool(c *cluster.Cluster, config *mesh.Config, policy *networking.TrafficPolicy) {
	limit := func(n int32) uint32 {
		if n > 0 {
			return uint32(n)
		}
		return math.MaxUint32
	}
	tcp, http := policy.GetConnectionPool().GetTcp(), policy.GetConnectionPool().GetHttp()
	thresholds := &cluster.CircuitBreakers_Thresholds{
		MaxConnections: u32(limit(tcp.GetMaxConnections())), MaxPendingRequests: u32(limit(http.GetHttp1MaxPendingRequests())),
		MaxRequests: u32(limit(http.GetHttp2MaxRequests())), MaxRetries: u32(limit(http.GetMaxRetries())), TrackRemaining: true,
	}
	if budget := policy.GetRetryBudget(); budget != nil {
		thresholds.MaxRetries, thresholds.RetryBudget = nil, retryBudget(budget)
	}
	c.CircuitBreakers = &cluster.CircuitBreakers{Thresholds: []*cluster.CircuitBreakers_Thresholds{thresholds}}
	if t := tcp.GetConnectTimeout(); t != nil {
		c.ConnectTimeout = t
	}
	keep := tcp.GetTcpKeepalive()
	if keep == nil {
		keep = config.Keepalive
	}
	if keep != nil {
		c.UpstreamConnectionOptions = &cluster.UpstreamConnectionOptions{TcpKeepalive: keepalive(keep)}
	}
}

// retryBudget is a share of the requests under way; at least three retries may always run, as Envoy has it.
func retryBudget(budget *networking.TrafficPolicy_RetryBudget) *cluster.CircuitBreakers_Thresholds_RetryBudget {
	share := 20.0
	if budget.Percent != nil {
		share = budget.Percent.Value
	}
	out := &cluster.CircuitBreakers_Thresholds_RetryBudget{BudgetPercent: &typev3.Percent{Value: share}, BudgetInterval: budget.BudgetInterval}
	if budget.MinRetryConcurrency > 0 {
		out.MinRetryConcurrency = u32(budget.MinRetryConcurrency)
	}
	return out
}

func keepalive(keep *networking.ConnectionPoolSettings_TCPSettings_TcpKeepalive) *core.TcpKeepalive {
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
	return k
}

const httpOptions = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

// pingTimeout is how long an answer to a ping is waited for where no rule says; Envoy needs a time.
const pingTimeout = 10 * time.Second

// protocol says how requests are spoken upstream: as the port says, or as they came where it does not, and with what limits.
func protocol(c *cluster.Cluster, config *mesh.Config, port mesh.Port, policy *networking.TrafficPolicy) {
	settings := policy.GetConnectionPool().GetHttp()
	http2 := &core.Http2ProtocolOptions{}
	if n := settings.GetMaxConcurrentStreams(); n > 0 {
		http2.MaxConcurrentStreams = u32(uint32(n))
	}
	if keep := settings.GetHttp2KeepAlive(); keep != nil {
		http2.ConnectionKeepalive = &core.KeepaliveSettings{Interval: keep.Interval, Timeout: either(keep.Timeout, durationpb.New(pingTimeout))}
	}
	options := &upstream.HttpProtocolOptions{CommonHttpProtocolOptions: commonOptions(policy), UpstreamHttpProtocolOptions: serverName(policy.GetTls()), OutlierDetection: failures(policy.GetOutlierDetection())}
	switch {
	case settings.GetUseClientProtocol() && port.Protocol.IsHTTP(), port.Protocol == mesh.Auto:
		options.UpstreamProtocolOptions = useDownstream(config, http2)
	case port.Protocol.IsHTTP2() || port.Protocol == mesh.HTTP && upgrades(config, settings):
		options.UpstreamProtocolOptions = explicitly(&upstream.HttpProtocolOptions_ExplicitHttpConfig{
			ProtocolConfig: &upstream.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{Http2ProtocolOptions: http2}})
	case options.CommonHttpProtocolOptions == nil && options.UpstreamHttpProtocolOptions == nil && options.OutlierDetection == nil && !config.Settings.KeepsCase():
		return
	default:
		options.UpstreamProtocolOptions = explicitly(&upstream.HttpProtocolOptions_ExplicitHttpConfig{
			ProtocolConfig: &upstream.HttpProtocolOptions_ExplicitHttpConfig_HttpProtocolOptions{HttpProtocolOptions: http1(config.Settings)}})
	}
	c.TypedExtensionProtocolOptions = map[string]*anypb.Any{httpOptions: pack(options)}
}

// upgrades says whether HTTP/1.1 is spoken to the cluster as HTTP/2.
func upgrades(config *mesh.Config, settings *networking.ConnectionPoolSettings_HTTPSettings) bool {
	switch settings.GetH2UpgradePolicy() {
	case networking.ConnectionPoolSettings_HTTPSettings_UPGRADE:
		return true
	case networking.ConnectionPoolSettings_HTTPSettings_DO_NOT_UPGRADE:
		return false
	}
	return config.H2Upgrade
}

// commonOptions are the limits of a connection's life; nil where there are none.
func commonOptions(policy *networking.TrafficPolicy) *core.HttpProtocolOptions {
	http, tcp := policy.GetConnectionPool().GetHttp(), policy.GetConnectionPool().GetTcp()
	if http.GetIdleTimeout() == nil && http.GetMaxRequestsPerConnection() <= 0 && tcp.GetMaxConnectionDuration() == nil {
		return nil
	}
	out := &core.HttpProtocolOptions{IdleTimeout: http.GetIdleTimeout(), MaxConnectionDuration: tcp.GetMaxConnectionDuration()}
	if n := http.GetMaxRequestsPerConnection(); n > 0 {
		out.MaxRequestsPerConnection = u32(uint32(n))
	}
	return out
}

// serverName makes a TLS that names no server ask for the one that the request is for, and look for it in the certificate.
func serverName(tls *networking.ClientTLSSettings) *core.UpstreamHttpProtocolOptions {
	originates := tls.GetMode() == networking.ClientTLSSettings_SIMPLE || tls.GetMode() == networking.ClientTLSSettings_MUTUAL
	if !originates || tls.Sni != "" {
		return nil
	}
	return &core.UpstreamHttpProtocolOptions{AutoSni: true, AutoSanValidation: len(tls.SubjectAltNames) == 0 && !tls.GetInsecureSkipVerify().GetValue()}
}

func explicitly(config *upstream.HttpProtocolOptions_ExplicitHttpConfig) *upstream.HttpProtocolOptions_ExplicitHttpConfig_ {
	return &upstream.HttpProtocolOptions_ExplicitHttpConfig_{ExplicitHttpConfig: config}
}

func useDownstream(config *mesh.Config, http2 *core.Http2ProtocolOptions) *upstream.HttpProtocolOptions_UseDownstreamProtocolConfig {
	return &upstream.HttpProtocolOptions_UseDownstreamProtocolConfig{
		UseDownstreamProtocolConfig: &upstream.HttpProtocolOptions_UseDownstreamHttpConfig{HttpProtocolOptions: http1(config.Settings), Http2ProtocolOptions: http2},
	}
}

// asItCame is for clusters whose protocol nobody says.
func asItCame(config *mesh.Config) map[string]*anypb.Any {
	return map[string]*anypb.Any{httpOptions: pack(&upstream.HttpProtocolOptions{UpstreamProtocolOptions: useDownstream(config, &core.Http2ProtocolOptions{})})}
}
