package envoy

import (
	"math"
	"sort"
	"strconv"
	"strings"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	commonfault "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/fault/v3"
	cors "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	fault "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	previous "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/previous_hosts/v3"
	priorities "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/priority/previous_priorities/v3"
	matcher "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	networking "istio.io/api/networking/v1alpha3"
)

func previousHosts() *route.RetryPolicy_RetryHostPredicate {
	return &route.RetryPolicy_RetryHostPredicate{Name: "envoy.retry_host_predicates.previous_hosts",
		ConfigType: &route.RetryPolicy_RetryHostPredicate_TypedConfig{TypedConfig: pack(&previous.PreviousHostsPredicate{})}}
}

func previousPriorities() *route.RetryPolicy_RetryPriority {
	return &route.RetryPolicy_RetryPriority{Name: "envoy.retry_priorities.previous_priorities",
		ConfigType: &route.RetryPolicy_RetryPriority_TypedConfig{TypedConfig: pack(&priorities.PreviousPrioritiesConfig{UpdateFrequency: 2})}}
}

// percent is a share in millionths, which Istio's decimals need.
func percent(value float64) *typev3.FractionalPercent {
	return &typev3.FractionalPercent{Numerator: uint32(math.Round(value * 10_000)), Denominator: typev3.FractionalPercent_MILLION}
}

// headerChanges: set overwrites, add appends. The host is changed by a rewrite; other pseudo headers cannot be.
func headerChanges(h *networking.Headers_HeaderOperations) ([]*core.HeaderValueOption, []string) {
	var out []*core.HeaderValueOption
	for _, group := range []struct {
		values map[string]string
		action core.HeaderValueOption_HeaderAppendAction
	}{{h.GetSet(), core.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD}, {h.GetAdd(), core.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD}} {
		names := make([]string, 0, len(group.values))
		for name := range group.values {
			if !strings.HasPrefix(name, ":") && !strings.EqualFold(name, "host") {
				names = append(names, name)
			}
		}
		sort.Strings(names)
		for _, name := range names {
			out = append(out, &core.HeaderValueOption{Header: &core.HeaderValue{Key: name, Value: group.values[name]}, AppendAction: group.action})
		}
	}
	var remove []string
	for _, name := range h.GetRemove() {
		if !strings.HasPrefix(name, ":") && !strings.EqualFold(name, "host") {
			remove = append(remove, name)
		}
	}
	return out, remove
}

// hostOverride is the host that request headers set.
func hostOverride(h *networking.Headers) string {
	for name, value := range h.GetRequest().GetSet() {
		if strings.EqualFold(name, "host") || name == ":authority" {
			return value
		}
	}
	return ""
}

func regexRewrite(r *networking.RegexRewrite) *matcher.RegexMatchAndSubstitute {
	return &matcher.RegexMatchAndSubstitute{Pattern: regex(r.Match), Substitution: r.Rewrite}
}

// faultFilter: percentage counts; older documents write percent; neither is all requests.
func faultFilter(f *networking.HTTPFaultInjection) *fault.HTTPFault {
	if f == nil {
		return nil
	}
	out := &fault.HTTPFault{}
	if d := f.Delay; d.GetFixedDelay() != nil {
		out.Delay = &commonfault.FaultDelay{Percentage: faultPercent(d.Percentage, d.Percent),
			FaultDelaySecifier: &commonfault.FaultDelay_FixedDelay{FixedDelay: d.GetFixedDelay()}}
	}
	if a := f.Abort; a != nil {
		out.Abort = &fault.FaultAbort{Percentage: faultPercent(a.Percentage, 0)}
		switch kind := a.ErrorType.(type) {
		case *networking.HTTPFaultInjection_Abort_HttpStatus:
			out.Abort.ErrorType = &fault.FaultAbort_HttpStatus{HttpStatus: uint32(kind.HttpStatus)}
		case *networking.HTTPFaultInjection_Abort_GrpcStatus:
			out.Abort.ErrorType = &fault.FaultAbort_GrpcStatus{GrpcStatus: grpcCodes[kind.GrpcStatus]}
		default:
			out.Abort = nil
		}
	}
	if out.Delay == nil && out.Abort == nil {
		return nil
	}
	return out
}

func faultPercent(p *networking.Percent, legacy int32) *typev3.FractionalPercent {
	switch {
	case p != nil:
		return percent(p.Value)
	case legacy > 0:
		return percent(float64(legacy))
	}
	return percent(100)
}

// grpcCodes are gRPC's status names as VirtualServices write them.
var grpcCodes = map[string]uint32{
	"CANCELLED": 1, "UNKNOWN": 2, "INVALID_ARGUMENT": 3, "DEADLINE_EXCEEDED": 4, "NOT_FOUND": 5, "ALREADY_EXISTS": 6, "PERMISSION_DENIED": 7,
	"RESOURCE_EXHAUSTED": 8, "FAILED_PRECONDITION": 9, "ABORTED": 10, "OUT_OF_RANGE": 11, "UNIMPLEMENTED": 12, "INTERNAL": 13,
	"UNAVAILABLE": 14, "DATA_LOSS": 15, "UNAUTHENTICATED": 16,
}

func corsPolicy(c *networking.CorsPolicy) *cors.CorsPolicy {
	if c == nil {
		return nil
	}
	out := &cors.CorsPolicy{
		AllowMethods: strings.Join(c.AllowMethods, ","), AllowHeaders: strings.Join(c.AllowHeaders, ","),
		ExposeHeaders: strings.Join(c.ExposeHeaders, ","), AllowCredentials: c.AllowCredentials,
	}
	for _, origin := range c.AllowOrigins {
		out.AllowOriginStringMatch = append(out.AllowOriginStringMatch, stringMatch(origin))
	}
	for _, origin := range c.AllowOrigin {
		out.AllowOriginStringMatch = append(out.AllowOriginStringMatch, exact(origin))
	}
	if c.UnmatchedPreflights == networking.CorsPolicy_IGNORE {
		out.ForwardNotMatchingPreflights = boolean(false)
	}
	if c.MaxAge != nil {
		out.MaxAge = strconv.FormatInt(c.MaxAge.Seconds, 10)
	}
	return out
}

func cookieAttributes(cookie *networking.LoadBalancerSettings_ConsistentHashLB_HTTPCookie) []*route.RouteAction_HashPolicy_CookieAttribute {
	var out []*route.RouteAction_HashPolicy_CookieAttribute
	for _, a := range cookie.Attributes {
		if a.Name == "" {
			continue // it says nothing, and Envoy would refuse it
		}
		out = append(out, &route.RouteAction_HashPolicy_CookieAttribute{Name: a.Name, Value: a.Value})
	}
	return out
}

// hashPolicies are what a DestinationRule's consistent hash looks at.
func hashPolicies(policy *networking.TrafficPolicy) []*route.RouteAction_HashPolicy {
	hash := policy.GetLoadBalancer().GetConsistentHash()
	if hash.GetHttpHeaderName()+hash.GetHttpCookie().GetName()+hash.GetHttpQueryParameterName() == "" && !hash.GetUseSourceIp() {
		return nil // it names nothing
	}
	switch key := hash.GetHashKey().(type) {
	case *networking.LoadBalancerSettings_ConsistentHashLB_HttpHeaderName:
		return []*route.RouteAction_HashPolicy{{PolicySpecifier: &route.RouteAction_HashPolicy_Header_{Header: &route.RouteAction_HashPolicy_Header{HeaderName: key.HttpHeaderName}}}}
	case *networking.LoadBalancerSettings_ConsistentHashLB_HttpCookie:
		return []*route.RouteAction_HashPolicy{{PolicySpecifier: &route.RouteAction_HashPolicy_Cookie_{
			Cookie: &route.RouteAction_HashPolicy_Cookie{Name: key.HttpCookie.Name, Path: key.HttpCookie.Path, Ttl: key.HttpCookie.Ttl, Attributes: cookieAttributes(key.HttpCookie)}}}}
	case *networking.LoadBalancerSettings_ConsistentHashLB_UseSourceIp:
		return []*route.RouteAction_HashPolicy{{PolicySpecifier: &route.RouteAction_HashPolicy_ConnectionProperties_{
			ConnectionProperties: &route.RouteAction_HashPolicy_ConnectionProperties{SourceIp: key.UseSourceIp}}}}
	case *networking.LoadBalancerSettings_ConsistentHashLB_HttpQueryParameterName:
		return []*route.RouteAction_HashPolicy{{PolicySpecifier: &route.RouteAction_HashPolicy_QueryParameter_{
			QueryParameter: &route.RouteAction_HashPolicy_QueryParameter{Name: key.HttpQueryParameterName}}}}
	}
	return nil
}
