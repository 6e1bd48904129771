package world

import (
	"slices"

	iradix "github.com/hashicorp/go-immutable-radix/v2"
	meshapi "istio.io/api/mesh/v1alpha1"

	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
)

// Guard collects the policies of a workload: those of its namespace and of the root namespace that select it, or select none. All of
// them count together.
func (w *World) Guard(namespace string, labels map[string]string) *mesh.Guard {
	out := &mesh.Guard{Keys: map[string]string{}, Providers: map[string]*meshapi.MeshConfig_ExtensionProvider{}}
	out.Authentication = selected(w.RequestAuthentications, w.Config.RootNamespace, namespace, labels, func(p *mesh.RequestAuthentication) (map[string]string, int64, mesh.Owner) {
		return p.Selector, p.Created, p.Owner
	})
	for _, p := range out.Authentication {
		for _, rule := range p.Rules {
			if keys, ok := w.Keys.Get([]byte(mesh.KeySource(rule))); ok {
				out.Keys[mesh.KeySource(rule)] = keys
			}
		}
	}
	out.Authorization = selected(w.AuthorizationPolicies, w.Config.RootNamespace, namespace, labels, func(p *mesh.AuthorizationPolicy) (map[string]string, int64, mesh.Owner) {
		return p.Selector, p.Created, p.Owner
	})
	slices.SortStableFunc(out.Authorization, func(a, b *mesh.AuthorizationPolicy) int { return int(a.Action) - int(b.Action) })
	for _, p := range out.Authorization {
		if provider := w.Config.Providers[p.Provider]; provider != nil {
			out.Providers[p.Provider] = provider
		}
	}
	return out
}

// selected lists the policies of a kind that are for a workload, those of the root namespace first, older before younger.
func selected[P any](tree *iradix.Tree[P], root, namespace string, labels map[string]string, facts func(P) (map[string]string, int64, mesh.Owner)) []P {
	var out []P
	for _, from := range []string{root, namespace} {
		var list []P
		for _, p := range Below(tree, from) {
			if selector, _, _ := facts(p); mesh.MatchesLabels(selector, labels) {
				list = append(list, p)
			}
		}
		slices.SortStableFunc(list, func(a, b P) int {
			_, createdA, ownerA := facts(a)
			_, createdB, ownerB := facts(b)
			if older(createdA, ownerA, createdB, ownerB) {
				return -1
			}
			return 1
		})
		out = append(out, list...)
		if namespace == root {
			break
		}
	}
	return out
}
