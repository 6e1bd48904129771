package resolve

import (
	"fmt"
	"slices"
	"strings"

	api "istio.io/api/networking/v1alpha3"
	networking "istio.io/client-go/pkg/apis/networking/v1"

	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
	"github.com/slipway-mesh/slipway/internal/discovery/world"
)

func (s *step) destinationRule(namespace, name string, object *networking.DestinationRule) {
	for _, before := range s.rulesNamed(namespace, name) {
		s.World.Rules, _, _ = s.World.Rules.Delete(world.Key(before.Host, namespace, name))
		s.dirty.Host(before.Host)
		s.countRule(before, -1)
	}
	r := &report{kind: "DestinationRule", namespace: namespace, name: name}
	defer s.keepProblems(r)
	if object == nil {
		return
	}
	spec := &object.Spec
	if spec.Host == "" {
		r.refuse("spec.host", "is required")
		return
	}
	if !isHost(spec.Host) {
		r.refuse("spec.host", "%q is no host", spec.Host)
		return
	}
	converted := &mesh.DestinationRule{
		Owner: mesh.Owner{Kind: r.kind, Namespace: namespace, Name: name}, Host: naming{s.options.Domain, namespace}.full(spec.Host),
		ExportTo: spec.ExportTo, Created: object.CreationTimestamp.Unix(), Policy: spec.TrafficPolicy, Selector: spec.GetWorkloadSelector().GetMatchLabels(),
	}
	seen := map[string]bool{}
	for i, subset := range spec.Subsets {
		field := fmt.Sprintf("spec.subsets[%d].name", i)
		switch {
		case subset.Name == "":
			r.refuse(field, "is required")
		case seen[subset.Name]:
			r.refuse(field, "%q stands twice; the first counts", subset.Name)
		default:
			seen[subset.Name] = true
			converted.Subsets = append(converted.Subsets, mesh.Subset{Name: subset.Name, Labels: subset.Labels, Policy: subset.TrafficPolicy})
		}
	}
	soundRule(converted, r)
	for _, policy := range converted.Policies() {
		checkPolicy(policy, r)
	}
	s.countRule(converted, 1)
	s.World.Rules, _, _ = s.World.Rules.Insert(world.Key(converted.Host, namespace, name), converted)
	s.dirty.Host(converted.Host)
	s.ruleHosts, _, _ = s.ruleHosts.Insert(world.Key(namespace, name), converted.Host)
}

// countRule keeps what a rule asks about callers: whom it selects, and where they run.
func (s *step) countRule(rule *mesh.DestinationRule, by int) {
	if len(rule.Selector) > 0 {
		s.countTest(rule.Namespace, rule.Selector, by)
	}
	for _, policy := range rule.Policies() {
		s.countPlaces(policy.LoadBalancer.GetLocalityLbSetting(), policy.LoadBalancer.GetZoneAwareLbSetting(), policy.OutlierDetection, by)
	}
}

// countPlaces keeps what settings look at of callers' places.
func (s *step) countPlaces(locality *api.LocalityLoadBalancerSetting, zone *api.ZoneAwareLoadBalancerSetting, outliers *api.OutlierDetection, by int) {
	if locality != nil || zone != nil || outliers != nil { // without any, nobody looks
		s.countPlace("", by)
	}
	for _, label := range slices.Concat(locality.GetFailoverPriority(), zone.GetFailoverPriority()) {
		name, _, _ := strings.Cut(label, "=")
		s.countPlace(name, by)
	}
}

// countPlace keeps a label in World.PlaceTests while anything looks at it.
func (s *step) countPlace(label string, by int) {
	uses, _ := s.World.PlaceTests.Get([]byte(label))
	if uses == 0 || uses+by == 0 {
		s.dirty.Tests = true
	}
	s.World.PlaceTests = put(s.World.PlaceTests, []byte(label), uses+by, uses+by > 0)
}

// rulesNamed finds the rule that an object made before, which may have been for another host.
func (s *step) rulesNamed(namespace, name string) []*mesh.DestinationRule {
	host, ok := s.ruleHosts.Get(world.Key(namespace, name))
	if !ok {
		return nil
	}
	s.ruleHosts, _, _ = s.ruleHosts.Delete(world.Key(namespace, name))
	if rule, ok := s.World.Rules.Get(world.Key(host, namespace, name)); ok {
		return []*mesh.DestinationRule{rule}
	}
	return nil
}
