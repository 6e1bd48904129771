package envoy

import (
	"sort"
	"strings"

	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcher "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"
	networking "istio.io/api/networking/v1alpha3"
)

// routeMatch translates a match; nil matches every request. Conditions on the caller, the gateway and the port have been
// decided before.
func routeMatch(m *networking.HTTPMatchRequest) *route.RouteMatch {
	out := &route.RouteMatch{PathSpecifier: &route.RouteMatch_Prefix{Prefix: "/"}}
	if m == nil {
		return out
	}
	switch uri := m.Uri.GetMatchType().(type) {
	case *networking.StringMatch_Exact:
		out.PathSpecifier = &route.RouteMatch_Path{Path: uri.Exact}
	case *networking.StringMatch_Prefix:
		out.PathSpecifier = &route.RouteMatch_Prefix{Prefix: uri.Prefix}
	case *networking.StringMatch_Regex:
		out.PathSpecifier = &route.RouteMatch_SafeRegex{SafeRegex: regex(uri.Regex)}
	}
	if m.IgnoreUriCase {
		out.CaseSensitive = wrapperspb.Bool(false)
	}
	for _, name := range keys(m.Headers) {
		if path, ok := claimKey(name); ok {
			out.DynamicMetadata = append(out.DynamicMetadata, claimMatch(path, m.Headers[name], false))
			continue
		}
		out.Headers = append(out.Headers, headerMatch(name, m.Headers[name]))
	}
	for _, name := range keys(m.WithoutHeaders) {
		if path, ok := claimKey(name); ok {
			out.DynamicMetadata = append(out.DynamicMetadata, claimMatch(path, m.WithoutHeaders[name], true))
			continue
		}
		h := headerMatch(name, m.WithoutHeaders[name])
		h.InvertMatch = true
		h.TreatMissingHeaderAsEmpty = h.GetStringMatch() != nil
		out.Headers = append(out.Headers, h)
	}
	for _, pseudo := range []struct {
		name  string
		match *networking.StringMatch
	}{{":method", m.Method}, {":authority", m.Authority}, {":scheme", m.Scheme}} {
		if pseudo.match != nil {
			out.Headers = append(out.Headers, headerMatch(pseudo.name, pseudo.match))
		}
	}
	for _, name := range keys(m.QueryParams) {
		out.QueryParameters = append(out.QueryParameters, queryMatch(name, m.QueryParams[name]))
	}
	return out
}

// claimKey reads a header's name that stands for a claim of the request's token: @request.auth.claims.NAME, or [NAME] for names with dots.
func claimKey(name string) ([]string, bool) {
	rest, ok := strings.CutPrefix(name, "@request.auth.claims")
	switch {
	case !ok:
		return nil, false
	case strings.HasPrefix(rest, "["):
		return bracketed(rest), true
	}
	return strings.Split(strings.TrimPrefix(rest, "."), "."), true
}

func claimMatch(path []string, m *networking.StringMatch, invert bool) *matcher.MetadataMatcher {
	out := claimPath(path)
	out.Invert = invert
	out.Value = &matcher.ValueMatcher{MatchPattern: &matcher.ValueMatcher_PresentMatch{PresentMatch: true}}
	if !isPresence(m) {
		text := textValue(stringMatch(m))
		list := &matcher.ValueMatcher{MatchPattern: &matcher.ValueMatcher_ListMatch{ListMatch: &matcher.ListMatcher{MatchPattern: &matcher.ListMatcher_OneOf{OneOf: text}}}}
		out.Value = &matcher.ValueMatcher{MatchPattern: &matcher.ValueMatcher_OrMatch{OrMatch: &matcher.OrMatcher{ValueMatchers: []*matcher.ValueMatcher{text, list}}}}
	}
	return out
}

func keys(m map[string]*networking.StringMatch) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

// isPresence says that a match only asks for something to be there.
func isPresence(m *networking.StringMatch) bool {
	return m.GetMatchType() == nil || m.GetRegex() == "*" || m.GetExact() == "" && m.GetPrefix() == "" && m.GetRegex() == ""
}

func headerMatch(name string, m *networking.StringMatch) *route.HeaderMatcher {
	out := &route.HeaderMatcher{Name: name}
	if isPresence(m) {
		out.HeaderMatchSpecifier = &route.HeaderMatcher_PresentMatch{PresentMatch: true}
	} else {
		out.HeaderMatchSpecifier = &route.HeaderMatcher_StringMatch{StringMatch: stringMatch(m)}
	}
	return out
}

func queryMatch(name string, m *networking.StringMatch) *route.QueryParameterMatcher {
	out := &route.QueryParameterMatcher{Name: name}
	if isPresence(m) {
		out.QueryParameterMatchSpecifier = &route.QueryParameterMatcher_PresentMatch{PresentMatch: true}
	} else {
		out.QueryParameterMatchSpecifier = &route.QueryParameterMatcher_StringMatch{StringMatch: stringMatch(m)}
	}
	return out
}

func stringMatch(m *networking.StringMatch) *matcher.StringMatcher {
	switch v := m.GetMatchType().(type) {
	case *networking.StringMatch_Prefix:
		return prefix(v.Prefix)
	case *networking.StringMatch_Regex:
		return &matcher.StringMatcher{MatchPattern: &matcher.StringMatcher_SafeRegex{SafeRegex: regex(v.Regex)}}
	}
	return exact(m.GetExact())
}

// catchesAll says that no request passes by the match.
func catchesAll(m *networking.HTTPMatchRequest) bool {
	if m == nil {
		return true
	}
	anyPath := m.Uri == nil || m.Uri.GetPrefix() == "/" || m.Uri.GetRegex() == "*" || m.Uri.GetRegex() == ".*"
	return anyPath && len(m.Headers)+len(m.WithoutHeaders)+len(m.QueryParams) == 0 && m.Method == nil && m.Authority == nil && m.Scheme == nil
}
