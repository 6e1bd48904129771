package resolve

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	security "istio.io/client-go/pkg/apis/security/v1"

	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
	"github.com/slipway-mesh/slipway/internal/discovery/world"
)

func (s *step) requestAuthentication(namespace, name string, object *security.RequestAuthentication) {
	r := &report{kind: "RequestAuthentication", namespace: namespace, name: name}
	defer s.keepProblems(r)
	key := world.Key(namespace, name)
	s.guardChanged(namespace)
	if before, ok := s.World.RequestAuthentications.Get(key); ok {
		s.countKeySources(before, -1)
	}
	if object == nil || targetsOthers(object.Spec.TargetRef != nil || len(object.Spec.TargetRefs) > 0, r) {
		s.World.RequestAuthentications, _, _ = s.World.RequestAuthentications.Delete(key)
		return
	}
	out := &mesh.RequestAuthentication{
		Owner: mesh.Owner{Kind: r.kind, Namespace: namespace, Name: name}, Selector: object.Spec.GetSelector().GetMatchLabels(), Created: object.CreationTimestamp.Unix(),
	}
	for i, rule := range object.Spec.JwtRules {
		field := fmt.Sprintf("spec.jwtRules[%d]", i)
		if rule.Issuer == "" {
			r.refuse(field+".issuer", "is required")
			continue
		}
		if rule.Jwks != "" && !json.Valid([]byte(rule.Jwks)) {
			r.refuse(field+".jwks", "is no JSON; every token of the issuer is refused")
		}
		out.Rules = append(out.Rules, rule)
	}
	s.countKeySources(out, 1)
	s.World.RequestAuthentications, _, _ = s.World.RequestAuthentications.Insert(key, out)
}

// countKeySources keeps which key sources any rule needs, and how long each waits for them.
func (s *step) countKeySources(of *mesh.RequestAuthentication, by int) {
	for _, rule := range of.Rules {
		if source := mesh.KeySource(rule); source != "" {
			s.countSource(source, rule.GetTimeout().AsDuration(), by)
		}
	}
}

// countSources keeps which bundles of roots are needed.
func (s *step) countSources(bundles []string, by int) {
	for _, source := range bundles {
		s.countSource(source, 0, by)
	}
}

func (s *step) countSource(source string, wait time.Duration, by int) {
	key := world.Key(source, wait.String())
	uses, _ := s.World.KeySources.Get(key)
	s.World.KeySources = put(s.World.KeySources, key, uses+by, uses+by > 0)
}

// keySet takes the keys that were read from a source; without an object they are not known.
func (s *step) keySet(source string, object *mesh.KeySet) {
	before, _ := s.World.Keys.Get([]byte(source))
	after := ""
	if object != nil {
		after = object.Text
	}
	if before == after {
		return
	}
	s.World.Keys = put(s.World.Keys, []byte(source), after, after != "")
	s.dirty.Workloads("*")
	s.dirty.Gateways = true
	if slices.Contains(s.base.Bundles, source) {
		next := *s.base
		next.BundleRoots = s.bundleRoots(next.Bundles)
		s.base = &next
		s.watch()
	}
}
