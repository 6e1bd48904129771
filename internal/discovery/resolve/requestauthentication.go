package resolve

import (
	"encoding/json"
	"fmt"
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
	before, _ := s.World.RequestAuthentications.Get(key)
	defer func() {
		after, _ := s.World.RequestAuthentications.Get(key)
		s.needKeys(before)
		s.needKeys(after)
	}()
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
	s.World.RequestAuthentications, _, _ = s.World.RequestAuthentications.Insert(key, out)
}

// needKeys keeps which sources of an object's rules any rule needs, and how long the most patient one waits for them.
func (s *step) needKeys(of *mesh.RequestAuthentication) {
	if of == nil {
		return
	}
	for _, rule := range of.Rules {
		source := mesh.KeySource(rule)
		if source == "" {
			continue
		}
		needed, longest := false, time.Duration(0)
		s.World.RequestAuthentications.Root().Walk(func(_ []byte, other *mesh.RequestAuthentication) bool {
			for _, rule := range other.Rules {
				if mesh.KeySource(rule) == source {
					needed, longest = true, max(longest, rule.GetTimeout().AsDuration())
				}
			}
			return false
		})
		s.World.KeySources = put(s.World.KeySources, []byte(source), longest, needed)
	}
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
}
