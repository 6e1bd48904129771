package envoy

import (
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	rbac "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	httprbac "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcprbac "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"
	matcher "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
)

const (
	httpRBAC = "envoy.filters.http.rbac"
	tcpRBAC  = "envoy.filters.network.rbac"
)

// httpGuards are the filters that let a request pass, in the order in which Istio has them: who decides by itself, tokens, then what is
// noted, denied and allowed.
func httpGuards(config *mesh.Config, guard *mesh.Guard) []*hcm.HttpFilter {
	if guard.Empty() {
		return nil
	}
	var out []*hcm.HttpFilter
	for _, external := range externals(guard) {
		out = append(out, external.http(config)...)
	}
	if tokens := jwtFilter(guard); tokens != nil {
		out = append(out, tokens)
	}
	for _, action := range []mesh.Action{mesh.Audit, mesh.Deny, mesh.Allow} {
		if rules, shadow := roles(config, guard, action, false); rules != nil || shadow != nil {
			out = append(out, httpFilter(httpRBAC, &httprbac.RBAC{Rules: rules, ShadowRules: shadow, ShadowRulesStatPrefix: shadowPrefix(shadow, action)}))
		}
	}
	return out
}

// callGuards are those of a gRPC server, which decides by itself. It can ask nobody, so what an external authorizer is to decide is denied;
// and it looks at no tokens, so that no call has a principal of one.
func callGuards(config *mesh.Config, guard *mesh.Guard) []*hcm.HttpFilter {
	if guard.Empty() {
		return nil
	}
	deny, allow := (*rbac.RBAC)(nil), (*rbac.RBAC)(nil)
	for _, policy := range guard.Authorization {
		into, action := &deny, rbac.RBAC_DENY
		switch {
		case policy.DryRun || policy.Action == mesh.Audit:
			continue
		case policy.Action == mesh.Allow:
			into, action = &allow, rbac.RBAC_ALLOW
		}
		if *into == nil {
			*into = &rbac.RBAC{Action: action, Policies: map[string]*rbac.Policy{}}
		}
		addRules(*into, ruleBuilder{config: config, proxyless: true}, policy, "")
	}
	var out []*hcm.HttpFilter
	for _, rules := range []*rbac.RBAC{deny, allow} {
		if rules != nil {
			out = append(out, httpFilter(httpRBAC+"."+rules.Action.String(), &httprbac.RBAC{Rules: rules}))
		}
	}
	return out
}

// tcpGuards are those of connections of which no requests are seen.
func tcpGuards(config *mesh.Config, guard *mesh.Guard) []*listener.Filter {
	if guard.Empty() {
		return nil
	}
	var out []*listener.Filter
	for _, external := range externals(guard) {
		out = append(out, external.tcp(config)...)
	}
	for _, action := range []mesh.Action{mesh.Audit, mesh.Deny, mesh.Allow} {
		if rules, shadow := roles(config, guard, action, true); rules != nil || shadow != nil {
			out = append(out, networkFilter(tcpRBAC, &tcprbac.RBAC{StatPrefix: "tcp.", Rules: rules, ShadowRules: shadow, ShadowRulesStatPrefix: shadowPrefix(shadow, action)}))
		}
	}
	return out
}

// shadowPrefix is where Envoy counts what dry-run policies would do.
func shadowPrefix(shadow *rbac.RBAC, action mesh.Action) string {
	switch {
	case shadow == nil:
		return ""
	case action == mesh.Deny:
		return "istio_dry_run_deny_"
	}
	return "istio_dry_run_allow_"
}

var rbacActions = map[mesh.Action]rbac.RBAC_Action{mesh.Audit: rbac.RBAC_LOG, mesh.Deny: rbac.RBAC_DENY, mesh.Allow: rbac.RBAC_ALLOW}

// roles joins the policies of an action; nil where there are none. The second are those that are only counted. ALLOW without any rule
// lets nothing pass.
func roles(config *mesh.Config, guard *mesh.Guard, action mesh.Action, tcp bool) (rules, shadow *rbac.RBAC) {
	for _, policy := range guard.Authorization {
		if policy.Action != action {
			continue
		}
		into := &rules
		if policy.DryRun {
			into = &shadow
		}
		if *into == nil {
			*into = &rbac.RBAC{Action: rbacActions[action], Policies: map[string]*rbac.Policy{}}
		}
		addRules(*into, ruleBuilder{config: config, tcp: tcp}, policy, "")
	}
	return rules, shadow
}

// addRules gives each rule of a policy its place. On TCP what a rule says of requests cannot be known: a rule of ALLOW that does matches
// nothing, and one of the others matches by what remains.
func addRules(out *rbac.RBAC, b ruleBuilder, policy *mesh.AuthorizationPolicy, prefix string) {
	for i, rule := range policy.Rules {
		if b.tcp && policy.Action == mesh.Allow && speaksOfRequests(rule) {
			continue
		}
		out.Policies[prefix+"ns["+policy.Namespace+"]-policy["+policy.Name+"]-rule["+itoa(uint32(i))+"]"] = b.policy(rule)
	}
}

// onlyServerNames lets connections pass whose TLS asks for a name of an expression, and ends the others at their first bytes.
func onlyServerNames(policy, expression string) *listener.Filter {
	names := &rbac.Permission{Rule: &rbac.Permission_RequestedServerName{RequestedServerName: &matcher.StringMatcher{MatchPattern: &matcher.StringMatcher_SafeRegex{SafeRegex: regex(expression)}}}}
	return networkFilter(tcpRBAC, &tcprbac.RBAC{StatPrefix: "tcp.", Rules: &rbac.RBAC{Action: rbac.RBAC_ALLOW, Policies: map[string]*rbac.Policy{
		policy: {Permissions: []*rbac.Permission{names}, Principals: []*rbac.Principal{allOf(nil)}}}}})
}
