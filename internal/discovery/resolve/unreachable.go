package resolve

import (
	"fmt"

	"google.golang.org/protobuf/proto"
	api "istio.io/api/networking/v1alpha3"
)

// checkReach tells of rules that no request can come to, as one before them takes all that they match.
func checkReach(rules []*api.HTTPRoute, r *report) {
	all := -1
	seen := map[string]int{}
	for i, rule := range rules {
		field := fmt.Sprintf("spec.http[%d]", i)
		if all >= 0 {
			r.warn(field, ReasonUnreachable, "can never be reached: spec.http[%d] takes every request; put it before that one", all)
			continue
		}
		for k, m := range rule.Match {
			text, _ := proto.MarshalOptions{Deterministic: true}.Marshal(m)
			if other, there := seen[string(text)]; there {
				r.warn(fmt.Sprintf("%s.match[%d]", field, k), ReasonIneffective, "matches what spec.http[%d] does already", other)
			} else {
				seen[string(text)] = i
			}
		}
		if takesAll(rule) {
			all = i
		}
	}
}

// takesAll says whether no request passes by a rule.
func takesAll(rule *api.HTTPRoute) bool {
	if len(rule.Match) == 0 {
		return true
	}
	for _, m := range rule.Match {
		uri := m.Uri.GetMatchType() == nil || m.Uri.GetPrefix() == "/" || m.Uri.GetRegex() == "*" || m.Uri.GetRegex() == ".*"
		if uri && len(m.Headers)+len(m.WithoutHeaders)+len(m.QueryParams)+len(m.Gateways)+len(m.SourceLabels) == 0 &&
			m.Method == nil && m.Authority == nil && m.Scheme == nil && m.Port == 0 && m.SourceNamespace == "" {
			return true
		}
	}
	return false
}
