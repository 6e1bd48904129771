package envoy

import (
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rbac "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	uritemplate "github.com/envoyproxy/go-control-plane/envoy/extensions/path/match/uri_template/v3"
	matcher "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	security "istio.io/api/security/v1beta1"

	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
)

// policy is one rule of an AuthorizationPolicy: a source and an operation and all conditions must match.
func (b ruleBuilder) policy(rule *security.Rule) *rbac.Policy {
	var sources []*rbac.Principal
	for _, from := range rule.From {
		sources = append(sources, allOf(b.source(from.Source)))
	}
	var operations []*rbac.Permission
	for _, to := range rule.To {
		operations = append(operations, allPermissions(b.operation(to.Operation)))
	}
	principals, permissions := []*rbac.Principal{}, []*rbac.Permission{}
	if len(sources) > 0 {
		principals = append(principals, anyOf(sources))
	}
	if len(operations) > 0 {
		permissions = append(permissions, anyPermission(operations))
	}
	for _, when := range rule.When {
		ids, rules := b.condition(when)
		principals, permissions = append(principals, ids...), append(permissions, rules...)
	}
	return &rbac.Policy{Principals: []*rbac.Principal{allOf(principals)}, Permissions: []*rbac.Permission{allPermissions(permissions)}}
}

// speaksOfRequests says whether a rule has what only HTTP can tell.
func speaksOfRequests(rule *security.Rule) bool {
	for _, from := range rule.From {
		if s := from.Source; len(s.GetRequestPrincipals())+len(s.GetNotRequestPrincipals())+len(s.GetRemoteIpBlocks())+len(s.GetNotRemoteIpBlocks()) > 0 {
			return true
		}
	}
	for _, to := range rule.To {
		if o := to.Operation; len(o.GetHosts())+len(o.GetNotHosts())+len(o.GetMethods())+len(o.GetNotMethods())+len(o.GetPaths())+len(o.GetNotPaths()) > 0 {
			return true
		}
	}
	for _, when := range rule.When {
		if strings.HasPrefix(when.Key, "request.") || when.Key == "remote.ip" {
			return true
		}
	}
	return false
}

// ruleBuilder translates the parts of a rule. On TCP it leaves out what is of requests. proxyless says that a gRPC server reads it, which
// knows no templates of paths.
type ruleBuilder struct {
	config    *mesh.Config
	tcp       bool
	proxyless bool
}

func (b ruleBuilder) source(s *security.Source) []*rbac.Principal {
	var out []*rbac.Principal
	add := func(values, not []string, make func(string) *rbac.Principal) {
		out = appendIDs(out, values, not, make)
	}
	add(s.GetPrincipals(), s.GetNotPrincipals(), b.principal)
	add(s.GetNamespaces(), s.GetNotNamespaces(), namespaceID)
	add(s.GetServiceAccounts(), s.GetNotServiceAccounts(), accountID)
	add(s.GetTrustDomains(), s.GetNotTrustDomains(), trustDomainID)
	add(s.GetIpBlocks(), s.GetNotIpBlocks(), directIP)
	if !b.tcp {
		add(s.GetRemoteIpBlocks(), s.GetNotRemoteIpBlocks(), remoteIP)
		add(s.GetRequestPrincipals(), s.GetNotRequestPrincipals(), requestPrincipal)
	}
	return out
}

func (b ruleBuilder) operation(o *security.Operation) []*rbac.Permission {
	var out []*rbac.Permission
	add := func(values, not []string, make func(string) *rbac.Permission) {
		out = appendPermissions(out, values, not, make)
	}
	add(o.GetPorts(), o.GetNotPorts(), destinationPort)
	if !b.tcp {
		add(o.GetHosts(), o.GetNotHosts(), requestHost)
		add(o.GetMethods(), o.GetNotMethods(), func(method string) *rbac.Permission { return permissionHeader(":method", pattern(method, false)) })
		add(o.GetPaths(), o.GetNotPaths(), b.path)
	}
	return out
}

func (b ruleBuilder) condition(when *security.Condition) (ids []*rbac.Principal, rules []*rbac.Permission) {
	values, not := when.Values, when.NotValues
	if b.tcp && (strings.HasPrefix(when.Key, "request.") || when.Key == "remote.ip") {
		return nil, nil
	}
	switch {
	case when.Key == "source.ip":
		ids = appendIDs(ids, values, not, directIP)
	case when.Key == "remote.ip":
		ids = appendIDs(ids, values, not, remoteIP)
	case when.Key == "source.namespace":
		ids = appendIDs(ids, values, not, namespaceID)
	case when.Key == "source.principal":
		ids = appendIDs(ids, values, not, b.principal)
	case when.Key == "source.serviceAccount":
		ids = appendIDs(ids, values, not, accountID)
	case when.Key == "request.auth.principal":
		ids = appendIDs(ids, values, not, requestPrincipal)
	case when.Key == "request.auth.audiences":
		ids = appendIDs(ids, values, not, func(v string) *rbac.Principal { return tokenClaim([]string{"aud"}, v) })
	case when.Key == "request.auth.presenter":
		ids = appendIDs(ids, values, not, func(v string) *rbac.Principal { return tokenClaim([]string{"azp"}, v) })
	case strings.HasPrefix(when.Key, "request.auth.claims"):
		path := bracketed(when.Key)
		ids = appendIDs(ids, values, not, func(v string) *rbac.Principal { return tokenClaim(path, v) })
	case strings.HasPrefix(when.Key, "request.headers"):
		name := bracketed(when.Key)[0]
		ids = appendIDs(ids, values, not, func(v string) *rbac.Principal { return headerID(name, v) })
	case when.Key == "destination.ip":
		rules = appendPermissions(rules, values, not, func(v string) *rbac.Permission {
			return &rbac.Permission{Rule: &rbac.Permission_DestinationIp{DestinationIp: block(v)}}
		})
	case when.Key == "destination.port":
		rules = appendPermissions(rules, values, not, destinationPort)
	case when.Key == "connection.sni":
		rules = appendPermissions(rules, values, not, func(v string) *rbac.Permission {
			return &rbac.Permission{Rule: &rbac.Permission_RequestedServerName{RequestedServerName: pattern(v, false)}}
		})
	case strings.HasPrefix(when.Key, "experimental.envoy.filters."):
		rules = appendPermissions(rules, values, not, func(v string) *rbac.Permission { return filterMetadata(when.Key, v) })
	}
	return ids, rules
}

// appendIDs adds that one of the values matches, and none of the others.
func appendIDs(out []*rbac.Principal, values, not []string, make func(string) *rbac.Principal) []*rbac.Principal {
	if len(values) > 0 {
		out = append(out, anyOf(matchers(values, make)))
	}
	if len(not) > 0 {
		out = append(out, &rbac.Principal{Identifier: &rbac.Principal_NotId{NotId: anyOf(matchers(not, make))}})
	}
	return out
}

func appendPermissions(out []*rbac.Permission, values, not []string, make func(string) *rbac.Permission) []*rbac.Permission {
	if len(values) > 0 {
		out = append(out, anyPermission(matchers(values, make)))
	}
	if len(not) > 0 {
		out = append(out, &rbac.Permission{Rule: &rbac.Permission_NotRule{NotRule: anyPermission(matchers(not, make))}})
	}
	return out
}

func matchers[T any](values []string, make func(string) T) []T {
	var out []T
	for _, v := range values {
		out = append(out, make(v))
	}
	return out
}

func allOf(ids []*rbac.Principal) *rbac.Principal {
	if len(ids) == 0 {
		return &rbac.Principal{Identifier: &rbac.Principal_Any{Any: true}}
	}
	return &rbac.Principal{Identifier: &rbac.Principal_AndIds{AndIds: &rbac.Principal_Set{Ids: ids}}}
}

func anyOf(ids []*rbac.Principal) *rbac.Principal {
	return &rbac.Principal{Identifier: &rbac.Principal_OrIds{OrIds: &rbac.Principal_Set{Ids: ids}}}
}

func allPermissions(rules []*rbac.Permission) *rbac.Permission {
	if len(rules) == 0 {
		return &rbac.Permission{Rule: &rbac.Permission_Any{Any: true}}
	}
	return &rbac.Permission{Rule: &rbac.Permission_AndRules{AndRules: &rbac.Permission_Set{Rules: rules}}}
}

func anyPermission(rules []*rbac.Permission) *rbac.Permission {
	return &rbac.Permission{Rule: &rbac.Permission_OrRules{OrRules: &rbac.Permission_Set{Rules: rules}}}
}

// pattern reads a value as policies write it: abc*, *abc, * for anything, or the text itself.
func pattern(value string, ignoreCase bool) *matcher.StringMatcher {
	out := &matcher.StringMatcher{IgnoreCase: ignoreCase}
	switch {
	case value == "*":
		out.MatchPattern, out.IgnoreCase = &matcher.StringMatcher_SafeRegex{SafeRegex: regex(".+")}, false
	case strings.HasPrefix(value, "*"):
		out.MatchPattern = &matcher.StringMatcher_Suffix{Suffix: value[1:]}
	case strings.HasSuffix(value, "*"):
		out.MatchPattern = &matcher.StringMatcher_Prefix{Prefix: value[:len(value)-1]}
	default:
		out.MatchPattern = &matcher.StringMatcher_Exact{Exact: value}
	}
	return out
}

func authenticated(m *matcher.StringMatcher) *rbac.Principal {
	return &rbac.Principal{Identifier: &rbac.Principal_Authenticated_{Authenticated: &rbac.Principal_Authenticated{PrincipalName: m}}}
}

func authenticatedBy(expression string) *rbac.Principal {
	return authenticated(&matcher.StringMatcher{MatchPattern: &matcher.StringMatcher_SafeRegex{SafeRegex: regex(expression)}})
}

// principal is a workload's identity, without the scheme. One of the mesh's trust domain is meant in all the domains that the mesh
// takes.
func (b ruleBuilder) principal(value string) *rbac.Principal {
	if value == "*" || strings.HasPrefix(value, "*") {
		return authenticated(pattern(value, false))
	}
	domain, rest, _ := strings.Cut(value, "/")
	domains := []string{domain}
	if known := append([]string{b.config.TrustDomain, "cluster.local"}, b.config.TrustAliases...); slices.Contains(known, domain) {
		domains = append(domains, known...)
	}
	var ids []*rbac.Principal
	for i, own := range domains {
		if slices.Index(domains, own) == i { // once each
			ids = append(ids, authenticated(pattern("spiffe://"+own+"/"+rest, false)))
		}
	}
	return anyOf(ids)
}

// wild writes a value with a * at an end as a regular expression; within keeps what a * stands for to one part of an identity.
func wild(value string) string {
	switch {
	case value == "*":
		return "[^/]+"
	case strings.HasPrefix(value, "*"):
		return "[^/]*" + regexp.QuoteMeta(value[1:])
	case strings.HasSuffix(value, "*"):
		return regexp.QuoteMeta(value[:len(value)-1]) + "[^/]*"
	}
	return regexp.QuoteMeta(value)
}

func namespaceID(value string) *rbac.Principal {
	return authenticatedBy("spiffe://[^/]+/ns/" + wild(value) + "/sa/[^/]+")
}

// accountID reads NAMESPACE/ACCOUNT.
func accountID(value string) *rbac.Principal {
	namespace, account, ok := strings.Cut(value, "/")
	if !ok {
		namespace, account = "*", value
	}
	return authenticatedBy("spiffe://[^/]+/ns/" + wild(namespace) + "/sa/" + wild(account))
}

func trustDomainID(value string) *rbac.Principal {
	return authenticatedBy("spiffe://" + wild(value) + "/.+")
}

func block(text string) *core.CidrRange {
	if ranges, err := netip.ParsePrefix(text); err == nil {
		return prefixRange(ranges)
	}
	address, _ := netip.ParseAddr(text)
	return prefixRange(netip.PrefixFrom(address, address.BitLen()))
}

func directIP(value string) *rbac.Principal {
	return &rbac.Principal{Identifier: &rbac.Principal_DirectRemoteIp{DirectRemoteIp: block(value)}}
}

func remoteIP(value string) *rbac.Principal {
	return &rbac.Principal{Identifier: &rbac.Principal_RemoteIp{RemoteIp: block(value)}}
}

func headerID(name, value string) *rbac.Principal {
	match := &route.HeaderMatcher{Name: name, HeaderMatchSpecifier: &route.HeaderMatcher_PresentMatch{PresentMatch: true}}
	if value != "*" {
		match.HeaderMatchSpecifier = &route.HeaderMatcher_StringMatch{StringMatch: pattern(value, false)}
	}
	return &rbac.Principal{Identifier: &rbac.Principal_Header{Header: match}}
}

func permissionHeader(name string, m *matcher.StringMatcher) *rbac.Permission {
	return &rbac.Permission{Rule: &rbac.Permission_Header{Header: &route.HeaderMatcher{Name: name, HeaderMatchSpecifier: &route.HeaderMatcher_StringMatch{StringMatch: m}}}}
}

// requestHost matches a host name in whatever case. The port that a client may add is a part of it, as it is for Istio.
func requestHost(value string) *rbac.Permission {
	return permissionHeader(":authority", pattern(value, true))
}

// path matches a path without its query; {*} and {**} stand for parts of it.
func (b ruleBuilder) path(value string) *rbac.Permission {
	templated := strings.Contains(value, "{*}") || strings.Contains(value, "{**}")
	switch {
	case templated && b.proxyless:
		expression := strings.NewReplacer(regexp.QuoteMeta("{**}"), ".*", regexp.QuoteMeta("{*}"), "[^/]+").Replace(regexp.QuoteMeta(value))
		return &rbac.Permission{Rule: &rbac.Permission_UrlPath{UrlPath: &matcher.PathMatcher{Rule: &matcher.PathMatcher_Path{
			Path: &matcher.StringMatcher{MatchPattern: &matcher.StringMatcher_SafeRegex{SafeRegex: regex(expression)}}}}}}
	case templated:
		template := strings.ReplaceAll(strings.ReplaceAll(value, "{**}", "**"), "{*}", "*")
		return &rbac.Permission{Rule: &rbac.Permission_UriTemplate{UriTemplate: &core.TypedExtensionConfig{Name: "uri-template", TypedConfig: pack(&uritemplate.UriTemplateMatchConfig{PathTemplate: template})}}}
	}
	return &rbac.Permission{Rule: &rbac.Permission_UrlPath{UrlPath: &matcher.PathMatcher{Rule: &matcher.PathMatcher_Path{Path: pattern(value, false)}}}}
}

func destinationPort(value string) *rbac.Permission {
	port, _ := strconv.ParseUint(value, 10, 16)
	return &rbac.Permission{Rule: &rbac.Permission_DestinationPort{DestinationPort: uint32(port)}}
}

// filterMetadata reads experimental.envoy.filters.NAME[KEY].
func filterMetadata(key, value string) *rbac.Permission {
	name, _, _ := strings.Cut(strings.TrimPrefix(key, "experimental."), "[")
	in := &matcher.MetadataMatcher{Filter: name, Value: oneValue(strings.TrimSuffix(strings.TrimPrefix(value, "["), "]"))}
	for _, part := range bracketed(key) {
		in.Path = append(in.Path, &matcher.MetadataMatcher_PathSegment{Segment: &matcher.MetadataMatcher_PathSegment_Key{Key: part}})
	}
	return &rbac.Permission{Rule: &rbac.Permission_Metadata{Metadata: in}}
}

// bracketed lists the names in a key such as request.auth.claims[a][b].
func bracketed(key string) []string {
	var out []string
	for _, part := range strings.Split(key, "[")[1:] {
		out = append(out, strings.TrimSuffix(part, "]"))
	}
	return out
}
