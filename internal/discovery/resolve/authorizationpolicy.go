package resolve

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	api "istio.io/api/security/v1beta1"
	security "istio.io/client-go/pkg/apis/security/v1"

	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
	"github.com/slipway-mesh/slipway/internal/discovery/world"
)

// dryRunAnnotation makes a policy be counted only.
const dryRunAnnotation = "istio.io/dry-run"

var actions = map[api.AuthorizationPolicy_Action]mesh.Action{
	api.AuthorizationPolicy_ALLOW: mesh.Allow, api.AuthorizationPolicy_DENY: mesh.Deny, api.AuthorizationPolicy_AUDIT: mesh.Audit, api.AuthorizationPolicy_CUSTOM: mesh.Custom,
}

func (s *step) authorizationPolicy(namespace, name string, object *security.AuthorizationPolicy) {
	r := &report{kind: "AuthorizationPolicy", namespace: namespace, name: name}
	defer s.keepProblems(r)
	key := world.Key(namespace, name)
	s.guardChanged(namespace)
	if object == nil || targetsOthers(object.Spec.TargetRef != nil || len(object.Spec.TargetRefs) > 0, r) {
		s.World.AuthorizationPolicies, _, _ = s.World.AuthorizationPolicies.Delete(key)
		return
	}
	spec := &object.Spec
	out := &mesh.AuthorizationPolicy{
		Owner: mesh.Owner{Kind: r.kind, Namespace: namespace, Name: name}, Selector: spec.GetSelector().GetMatchLabels(), Created: object.CreationTimestamp.Unix(),
		Action: actions[spec.Action], Provider: spec.GetProvider().GetName(), DryRun: object.Annotations[dryRunAnnotation] == "true",
	}
	if out.Action == mesh.Custom && out.Provider == "" {
		r.refuse("spec.provider.name", "is required for action CUSTOM; all requests that match are denied")
	}
	// A rule that cannot be carried out does not only have no effect: to leave it out of a DENY would let through what it is against.
	// It matches nothing in ALLOW and everything in all others.
	for i, rule := range spec.Rules {
		if checkRule(rule, fmt.Sprintf("spec.rules[%d]", i), r) {
			out.Rules = append(out.Rules, rule)
		} else if out.Action != mesh.Allow {
			out.Rules = append(out.Rules, &api.Rule{})
		}
	}
	if len(spec.Rules) == 0 && out.Action != mesh.Allow {
		r.warn("spec.rules", ReasonInvalid, "there are none, so the policy matches nothing")
	}
	s.World.AuthorizationPolicies, _, _ = s.World.AuthorizationPolicies.Insert(key, out)
}

// guardChanged marks the workloads that a policy of a namespace bears upon.
func (s *step) guardChanged(namespace string) {
	if namespace == s.World.Config.RootNamespace {
		namespace = "*"
	}
	s.dirty.Workloads(namespace)
	s.dirty.Gateways = true
}

// targetsOthers says whether a policy is for what is not served here: waypoints and Gateways of the Gateway API.
func targetsOthers(targets bool, r *report) bool {
	if targets {
		r.warn("spec.targetRefs", ReasonUnsupported, "is not supported, and the policy has no effect; use selector")
	}
	return targets
}

// checkRule says whether a rule can be carried out.
func checkRule(rule *api.Rule, field string, r *report) bool {
	before := len(r.list)
	for i, from := range rule.From {
		at := fmt.Sprintf("%s.from[%d].source", field, i)
		source := from.Source
		if source == nil {
			r.refuse(at, "is required")
			continue
		}
		for name, blocks := range map[string][]string{"ipBlocks": source.IpBlocks, "notIpBlocks": source.NotIpBlocks, "remoteIpBlocks": source.RemoteIpBlocks, "notRemoteIpBlocks": source.NotRemoteIpBlocks} {
			checkBlocks(blocks, at+"."+name, r)
		}
	}
	for i, to := range rule.To {
		at := fmt.Sprintf("%s.to[%d].operation", field, i)
		if to.Operation == nil {
			r.refuse(at, "is required")
			continue
		}
		for name, ports := range map[string][]string{"ports": to.Operation.Ports, "notPorts": to.Operation.NotPorts} {
			checkPorts(ports, at+"."+name, r)
		}
		for name, paths := range map[string][]string{"paths": to.Operation.Paths, "notPaths": to.Operation.NotPaths} {
			checkPaths(paths, at+"."+name, r)
		}
	}
	for i, when := range rule.When {
		checkCondition(when, fmt.Sprintf("%s.when[%d]", field, i), r)
	}
	return !slices.ContainsFunc(r.list[before:], func(p Problem) bool { return p.Refuse })
}

func checkBlocks(blocks []string, field string, r *report) {
	for i, block := range blocks {
		_, err := netip.ParsePrefix(block)
		if _, single := netip.ParseAddr(block); err != nil && single != nil {
			r.refuse(fmt.Sprintf("%s[%d]", field, i), "%q is no IP address or CIDR", block)
		}
	}
}

func checkPorts(ports []string, field string, r *report) {
	for i, port := range ports {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			r.refuse(fmt.Sprintf("%s[%d]", field, i), "%q is not between 1 and 65535", port)
		}
	}
}

// checkPaths: {*} stands for a part of a path and {**} for many, the latter last.
func checkPaths(paths []string, field string, r *report) {
	for i, path := range paths {
		rest := strings.ReplaceAll(strings.ReplaceAll(path, "{**}", ""), "{*}", "")
		templated := rest != path
		if templated && strings.ContainsAny(rest, "{}*") || strings.Count(path, "{**}") > 1 {
			r.refuse(fmt.Sprintf("%s[%d]", field, i), "%q is no template: only {*} and one {**} stand for parts, and no other * beside them", path)
		}
	}
}

// conditionKeys are the keys of when; those with brackets have a name in them.
var conditionKeys = []string{"source.ip", "remote.ip", "source.namespace", "source.principal", "source.serviceAccount", "request.auth.principal", "request.auth.audiences", "request.auth.presenter",
	"destination.ip", "destination.port", "connection.sni"}

var conditionPatterns = regexp.MustCompile(`^(request\.headers\[[^\[\]]+\]|request\.auth\.claims(\[[^\[\]]+\])+|experimental\.envoy\.filters\..+)$`)

func checkCondition(when *api.Condition, field string, r *report) {
	if !slices.Contains(conditionKeys, when.Key) && !conditionPatterns.MatchString(when.Key) {
		r.refuse(field+".key", "%q is no condition; use one of %s, request.headers[NAME] or request.auth.claims[NAME]", when.Key, strings.Join(conditionKeys, ", "))
		return
	}
	if len(when.Values)+len(when.NotValues) == 0 {
		r.refuse(field+".values", "is required")
	}
	for name, values := range map[string][]string{"values": when.Values, "notValues": when.NotValues} {
		switch when.Key {
		case "source.ip", "remote.ip", "destination.ip":
			checkBlocks(values, field+"."+name, r)
		case "destination.port":
			checkPorts(values, field+"."+name, r)
		}
	}
}
