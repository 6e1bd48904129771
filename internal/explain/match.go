package explain

import (
	"regexp"
	"strings"

	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcher "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
)

// Envoy's rules of matching, as https://www.envoyproxy.io/docs/envoy/v1.40.0/api-v3/config/route/v3/route_components.proto
// says them.

// virtualHost finds the one for an authority: an exact domain, then the longest *suffix, then the longest prefix*, then *.
func virtualHost(table *route.RouteConfiguration, authority string) (host *route.VirtualHost, domain string) {
	if table.IgnorePortInHostMatching {
		authority = withoutPort(authority)
	}
	authority = strings.ToLower(authority)
	best := -1
	for _, candidate := range table.VirtualHosts {
		for _, d := range candidate.Domains {
			if rank := domainRank(strings.ToLower(d), authority); rank > best {
				best, host, domain = rank, candidate, d
			}
		}
	}
	return host, domain
}

const (
	rankExact  = 1 << 30
	rankSuffix = 1 << 20
	rankPrefix = 1 << 10
)

// domainRank says how well a domain fits; -1 if it does not.
func domainRank(domain, authority string) int {
	switch {
	case domain == authority:
		return rankExact
	case domain == "*":
		return 0
	case strings.HasPrefix(domain, "*") && strings.HasSuffix(authority, domain[1:]) && len(authority) >= len(domain):
		return rankSuffix + len(domain)
	case strings.HasSuffix(domain, "*") && strings.HasPrefix(authority, domain[:len(domain)-1]) && len(authority) >= len(domain):
		return rankPrefix + len(domain)
	}
	return -1
}

func withoutPort(authority string) string {
	if i := strings.LastIndexByte(authority, ':'); i >= 0 && !strings.HasSuffix(authority, "]") {
		return authority[:i]
	}
	return authority
}

// matches says whether a route takes the request. A condition on a token's claims is taken as met where the request says
// so, since the token's check is not repeated here.
func matches(m *route.RouteMatch, r Request) bool {
	path, query, _ := strings.Cut(r.Path, "?")
	path, _, _ = strings.Cut(path, "#")
	fold := m.GetCaseSensitive() != nil && !m.GetCaseSensitive().Value
	same := func(a, b string) bool { return a == b || fold && strings.EqualFold(a, b) }
	switch p := m.GetPathSpecifier().(type) {
	case *route.RouteMatch_Prefix:
		if len(path) < len(p.Prefix) || !same(path[:len(p.Prefix)], p.Prefix) {
			return false
		}
	case *route.RouteMatch_PathSeparatedPrefix:
		n := len(p.PathSeparatedPrefix)
		if len(path) < n || !same(path[:n], p.PathSeparatedPrefix) || len(path) > n && path[n] != '/' {
			return false
		}
	case *route.RouteMatch_Path:
		if !same(path, p.Path) {
			return false
		}
	case *route.RouteMatch_SafeRegex:
		if !wholly(p.SafeRegex.GetRegex(), path) {
			return false
		}
	}
	for _, h := range m.GetHeaders() {
		if !headerMatches(h, r) {
			return false
		}
	}
	for _, q := range m.GetQueryParameters() {
		if !queryMatches(q, query) {
			return false
		}
	}
	return len(m.GetDynamicMetadata()) == 0 || r.Claims
}

// wholly says whether a regular expression matches all of a text. Envoy's are RE2, and so are Go's.
func wholly(expression, text string) bool {
	compiled, err := regexp.Compile(`^(?:` + expression + `)$`)
	return err == nil && compiled.MatchString(text)
}

func headerMatches(h *route.HeaderMatcher, r Request) bool {
	value, there := r.header(h.Name)
	if present, ok := h.GetHeaderMatchSpecifier().(*route.HeaderMatcher_PresentMatch); ok {
		return (there == present.PresentMatch) != h.InvertMatch
	}
	if !there && !h.TreatMissingHeaderAsEmpty {
		return false
	}
	return stringMatches(h.GetStringMatch(), value) != h.InvertMatch
}

func queryMatches(q *route.QueryParameterMatcher, query string) bool {
	value, there := "", false
	for _, pair := range strings.Split(query, "&") {
		name, v, _ := strings.Cut(pair, "=")
		if name == q.Name && !there {
			value, there = v, true
		}
	}
	if m := q.GetStringMatch(); m != nil {
		return there && stringMatches(m, value)
	}
	return there
}

func stringMatches(m *matcher.StringMatcher, value string) bool {
	fold := func(s string) string {
		if m.GetIgnoreCase() {
			return strings.ToLower(s)
		}
		return s
	}
	switch p := m.GetMatchPattern().(type) {
	case *matcher.StringMatcher_Exact:
		return fold(value) == fold(p.Exact)
	case *matcher.StringMatcher_Prefix:
		return strings.HasPrefix(fold(value), fold(p.Prefix))
	case *matcher.StringMatcher_Suffix:
		return strings.HasSuffix(fold(value), fold(p.Suffix))
	case *matcher.StringMatcher_Contains:
		return strings.Contains(fold(value), fold(p.Contains))
	case *matcher.StringMatcher_SafeRegex:
		return wholly(p.SafeRegex.GetRegex(), value)
	}
	return true
}
