package envoy

import (
	"fmt"
	"strconv"
	"strings"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	networking "istio.io/api/networking/v1alpha3"

	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
)

// routeContext is what routes depend on beside the VirtualService.
type routeContext struct {
	config *mesh.Config
	port   uint32 // of the listener
	lookup Lookup
}

// routesOf translates a VirtualService's HTTP rules for a listener's port, each match a route, up to the first that
// takes everything.
func routesOf(v *mesh.VirtualService, c routeContext) []*route.Route {
	var out []*route.Route
	for _, rule := range v.HTTP {
		if len(rule.Match) == 0 {
			return append(out, routeOf(v, rule, nil, c))
		}
		for _, m := range rule.Match {
			if m.Port != 0 && m.Port != c.port {
				continue
			}
			out = append(out, routeOf(v, rule, m, c))
			if catchesAll(m) {
				return out
			}
		}
	}
	return out
}

func routeOf(v *mesh.VirtualService, rule *mesh.Route, m *networking.HTTPMatchRequest, c routeContext) *route.Route {
	out := &route.Route{Name: routeName(rule, m), Match: routeMatch(m), StatPrefix: m.GetStatPrefix(), Metadata: ownerMetadata(v.Owner, "virtual-service")}
	headers := rule.Headers
	out.RequestHeadersToAdd, out.RequestHeadersToRemove = headerChanges(headers.GetRequest())
	out.ResponseHeadersToAdd, out.ResponseHeadersToRemove = headerChanges(headers.GetResponse())
	switch {
	case rule.Redirect != nil:
		out.Action = &route.Route_Redirect{Redirect: redirect(rule.Redirect, c.port)}
	case rule.DirectResponse != nil:
		out.Action = &route.Route_DirectResponse{DirectResponse: directResponse(rule.DirectResponse)}
	default:
		out.Action = &route.Route_Route{Route: action(rule, c)}
		out.Decorator = &route.Decorator{Operation: operation(rule, c)}
	}
	out.TypedPerFilterConfig = map[string]*anypb.Any{}
	if f := faultFilter(rule.Fault); f != nil {
		out.TypedPerFilterConfig[faultName] = pack(f)
	}
	if policy := corsPolicy(rule.CORS); policy != nil {
		out.TypedPerFilterConfig["envoy.filters.http.cors"] = pack(policy)
	}
	return out
}

func routeName(rule *mesh.Route, m *networking.HTTPMatchRequest) string {
	if m.GetName() == "" {
		return rule.Name
	}
	if rule.Name == "" {
		return m.Name
	}
	return rule.Name + "." + m.Name
}

func operation(rule *mesh.Route, c routeContext) string {
	if len(rule.Destinations) == 0 {
		return ""
	}
	d := rule.Destinations[0]
	return fmt.Sprintf("%s:%d/*", d.Host, c.destinationPort(d))
}

func (c routeContext) destinationPort(d mesh.Destination) uint32 {
	if d.Port != 0 {
		return d.Port
	}
	if only := c.lookup.onlyPort(d.Host); only != 0 {
		return only
	}
	return c.port
}

func (c routeContext) cluster(d mesh.Destination) string {
	return mesh.ClusterName(d.Host, d.Subset, c.destinationPort(d))
}

func action(rule *mesh.Route, c routeContext) *route.RouteAction {
	out := &route.RouteAction{Timeout: durationpb.New(0), AppendXForwardedHost: c.config.Settings.OfRoutes().TellsHost}
	if rule.TimeoutMillis > 0 {
		out.Timeout = millis(rule.TimeoutMillis)
	}
	out.MaxGrpcTimeout = out.Timeout // its successor, max_stream_duration, would turn the timeout off
	rewrite(out, rule.Rewrite)
	if host := hostOverride(rule.Headers); host != "" {
		out.HostRewriteSpecifier = &route.RouteAction_HostRewriteLiteral{HostRewriteLiteral: host}
	}
	for _, mirror := range rule.Mirrors {
		if mirror.Percent > 0 {
			out.RequestMirrorPolicies = append(out.RequestMirrorPolicies, &route.RouteAction_RequestMirrorPolicy{
				Cluster: c.cluster(mirror.Destination), RuntimeFraction: &core.RuntimeFractionalPercent{DefaultValue: percent(mirror.Percent)},
			})
		}
	}
	destinations(out, rule, c)
	retries := rule.Retries
	if retries == nil {
		retries = c.config.Retries
	}
	out.RetryPolicy = retryPolicy(retries, len(out.HashPolicy) > 0)
	return out
}

// destinations: one takes all whatever its weight; of several, those without a weight take nothing.
func destinations(out *route.RouteAction, rule *mesh.Route, c routeContext) {
	if len(rule.Destinations) == 1 && rule.Destinations[0].Headers == nil {
		out.ClusterSpecifier = &route.RouteAction_Cluster{Cluster: c.cluster(rule.Destinations[0])}
	} else {
		weighted := &route.WeightedCluster{}
		for _, d := range rule.Destinations {
			if d.Weight == 0 && len(rule.Destinations) > 1 {
				continue
			}
			weight := max(d.Weight, 1)
			entry := &route.WeightedCluster_ClusterWeight{Name: c.cluster(d), Weight: u32(weight)}
			entry.RequestHeadersToAdd, entry.RequestHeadersToRemove = headerChanges(d.Headers.GetRequest())
			entry.ResponseHeadersToAdd, entry.ResponseHeadersToRemove = headerChanges(d.Headers.GetResponse())
			if host := hostOverride(d.Headers); host != "" {
				entry.HostRewriteSpecifier = &route.WeightedCluster_ClusterWeight_HostRewriteLiteral{HostRewriteLiteral: host}
			}
			weighted.Clusters = append(weighted.Clusters, entry)
		}
		out.ClusterSpecifier = &route.RouteAction_WeightedClusters{WeightedClusters: weighted}
	}
	for _, d := range rule.Destinations {
		out.HashPolicy = append(out.HashPolicy, hashPolicies(c.lookup.policy(c.config, mesh.Destination{Host: d.Host, Subset: d.Subset, Port: c.destinationPort(d)}))...)
	}
}

func rewrite(out *route.RouteAction, r *networking.HTTPRewrite) {
	if r == nil {
		return
	}
	if r.Uri != "" {
		out.PrefixRewrite = r.Uri
	} else if r.UriRegexRewrite != nil {
		out.RegexRewrite = regexRewrite(r.UriRegexRewrite)
	}
	if r.Authority != "" {
		out.HostRewriteSpecifier = &route.RouteAction_HostRewriteLiteral{HostRewriteLiteral: r.Authority}
	}
}

func redirect(r *networking.HTTPRedirect, port uint32) *route.RedirectAction {
	out := &route.RedirectAction{HostRedirect: r.Authority, ResponseCode: redirectCodes[r.RedirectCode]}
	if r.PrefixRewrite != "" {
		out.PathRewriteSpecifier = &route.RedirectAction_PrefixRewrite{PrefixRewrite: r.PrefixRewrite}
	} else if uri, ok := strings.CutSuffix(r.Uri, "%PREFIX()%"); ok {
		out.PathRewriteSpecifier = &route.RedirectAction_PrefixRewrite{PrefixRewrite: uri}
	} else if r.Uri != "" {
		out.PathRewriteSpecifier = &route.RedirectAction_PathRedirect{PathRedirect: r.Uri}
	}
	if r.Scheme != "" {
		out.SchemeRewriteSpecifier = &route.RedirectAction_SchemeRedirect{SchemeRedirect: r.Scheme}
	}
	switch p := r.RedirectPort.(type) {
	case *networking.HTTPRedirect_Port:
		out.PortRedirect = p.Port
	case *networking.HTTPRedirect_DerivePort:
		if p.DerivePort == networking.HTTPRedirect_FROM_REQUEST_PORT {
			out.PortRedirect = port
		}
	}
	if out.PortRedirect == 80 && r.Scheme != "https" || out.PortRedirect == 443 && r.Scheme == "https" {
		out.PortRedirect = 0
	}
	return out
}

var redirectCodes = map[uint32]route.RedirectAction_RedirectResponseCode{
	0: route.RedirectAction_MOVED_PERMANENTLY, 301: route.RedirectAction_MOVED_PERMANENTLY, 302: route.RedirectAction_FOUND,
	303: route.RedirectAction_SEE_OTHER, 307: route.RedirectAction_TEMPORARY_REDIRECT, 308: route.RedirectAction_PERMANENT_REDIRECT,
}

func directResponse(r *networking.HTTPDirectResponse) *route.DirectResponseAction {
	out := &route.DirectResponseAction{Status: r.Status}
	switch body := r.Body.GetSpecifier().(type) {
	case *networking.HTTPBody_String_:
		out.Body = &core.DataSource{Specifier: &core.DataSource_InlineString{InlineString: body.String_}}
	case *networking.HTTPBody_Bytes:
		out.Body = &core.DataSource{Specifier: &core.DataSource_InlineBytes{InlineBytes: body.Bytes}}
	}
	return out
}

// defaultRetryOn is what is tried again where nobody says otherwise: what was certainly not carried out.
const defaultRetryOn = "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes"

// retryPolicy: two attempts by default, none where attempts is 0 or less. A request that a hash sends to one endpoint is not kept
// from trying the same again.
func retryPolicy(r *networking.HTTPRetry, hashed bool) *route.RetryPolicy {
	out := &route.RetryPolicy{NumRetries: u32(2), RetryOn: defaultRetryOn, HostSelectionRetryMaxAttempts: 5, RetriableStatusCodes: []uint32{503}}
	ignore := !hashed
	if v := r.GetRetryIgnorePreviousHosts(); v != nil {
		ignore = v.Value
	}
	if ignore {
		out.RetryHostPredicate = []*route.RetryPolicy_RetryHostPredicate{previousHosts()}
	}
	if r == nil {
		return out
	}
	if r.Attempts <= 0 {
		return nil
	}
	out.NumRetries = u32(uint32(r.Attempts))
	if r.RetryOn != "" {
		out.RetryOn, out.RetriableStatusCodes = splitRetryOn(r.RetryOn)
	}
	out.PerTryTimeout = r.PerTryTimeout
	if r.GetRetryRemoteLocalities().GetValue() {
		out.RetryPriority = previousPriorities()
	}
	if r.Backoff != nil {
		out.RetryBackOff = &route.RetryPolicy_RetryBackOff{BaseInterval: r.Backoff}
	}
	return out
}

// splitRetryOn takes status codes out of a list of conditions.
func splitRetryOn(text string) (string, []uint32) {
	var conditions []string
	var codes []uint32
	for _, part := range strings.Split(text, ",") {
		part = strings.TrimSpace(part)
		if code, err := strconv.ParseUint(part, 10, 16); err == nil && code >= 100 && code < 600 {
			codes = append(codes, uint32(code))
		} else if part != "" {
			conditions = append(conditions, part)
		}
	}
	if len(codes) > 0 {
		conditions = append(conditions, "retriable-status-codes")
	}
	return strings.Join(conditions, ","), codes
}
