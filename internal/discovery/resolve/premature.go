package resolve

import (
	"slices"

	api "istio.io/api/networking/v1alpha3"
	networking "istio.io/client-go/pkg/apis/networking/v1"

	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
	"github.com/slipway-mesh/slipway/internal/discovery/source"
	"github.com/slipway-mesh/slipway/internal/discovery/world"
)

// Premature returns the places of those changes, of all that lead from one State to the other, that make a route lead to a Service or a
// subset that is not there, where it did not before. Such a change may be the first half of two: VirtualServices and DestinationRules
// come over watches of their own, and of what a user applied in the right order the second may be here first.
func Premature(before, after *State, changes []source.Change) map[int]bool {
	early := map[int]bool{}
	altered := map[string][]int{} // hosts whose rules may have lost subsets, each with the changes
	for i, change := range changes {
		switch change.Kind {
		case "VirtualService":
			if object, ok := change.Object.(*networking.VirtualService); ok && object != nil && after.strays(before, object) {
				early[i] = true
			}
		case "DestinationRule":
			for _, host := range losing(before.ruleOf(change), after.ruleOf(change)) {
				altered[host] = append(altered[host], i)
			}
		}
	}
	if len(altered) > 0 {
		after.cutOff(before, altered, early)
	}
	return early
}

// strays says whether a VirtualService sends somewhere that is not there, and did not before.
func (s *State) strays(before *State, object *networking.VirtualService) bool {
	known := map[[2]string]bool{}
	names := naming{s.options.Domain, object.Namespace}
	if old, ok := before.routes.Get(world.Key(object.Namespace, object.Name)); ok {
		destinations(&old.Spec, func(to *api.Destination, _ string) { known[[2]string{names.full(to.GetHost()), to.GetSubset()}] = true })
	}
	stray := false
	destinations(&object.Spec, func(to *api.Destination, _ string) {
		stray = stray || !known[[2]string{names.full(to.GetHost()), to.GetSubset()}] && !s.leads(names, to)
	})
	return stray
}

// leads says whether a destination is there.
func (s *State) leads(names naming, to *api.Destination) bool {
	if to.GetHost() == "" { // its own check tells
		return true
	}
	host := names.full(to.Host)
	service := s.known(host, names.namespace)
	return service != nil && (to.Subset == "" || s.hasSubset(service, host, names.namespace, to.Subset))
}

// ruleOf is the rule that a changed DestinationRule makes; nil if there is none.
func (s *State) ruleOf(change source.Change) *mesh.DestinationRule {
	host, _ := s.ruleHosts.Get(world.Key(change.Namespace, change.Name))
	rule, _ := s.World.Rules.Get(world.Key(host, change.Namespace, change.Name))
	return rule
}

// losing lists the hosts that may have fewer subsets than before: a rule that is new can stand in front of another.
func losing(before, after *mesh.DestinationRule) []string {
	switch {
	case before == nil && after == nil:
		return nil
	case before == nil:
		return []string{after.Host}
	case after == nil:
		return []string{before.Host}
	case before.Host != after.Host:
		return []string{before.Host, after.Host}
	}
	for _, subset := range before.Subsets {
		if !slices.ContainsFunc(after.Subsets, func(s mesh.Subset) bool { return s.Name == subset.Name }) {
			return []string{after.Host}
		}
	}
	return nil
}

// cutOff adds those changes of rules that take a subset away from under a route.
func (s *State) cutOff(before *State, altered map[string][]int, early map[int]bool) {
	s.routes.Root().Walk(func(_ []byte, object *networking.VirtualService) bool {
		names := naming{s.options.Domain, object.Namespace}
		destinations(&object.Spec, func(to *api.Destination, _ string) {
			if to.GetSubset() == "" {
				return
			}
			for _, pattern := range mesh.Wildcards(names.full(to.Host)) {
				if places := altered[pattern]; len(places) > 0 && !s.leads(names, to) && before.leads(names, to) {
					for _, i := range places {
						early[i] = true
					}
				}
			}
		})
		return false
	})
}
