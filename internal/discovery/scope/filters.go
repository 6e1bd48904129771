package scope

import (
	"cmp"
	"slices"

	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
	"github.com/slipway-mesh/slipway/internal/discovery/world"
)

// Filters lists the EnvoyFilters of a proxy in the order in which they apply: those of the root namespace, then those of
// its own; among these by priority, age and name.
func Filters(w *world.World, proxy *mesh.Proxy) []*mesh.EnvoyFilter {
	if w.EnvoyFilters.Len() == 0 {
		return nil
	}
	list := filtersOf(w, w.Config.RootNamespace, proxy)
	if proxy.Namespace != w.Config.RootNamespace {
		list = append(list, filtersOf(w, proxy.Namespace, proxy)...)
	}
	return list
}

func filtersOf(w *world.World, namespace string, proxy *mesh.Proxy) []*mesh.EnvoyFilter {
	list := slices.DeleteFunc(world.Below(w.EnvoyFilters, namespace), func(f *mesh.EnvoyFilter) bool {
		return !mesh.MatchesLabels(f.Selector, proxy.Labels)
	})
	slices.SortStableFunc(list, func(a, b *mesh.EnvoyFilter) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.Created, b.Created), cmp.Compare(a.Name, b.Name))
	})
	return list
}
