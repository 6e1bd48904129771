package explain

import (
	"regexp"
	"sort"
	"strings"

	rbacconfig "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	httprbac "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcprbac "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"
)

// Policy is an AuthorizationPolicy that a proxy enforces.
type Policy struct {
	// Action is ALLOW, DENY, LOG or, for one that somebody else decides, CUSTOM.
	Action string `json:"action"`
	// Name is NAME.NAMESPACE, and Rules is how many of its rules there are.
	Name  string `json:"name"`
	Rules int    `json:"rules"`
	// DryRun says that what it would do is only counted.
	DryRun bool `json:"dryRun,omitempty"`
}

// policyName is how Istio names a rule: ns[NAMESPACE]-policy[NAME]-rule[INDEX].
var policyName = regexp.MustCompile(`ns\[(.*)\]-policy\[(.*)\]-rule\[(.*)\]$`)

// customPrefix is how Istio names what policies that somebody else decides match.
const customPrefix = "istio_ext_authz_"

// Policies lists what the proxy's listeners enforce, by action and name.
func (c *Config) Policies() []Policy {
	rules := map[Policy]map[string]bool{}
	take := func(r *rbacconfig.RBAC, shadow bool, prefix string) {
		custom := shadow && strings.HasPrefix(prefix, customPrefix)
		for name := range r.GetPolicies() {
			p := Policy{Action: r.GetAction().String(), Name: name, DryRun: shadow && !custom}
			if custom {
				p.Action = "CUSTOM"
			}
			if parts := policyName.FindStringSubmatch(name); parts != nil {
				p.Name = parts[2] + "." + parts[1]
			}
			if rules[p] == nil {
				rules[p] = map[string]bool{}
			}
			rules[p][name] = true
		}
	}
	for _, l := range c.Listeners {
		chains := l.FilterChains
		if l.DefaultFilterChain != nil {
			chains = append(chains[:len(chains):len(chains)], l.DefaultFilterChain)
		}
		for _, chain := range chains {
			for _, filter := range chain.Filters {
				t, h := &tcprbac.RBAC{}, &hcm.HttpConnectionManager{}
				switch packed := filter.GetTypedConfig(); {
				case packed.MessageIs(t) && packed.UnmarshalTo(t) == nil:
					take(t.GetRules(), false, "")
					take(t.GetShadowRules(), true, t.GetShadowRulesStatPrefix())
				case packed.MessageIs(h) && packed.UnmarshalTo(h) == nil:
					for _, one := range h.HttpFilters {
						r := &httprbac.RBAC{}
						if one.GetTypedConfig().MessageIs(r) && one.GetTypedConfig().UnmarshalTo(r) == nil {
							take(r.GetRules(), false, "")
							take(r.GetShadowRules(), true, r.GetShadowRulesStatPrefix())
						}
					}
				}
			}
		}
	}
	out := make([]Policy, 0, len(rules))
	for p, names := range rules {
		p.Rules = len(names)
		out = append(out, p)
	}
	sort.Slice(out, func(i, j int) bool {
		if out[i].Action != out[j].Action {
			return out[i].Action < out[j].Action
		}
		return out[i].Name < out[j].Name
	})
	return out
}
