package envoy

import (
	"maps"
	"slices"
	"strconv"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	rbac "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	extauthz "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	httprbac "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	tcpauthz "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/ext_authz/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcprbac "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"
	matcher "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	meshapi "istio.io/api/mesh/v1alpha1"

	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
)

// external is the policies that leave the decision to one provider. What they match is found by rules that only note it; the provider is
// asked where they have.
type external struct {
	name     string
	provider *meshapi.MeshConfig_ExtensionProvider // nil where MeshConfig has none of the name
	policies []*mesh.AuthorizationPolicy
}

const (
	externalStats  = "istio_ext_authz_"
	externalPrefix = "istio-ext-authz-"
)

func externals(guard *mesh.Guard) []*external {
	var out []*external
	byName := map[string]*external{}
	for _, policy := range guard.Authorization {
		if policy.Action != mesh.Custom {
			continue
		}
		e := byName[policy.Provider]
		if e == nil {
			e = &external{name: policy.Provider, provider: guard.Providers[policy.Provider]}
			byName[policy.Provider] = e
			out = append(out, e)
		}
		e.policies = append(e.policies, policy)
	}
	return out
}

func (e *external) rules(config *mesh.Config, tcp bool) *rbac.RBAC {
	out := &rbac.RBAC{Action: rbac.RBAC_DENY, Policies: map[string]*rbac.Policy{}}
	for _, policy := range e.policies {
		addRules(out, ruleBuilder{config: config, tcp: tcp}, policy, e.prefix())
	}
	return out
}

// prefix tells the rules of one provider from another's.
func (e *external) prefix() string { return externalPrefix + e.name + "-" }

// matched is what the rules have noted.
func (e *external) matched(filter string) *matcher.MetadataMatcher {
	return &matcher.MetadataMatcher{Filter: filter, Path: []*matcher.MetadataMatcher_PathSegment{{Segment: &matcher.MetadataMatcher_PathSegment_Key{Key: externalStats + e.stats() + "shadow_effective_policy_id"}}},
		Value: textValue(prefix(e.prefix()))}
}

// stats keeps what one provider's rules note apart.
func (e *external) stats() string { return e.name + "_" }

// http asks the provider. Without a provider all that matches is denied: whoever wrote the policy meant to guard it.
func (e *external) http(config *mesh.Config) []*hcm.HttpFilter {
	grpc, http := e.provider.GetEnvoyExtAuthzGrpc(), e.provider.GetEnvoyExtAuthzHttp()
	out := &extauthz.ExtAuthz{FilterEnabledMetadata: e.matched(httpRBAC), TransportApiVersion: core.ApiVersion_V3}
	switch {
	case grpc != nil:
		out.Services = &extauthz.ExtAuthz_GrpcService{GrpcService: authzService(grpc)}
		out.FailureModeAllow, out.StatusOnError, out.WithRequestBody, out.ClearRouteCache = grpc.FailOpen, errorStatus(grpc.StatusOnError), bodyInCheck(grpc.IncludeRequestBodyInCheck), grpc.ClearRouteCache
	case http != nil:
		out.Services = &extauthz.ExtAuthz_HttpService{HttpService: httpAuthz(http)}
		out.FailureModeAllow, out.StatusOnError, out.WithRequestBody, out.ClearRouteCache = http.FailOpen, errorStatus(http.StatusOnError), bodyInCheck(http.IncludeRequestBodyInCheck), http.ClearRouteCache
		out.AllowedHeaders = checkHeaders(http)
	default:
		return []*hcm.HttpFilter{httpFilter(httpRBAC, &httprbac.RBAC{Rules: e.rules(config, false)})}
	}
	return []*hcm.HttpFilter{httpFilter(httpRBAC, &httprbac.RBAC{ShadowRules: e.rules(config, false), ShadowRulesStatPrefix: externalStats + e.stats()}), httpFilter("envoy.filters.http.ext_authz", out)}
}

// tcp asks a provider that speaks gRPC; one of HTTP has no answer for connections, so what matches is denied.
func (e *external) tcp(config *mesh.Config) []*listener.Filter {
	grpc := e.provider.GetEnvoyExtAuthzGrpc()
	if grpc == nil {
		return []*listener.Filter{networkFilter(tcpRBAC, &tcprbac.RBAC{StatPrefix: "tcp.", Rules: e.rules(config, true)})}
	}
	return []*listener.Filter{
		networkFilter(tcpRBAC, &tcprbac.RBAC{StatPrefix: "tcp.", ShadowRules: e.rules(config, true), ShadowRulesStatPrefix: externalStats + e.stats()}),
		networkFilter("envoy.filters.network.ext_authz", &tcpauthz.ExtAuthz{StatPrefix: "tcp.", GrpcService: authzService(grpc), FailureModeAllow: grpc.FailOpen,
			TransportApiVersion: core.ApiVersion_V3, FilterEnabledMetadata: e.matched(tcpRBAC)}),
	}
}

// defaultAuthzTimeout is Istio's.
const defaultAuthzTimeout = 600 * time.Second

func authzTimeout(given *durationpb.Duration) *durationpb.Duration {
	if given != nil {
		return given
	}
	return durationpb.New(defaultAuthzTimeout)
}

// providerCluster is the cluster of a provider's service, HOST or NAMESPACE/HOST.
func providerCluster(service string, port uint32) string {
	return mesh.ClusterName(mesh.ProviderHost(service), "", port)
}

func authzService(p *meshapi.MeshConfig_ExtensionProvider_EnvoyExternalAuthorizationGrpcProvider) *core.GrpcService {
	return &core.GrpcService{Timeout: authzTimeout(p.Timeout), TargetSpecifier: &core.GrpcService_EnvoyGrpc_{EnvoyGrpc: &core.GrpcService_EnvoyGrpc{
		ClusterName: providerCluster(p.Service, p.Port), Authority: p.Service}}}
}

func httpAuthz(p *meshapi.MeshConfig_ExtensionProvider_EnvoyExternalAuthorizationHttpProvider) *extauthz.HttpService {
	out := &extauthz.HttpService{PathPrefix: p.PathPrefix, ServerUri: &core.HttpUri{Uri: "http://" + p.Service + ":" + itoa(p.Port), Timeout: authzTimeout(p.Timeout),
		HttpUpstreamType: &core.HttpUri_Cluster{Cluster: providerCluster(p.Service, p.Port)}}}
	if len(p.IncludeAdditionalHeadersInCheck) > 0 {
		out.AuthorizationRequest = &extauthz.AuthorizationRequest{HeadersToAdd: headerValues(p.IncludeAdditionalHeadersInCheck)}
	}
	if len(p.HeadersToUpstreamOnAllow)+len(p.HeadersToDownstreamOnDeny)+len(p.HeadersToDownstreamOnAllow) > 0 {
		out.AuthorizationResponse = &extauthz.AuthorizationResponse{AllowedUpstreamHeaders: headerNames(p.HeadersToUpstreamOnAllow), AllowedClientHeaders: headerNames(p.HeadersToDownstreamOnDeny),
			AllowedClientHeadersOnSuccess: headerNames(p.HeadersToDownstreamOnAllow)}
	}
	return out
}

func headerValues(values map[string]string) []*core.HeaderValue {
	var out []*core.HeaderValue
	for _, name := range slices.Sorted(maps.Keys(values)) {
		out = append(out, &core.HeaderValue{Key: name, Value: values[name]})
	}
	return out
}

func checkHeaders(p *meshapi.MeshConfig_ExtensionProvider_EnvoyExternalAuthorizationHttpProvider) *matcher.ListStringMatcher {
	names := p.IncludeRequestHeadersInCheck
	if len(names) == 0 {
		names = p.IncludeHeadersInCheck // what older documents write
	}
	return headerNames(names)
}

func headerNames(names []string) *matcher.ListStringMatcher {
	if len(names) == 0 {
		return nil
	}
	out := &matcher.ListStringMatcher{}
	for _, name := range names {
		out.Patterns = append(out.Patterns, pattern(name, true))
	}
	return out
}

func errorStatus(text string) *typev3.HttpStatus {
	code, err := strconv.ParseInt(text, 10, 32)
	if err != nil {
		return nil
	}
	return &typev3.HttpStatus{Code: typev3.StatusCode(code)} //nolint:gosec // Envoy refuses what is no status
}

func bodyInCheck(body *meshapi.MeshConfig_ExtensionProvider_EnvoyExternalAuthorizationRequestBody) *extauthz.BufferSettings {
	if body == nil {
		return nil
	}
	return &extauthz.BufferSettings{MaxRequestBytes: body.MaxRequestBytes, AllowPartialMessage: body.AllowPartialMessage, PackAsBytes: body.PackAsBytes}
}
