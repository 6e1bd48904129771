package resolve

import (
	"fmt"
	"regexp"
	"strings"

	api "istio.io/api/networking/v1alpha3"
	networking "istio.io/client-go/pkg/apis/networking/v1"

	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
	"github.com/slipway-mesh/slipway/internal/discovery/source"
	"github.com/slipway-mesh/slipway/internal/discovery/world"
)

func (s *step) virtualService(namespace, name string, object *networking.VirtualService) {
	key := world.Key(namespace, name)
	before, _ := s.routes.Get(key)
	s.noteDelegates(namespace, name, before, false)
	s.noteDelegates(namespace, name, object, true)
	s.routes = put(s.routes, key, object, object != nil)
	s.resolveRoutes(namespace, name)
	for _, root := range world.Below(s.roots, namespace, name) {
		s.resolveRoutes(root.namespace, root.name)
	}
}

// resolveRoutes computes one VirtualService anew: it changed, or a delegate of its.
func (s *step) resolveRoutes(namespace, name string) {
	key := world.Key(namespace, name)
	if before, ok := s.virtual.Get(key); ok {
		s.forgetVirtualService(before)
		s.virtual, _, _ = s.virtual.Delete(key)
	}
	r := &report{kind: "VirtualService", namespace: namespace, name: name}
	defer s.keepProblems(r)
	object, there := s.routes.Get(key)
	if !there {
		return
	}
	for _, field := range splitList(object.Annotations[source.OlderFields]) {
		r.warn(field, ReasonDeprecated, "is not in the API any more and is read as percentage; write percentage: {value: N}")
	}
	converted := s.convertVirtualService(object, r)
	s.virtual, _, _ = s.virtual.Insert(key, converted)
	for _, host := range converted.Hosts {
		s.World.VirtualServices, _, _ = s.World.VirtualServices.Insert(world.Key(host, namespace, name), converted)
	}
	converted.EachDestination(func(d mesh.Destination) {
		s.World.Leading, _, _ = s.World.Leading.Insert(world.Key(d.Host, namespace, name), converted)
	})
	s.markRoutes(converted)
	s.countTests(converted, 1)
}

func (s *step) forgetVirtualService(v *mesh.VirtualService) {
	for _, host := range v.Hosts {
		s.World.VirtualServices, _, _ = s.World.VirtualServices.Delete(world.Key(host, v.Namespace, v.Name))
	}
	v.EachDestination(func(d mesh.Destination) {
		s.World.Leading, _, _ = s.World.Leading.Delete(world.Key(d.Host, v.Namespace, v.Name))
	})
	s.markRoutes(v)
	s.countTests(v, -1)
}

func (s *step) markRoutes(v *mesh.VirtualService) {
	for _, gateway := range v.Gateways {
		if gateway == "mesh" {
			for _, host := range v.Hosts {
				s.dirty.Host(host)
			}
			if s.World.Sidecars.Len() > 0 { // they import what a VirtualService sends to
				v.EachDestination(func(d mesh.Destination) { s.dirty.Host(d.Host) })
			}
		} else {
			s.dirty.Gateways = true
		}
	}
}

// countTests keeps which conditions on callers there are.
func (s *step) countTests(v *mesh.VirtualService, by int) {
	for _, route := range v.HTTP {
		for _, match := range route.Match {
			s.countTest(match.SourceNamespace, match.SourceLabels, by)
		}
	}
	for _, rules := range [][]*mesh.L4Route{v.TLS, v.TCP} {
		for _, rule := range rules {
			s.countTest(rule.SourceNS, rule.SourceLabels, by)
		}
	}
}

// countTest keeps one condition in World.SourceTests while anything has it.
func (s *step) countTest(namespace string, labels map[string]string, by int) {
	if len(labels) == 0 && namespace == "" {
		return
	}
	key := world.TestKey(namespace, labels)
	test, _ := s.World.SourceTests.Get(key)
	if test.Uses == 0 {
		test = world.SourceTest{Labels: labels, Namespace: namespace}
	}
	test.Uses += by
	if test.Uses <= 1 {
		s.dirty.Tests = true
	}
	s.World.SourceTests = put(s.World.SourceTests, key, test, test.Uses > 0)
}

func (s *step) convertVirtualService(object *networking.VirtualService, r *report) *mesh.VirtualService {
	spec := &object.Spec
	names := naming{s.options.Domain, object.Namespace}
	out := &mesh.VirtualService{
		Owner:    mesh.Owner{Kind: r.kind, Namespace: object.Namespace, Name: object.Name},
		ExportTo: spec.ExportTo, Created: object.CreationTimestamp.Unix(), Gateways: gatewayNames(spec.Gateways, object.Namespace),
	}
	if len(spec.Hosts) == 0 {
		delegateProblems(object, r)
	}
	for i, host := range spec.Hosts {
		if !isHost(host) {
			r.refuse(fmt.Sprintf("spec.hosts[%d]", i), "%q is no host", host)
			continue
		}
		out.Hosts = append(out.Hosts, names.full(host))
	}
	for i, from := range spec.Http {
		field := fmt.Sprintf("spec.http[%d]", i)
		if from.Delegate != nil {
			if len(spec.Hosts) > 0 && checkDelegate(from, field, r) {
				out.HTTP = append(out.HTTP, s.expand(names, from, field, r)...)
			}
			continue
		}
		if route := convertRoute(names, from, field, r); route != nil {
			out.HTTP = append(out.HTTP, route)
		}
	}
	checkReach(spec.Http, r)
	for i, from := range spec.Tls {
		out.TLS = append(out.TLS, convertTLS(names, from, fmt.Sprintf("spec.tls[%d]", i), r)...)
	}
	for i, from := range spec.Tcp {
		out.TCP = append(out.TCP, convertTCP(names, from, fmt.Sprintf("spec.tcp[%d]", i), r)...)
	}
	if len(spec.Http)+len(spec.Tls)+len(spec.Tcp) == 0 {
		r.refuse("spec", "there is no http, tls or tcp rule; add one")
	}
	return out
}

// naming completes short host names.
type naming struct{ domain, namespace string }

// full completes a name without a dot by the namespace's domain; other names stand.
func (n naming) full(host string) string {
	if host == "" || host == "*" || strings.Contains(host, ".") {
		return host
	}
	return host + "." + n.namespace + ".svc." + n.domain
}

func gatewayNames(gateways []string, namespace string) []string {
	if len(gateways) == 0 {
		return []string{"mesh"}
	}
	out := make([]string, 0, len(gateways))
	for _, gateway := range gateways {
		if gateway != "mesh" && !strings.Contains(gateway, "/") {
			gateway = namespace + "/" + gateway
		}
		out = append(out, gateway)
	}
	return out
}

// convertRoute returns nil where the rule cannot be carried out.
func convertRoute(names naming, from *api.HTTPRoute, field string, r *report) *mesh.Route {
	out := &mesh.Route{
		Name: from.Name, Match: from.Match, Redirect: from.Redirect, DirectResponse: from.DirectResponse, Rewrite: from.Rewrite,
		Retries: from.Retries, Fault: from.Fault, CORS: from.CorsPolicy, Headers: from.Headers,
	}
	if from.Timeout != nil {
		out.TimeoutMillis = from.Timeout.AsDuration().Milliseconds()
	}
	usable := checkMatches(from.Match, field, r)
	switch {
	case from.DirectResponse != nil && (from.DirectResponse.Status < 200 || from.DirectResponse.Status > 599):
		r.refuse(field+".directResponse.status", "%d is not between 200 and 599", from.DirectResponse.Status)
		return nil
	case from.Redirect != nil || from.DirectResponse != nil:
		if len(from.Route) > 0 {
			r.refuse(field+".route", "a rule with redirect or directResponse cannot have a route; remove one of them")
			return nil
		}
	case len(from.Route) == 0:
		r.refuse(field, "the rule has no route, redirect or directResponse; add one")
		return nil
	}
	for i, destination := range from.Route {
		out.Destinations = append(out.Destinations, convertDestination(names, destination.Destination, uint32(destination.Weight), destination.Headers,
			fmt.Sprintf("%s.route[%d].destination", field, i), r))
	}
	checkWeights(from.Route, field, r)
	out.Mirrors = convertMirrors(names, from, field, r)
	checkFault(from.Fault, field, r)
	if !usable {
		return nil
	}
	return out
}

// checkDelegate says whether a rule that hands over does nothing else.
func checkDelegate(from *api.HTTPRoute, field string, r *report) bool {
	if len(from.Route) > 0 || from.Redirect != nil || from.DirectResponse != nil {
		r.refuse(field+".delegate", "a rule with a delegate cannot have a route, redirect or directResponse; remove one of them")
		return false
	}
	return checkMatches(from.Match, field, r)
}

func convertDestination(names naming, from *api.Destination, weight uint32, headers *api.Headers, field string, r *report) mesh.Destination {
	if from == nil || from.Host == "" {
		r.refuse(field+".host", "is required")
		return mesh.Destination{Weight: weight}
	}
	return mesh.Destination{Host: names.full(from.Host), Subset: from.Subset, Port: from.GetPort().GetNumber(), Weight: weight, Headers: headers}
}

func checkWeights(routes []*api.HTTPRouteDestination, field string, r *report) {
	total := int32(0)
	for _, route := range routes {
		if route.Weight < 0 {
			r.refuse(field+".route", "a weight is negative")
		}
		total += route.Weight
	}
	if len(routes) > 1 && total == 0 {
		r.refuse(field+".route", "the weights of %d destinations add up to 0; give at least one a weight", len(routes))
	}
}

func convertMirrors(names naming, from *api.HTTPRoute, field string, r *report) []mesh.Mirror {
	var out []mesh.Mirror
	if from.Mirror != nil {
		percent := 100.0
		if from.MirrorPercentage != nil {
			percent = from.MirrorPercentage.Value
		} else if from.MirrorPercent != nil { //nolint:staticcheck // what older documents write
			percent = float64(from.MirrorPercent.Value) //nolint:staticcheck // the same
		}
		out = append(out, mesh.Mirror{Destination: convertDestination(names, from.Mirror, 0, nil, field+".mirror", r), Percent: percent})
	}
	for i, mirror := range from.Mirrors {
		percent := 100.0
		if mirror.Percentage != nil {
			percent = mirror.Percentage.Value
		}
		out = append(out, mesh.Mirror{Destination: convertDestination(names, mirror.Destination, 0, nil, fmt.Sprintf("%s.mirrors[%d].destination", field, i), r), Percent: percent})
	}
	return out
}

// checkMatches says whether all matches can be carried out. One that cannot takes its rule along: to drop only the match
// could make the rule match everything.
func checkMatches(matches []*api.HTTPMatchRequest, field string, r *report) bool {
	before := len(r.list)
	for i, m := range matches {
		at := fmt.Sprintf("%s.match[%d]", field, i)
		checkString(m.Uri, at+".uri", r)
		checkString(m.Scheme, at+".scheme", r)
		checkString(m.Method, at+".method", r)
		checkString(m.Authority, at+".authority", r)
		for _, set := range []struct {
			name   string
			values map[string]*api.StringMatch
		}{{"headers", m.Headers}, {"withoutHeaders", m.WithoutHeaders}, {"queryParams", m.QueryParams}} {
			for _, name := range sortedKeys(set.values) {
				checkString(set.values[name], at+"."+set.name+"["+name+"]", r)
			}
		}
	}
	return len(r.list) == before
}

func checkString(m *api.StringMatch, field string, r *report) {
	if text, ok := m.GetMatchType().(*api.StringMatch_Regex); ok && text.Regex != "*" {
		if _, err := regexp.Compile(text.Regex); err != nil {
			r.add(field+".regex", ReasonRegexp, true, fmt.Sprintf("%q is no RE2 regular expression: %v", text.Regex, err))
		}
	}
}

func checkFault(fault *api.HTTPFaultInjection, field string, r *report) {
	if d := fault.GetDelay(); d != nil && d.GetFixedDelay() == nil {
		r.refuse(field+".fault.delay.fixedDelay", "is required")
	}
	if a := fault.GetAbort(); a != nil {
		if status := a.GetHttpStatus(); a.GetGrpcStatus() == "" && (status < 200 || status > 599) {
			r.refuse(field+".fault.abort.httpStatus", "%d is not between 200 and 599", status)
		}
	}
}
