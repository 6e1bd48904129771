package resolve

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"
	api "istio.io/api/networking/v1alpha3"
	networking "istio.io/client-go/pkg/apis/networking/v1"

	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
	"github.com/slipway-mesh/slipway/internal/discovery/world"
)

// A VirtualService without hosts is a delegate: a rule of another one, its root, can hand over to it by name. What the root
// matches then narrows what the delegate matches, and the root's settings stand where the delegate has none. A delegate has no
// delegates itself. https://istio.io/latest/docs/reference/config/networking/virtual-service/#Delegate

// delegateKey names a rule's delegate, which is in the root's namespace unless it says another.
func delegateKey(d *api.Delegate, namespace string) []byte {
	if d.Namespace != "" {
		namespace = d.Namespace
	}
	return world.Key(namespace, d.Name)
}

// noteDelegates keeps which delegates a root has, so that a changed delegate is found to be its roots' business.
func (s *step) noteDelegates(namespace, name string, object *networking.VirtualService, there bool) {
	if object == nil {
		return
	}
	for _, rule := range object.Spec.Http {
		if rule.Delegate != nil {
			s.roots = put(s.roots, append(append(delegateKey(rule.Delegate, namespace), 0), world.Key(namespace, name)...), rootOf{namespace, name}, there)
		}
	}
}

type rootOf struct{ namespace, name string }

// expand puts a delegate's rules in the place of the rule that hands over to it.
func (s *step) expand(names naming, root *api.HTTPRoute, field string, r *report) []*mesh.Route {
	field += ".delegate"
	object, ok := s.routes.Get(delegateKey(root.Delegate, names.namespace))
	if !ok {
		r.warn(field, ReasonReference, "there is no VirtualService %s; the rule has no effect", root.Delegate.Name)
		return nil
	}
	if len(object.Spec.Hosts) > 0 {
		r.warn(field, ReasonInvalid, "VirtualService %s has hosts, so it is no delegate; the rule has no effect", root.Delegate.Name)
		return nil
	}
	if !mesh.Exported(object.Spec.ExportTo, object.Namespace, names.namespace) {
		r.warn(field, ReasonInvalid, "VirtualService %s is not exported to namespace %s; the rule has no effect", root.Delegate.Name, names.namespace)
		return nil
	}
	var out []*mesh.Route
	for i, rule := range object.Spec.Http {
		merged, ok := mergeRule(names, root, rule)
		if !ok {
			r.warn(field, ReasonInvalid, "what the rule matches and what spec.http[%d] of VirtualService %s matches have nothing in common", i, root.Delegate.Name)
			continue
		}
		own := &report{} // the delegate itself reports on its rules
		if route := convertRoute(naming{names.domain, object.Namespace}, merged, "", own); route != nil {
			out = append(out, route)
		}
	}
	return out
}

// mergeRule joins a root's rule and one of its delegate's; false if no request can meet both.
func mergeRule(names naming, root, rule *api.HTTPRoute) (*api.HTTPRoute, bool) {
	out := proto.Clone(rule).(*api.HTTPRoute)
	if out.Name == "" {
		out.Name = root.Name
	} else if root.Name != "" {
		out.Name = root.Name + "-" + out.Name
	}
	otherwise(&out.Rewrite, root.Rewrite)
	otherwise(&out.Timeout, root.Timeout)
	otherwise(&out.Retries, root.Retries)
	otherwise(&out.Fault, root.Fault)
	otherwise(&out.CorsPolicy, root.CorsPolicy)
	otherwise(&out.Headers, root.Headers)
	if out.Mirror == nil && root.Mirror != nil { // its host is meant as the root's namespace has it
		out.Mirror = proto.Clone(root.Mirror).(*api.Destination)
		out.Mirror.Host = names.full(out.Mirror.Host)
		out.MirrorPercentage = root.MirrorPercentage
	}
	switch {
	case len(root.Match) == 0:
		return out, true
	case len(out.Match) == 0:
		out.Match = root.Match
		return out, true
	}
	var matches []*api.HTTPMatchRequest
	for _, m := range out.Match {
		for _, above := range root.Match {
			if merged, ok := mergeMatch(above, m); ok {
				matches = append(matches, merged)
			}
		}
	}
	out.Match = matches
	return out, len(matches) > 0
}

// otherwise takes a value where there is none.
func otherwise[T any](value **T, above *T) {
	if *value == nil {
		*value = above
	}
}

// mergeMatch is what meets both matches; false if nothing can be said to.
func mergeMatch(above, m *api.HTTPMatchRequest) (*api.HTTPMatchRequest, bool) {
	out := proto.Clone(m).(*api.HTTPMatchRequest)
	ok := mergeString(&out.Uri, above.Uri) && mergeString(&out.Scheme, above.Scheme) && mergeString(&out.Method, above.Method) && mergeString(&out.Authority, above.Authority) &&
		mergeStrings(&out.Headers, above.Headers) && mergeStrings(&out.WithoutHeaders, above.WithoutHeaders) && mergeStrings(&out.QueryParams, above.QueryParams) &&
		mergeValue(&out.Port, above.Port) && mergeValue(&out.SourceNamespace, above.SourceNamespace) && mergeLabels(&out.SourceLabels, above.SourceLabels)
	if above.Name != "" {
		out.Name = strings.TrimSuffix(above.Name+"-"+m.Name, "-")
	}
	out.IgnoreUriCase = out.IgnoreUriCase || above.IgnoreUriCase
	if len(out.Gateways) == 0 {
		out.Gateways = above.Gateways
	}
	return out, ok
}

func mergeValue[T comparable](value *T, above T) bool {
	var none T
	if *value == none {
		*value = above
	}
	return above == none || *value == above
}

func mergeLabels(labels *map[string]string, above map[string]string) bool {
	for name, value := range above {
		if own, there := (*labels)[name]; there && own != value {
			return false
		}
		if *labels == nil {
			*labels = map[string]string{}
		}
		(*labels)[name] = value
	}
	return true
}

func mergeStrings(values *map[string]*api.StringMatch, above map[string]*api.StringMatch) bool {
	for name, value := range above {
		own := (*values)[name]
		if !mergeString(&own, value) {
			return false
		}
		if *values == nil {
			*values = map[string]*api.StringMatch{}
		}
		(*values)[name] = own
	}
	return true
}

// mergeString keeps the narrower of two: within a prefix there can be a longer prefix or an exact text. Whether two regular
// expressions have something in common cannot be told, so beside one only itself will do.
func mergeString(value **api.StringMatch, above *api.StringMatch) bool {
	switch {
	case above.GetMatchType() == nil:
		return true
	case (*value).GetMatchType() == nil:
		*value = above
		return true
	}
	own := *value
	if prefix, ok := above.MatchType.(*api.StringMatch_Prefix); ok {
		switch text := own.MatchType.(type) {
		case *api.StringMatch_Prefix:
			return strings.HasPrefix(text.Prefix, prefix.Prefix)
		case *api.StringMatch_Exact:
			return strings.HasPrefix(text.Exact, prefix.Prefix)
		}
	}
	return proto.Equal(own, above)
}

// delegateProblems says what is wrong with a delegate by itself.
func delegateProblems(object *networking.VirtualService, r *report) {
	if len(object.Spec.Gateways) > 0 {
		r.warn("spec.gateways", ReasonInvalid, "a delegate has none: those of its root count")
	}
	if len(object.Spec.Tls)+len(object.Spec.Tcp) > 0 {
		r.warn("spec", ReasonInvalid, "a delegate has http rules only; tls and tcp have no effect")
	}
	for i, rule := range object.Spec.Http {
		if rule.Delegate != nil {
			r.warn(fmt.Sprintf("spec.http[%d].delegate", i), ReasonInvalid, "a delegate cannot have delegates; the rule has no effect")
		}
	}
}
