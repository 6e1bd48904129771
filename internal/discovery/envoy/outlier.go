package envoy

import (
	"strings"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	match "github.com/envoyproxy/go-control-plane/envoy/config/common/matcher/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	upstream "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	matcher "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"
	networking "istio.io/api/networking/v1alpha3"
)

// detectOutliers takes endpoints that fail out of the cluster for a while. Envoy's panic, which sends to all when many are out, is
// off unless minHealthPercent asks for it.
func detectOutliers(c *cluster.Cluster, settings *networking.OutlierDetection) {
	if settings == nil {
		return
	}
	out := &cluster.OutlierDetection{EnforcingSuccessRate: u32(0), Interval: settings.Interval, BaseEjectionTime: settings.BaseEjectionTime}
	if n := settings.Consecutive_5XxErrors; n != nil {
		out.Consecutive_5Xx, out.EnforcingConsecutive_5Xx = n, enforce(n.Value)
	}
	gateway := settings.ConsecutiveGatewayErrors
	if n := settings.ConsecutiveErrors; gateway == nil && n > 0 { // what older documents write
		gateway = u32(uint32(n))
	}
	if gateway != nil {
		out.ConsecutiveGatewayFailure, out.EnforcingConsecutiveGatewayFailure = gateway, enforce(gateway.Value)
	}
	if settings.SplitExternalLocalOriginErrors {
		out.SplitExternalLocalOriginErrors = true
		if n := settings.ConsecutiveLocalOriginFailures; n != nil {
			out.ConsecutiveLocalOriginFailure, out.EnforcingConsecutiveLocalOriginFailure = n, enforce(n.Value)
		}
		out.EnforcingLocalOriginSuccessRate = u32(0)
	}
	if settings.MaxEjectionPercent > 0 {
		out.MaxEjectionPercent = u32(uint32(settings.MaxEjectionPercent))
	}
	c.OutlierDetection = out
	common(c).HealthyPanicThreshold = &typev3.Percent{Value: float64(max(settings.MinHealthPercent, 0))}
}

// common is the part of a cluster's balancing that all policies have.
func common(c *cluster.Cluster) *cluster.Cluster_CommonLbConfig {
	if c.CommonLbConfig == nil {
		c.CommonLbConfig = &cluster.Cluster_CommonLbConfig{}
	}
	return c.CommonLbConfig
}

func enforce(n uint32) *wrapperspb.UInt32Value {
	if n == 0 {
		return u32(0)
	}
	return u32(100)
}

// failures says which answers count as errors where the rule names them; otherwise those from 500 on do.
func failures(settings *networking.OutlierDetection) *upstream.HttpProtocolOptions_OutlierDetection {
	codes := settings.GetOutlierDetectionHttpErrorCodes()
	if len(codes) == 0 {
		return nil
	}
	texts := make([]string, len(codes))
	for i, code := range codes {
		texts[i] = itoa(code)
	}
	status := &route.HeaderMatcher{Name: ":status", HeaderMatchSpecifier: &route.HeaderMatcher_StringMatch{StringMatch: &matcher.StringMatcher{
		MatchPattern: &matcher.StringMatcher_SafeRegex{SafeRegex: regex(strings.Join(texts, "|"))}}}}
	return &upstream.HttpProtocolOptions_OutlierDetection{ErrorMatcher: &match.MatchPredicate{Rule: &match.MatchPredicate_HttpResponseHeadersMatch{
		HttpResponseHeadersMatch: &match.HttpHeadersMatch{Headers: []*route.HeaderMatcher{status}}}}}
}
