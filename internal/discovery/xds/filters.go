package xds

import (
	"strings"

	iradix "github.com/hashicorp/go-immutable-radix/v2"

	"github.com/slipway-mesh/slipway/internal/discovery/envoy"
	"github.com/slipway-mesh/slipway/internal/discovery/envoy/patch"
	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
	"github.com/slipway-mesh/slipway/internal/discovery/scope"
)

// EnvoyFilters come last: a section that the proxies of some filters are sent is the shared one with patched resources in
// it. It follows the shared one by its differences, so that a change costs what it changes here too.

// patched is the sections of the proxies that have the same patches. It is guarded by the server's mutex.
type patched struct {
	set   *patch.Set // nil where there is no patch
	lines map[lineKey]*patchedLine
	added map[string]*envoy.Section // by type
	used  uint64                    // the last step in which some stream asked
}

type lineKey struct {
	typeURL string
	line    *envoy.Section
}

type patchedLine struct {
	source, made *envoy.Section
	used         uint64
}

// filtersOf is the patches of a stream. They are found anew only when some EnvoyFilter changed.
func (s *Server) filtersOf(st *stream) *patched {
	if st.filterTree != s.world.EnvoyFilters {
		st.filterTree, st.filterKey = s.world.EnvoyFilters, filterKey(scope.Filters(s.world, st.proxy), st.proxy)
	}
	if st.filterKey == "" {
		return nil
	}
	p := s.patched[st.filterKey]
	if p == nil {
		p = &patched{set: patch.New(scope.Filters(s.world, st.proxy), st.proxy), lines: map[lineKey]*patchedLine{}, added: map[string]*envoy.Section{}}
		s.patched[st.filterKey] = p
	}
	if p.used = s.step; p.set == nil {
		return nil
	}
	return p
}

// filterKey tells proxies with different patches apart. Those of a filter that looks at the proxy itself are for that alone.
func filterKey(filters []*mesh.EnvoyFilter, proxy *mesh.Proxy) string {
	var key strings.Builder
	for _, filter := range filters {
		key.WriteString(filter.Namespace + "/" + filter.Name + "@" + filter.Form + " ")
		for _, p := range filter.Patches {
			if p.GetMatch().GetProxy() != nil {
				key.WriteString(proxy.ID + " ")
				break
			}
		}
	}
	if key.Len() > 0 {
		key.WriteString(string(proxy.Kind))
	}
	return key.String()
}

// forgetFilters drops what no stream asked for in this step.
func (s *Server) forgetFilters() {
	for key, p := range s.patched {
		if p.used != s.step {
			delete(s.patched, key)
			continue
		}
		for line, made := range p.lines {
			if made.used != s.step {
				delete(p.lines, line)
			}
		}
	}
}

// apply patches the sections of a target, and adds those of what patches add.
func (p *patched) apply(t *target, step uint64) {
	for i, url := range typeURLs {
		if !p.set.Touches(url) {
			continue
		}
		parts := make([]*envoy.Section, 0, len(t.parts[i])+1)
		for _, source := range t.parts[i] {
			parts = append(parts, p.section(url, source, step))
		}
		if i != hostIndex {
			parts = append(parts, p.addition(url))
		} else {
			parts = append(parts, p.addedHosts(t.parts[routeIndex], step))
		}
		t.parts[i] = parts
	}
	hosts := t.parts[hostIndex]
	t.hostsOf = func(table string) []*envoy.Resource {
		var all []*envoy.Resource
		for _, section := range hosts {
			all = append(all, envoy.HostsIn(section, table)...)
		}
		return all
	}
	t.finish, t.patches = p.set.Table, p.set
}

// line finds what was made last, or begins, and notes that it is in use.
func (p *patched) line(key lineKey, step uint64) *patchedLine {
	line := p.lines[key]
	if line == nil {
		line = &patchedLine{made: envoy.EmptySection()}
		p.lines[key] = line
	}
	line.used = step
	return line
}

// section is the patched form of a shared section.
func (p *patched) section(url string, source *envoy.Section, step uint64) *envoy.Section {
	line := p.line(lineKey{url, source.Line()}, step)
	if line.source != source {
		changed, removed := source.Diff(line.source)
		changes := make(map[string]*envoy.Resource, len(changed)+len(removed))
		for _, name := range removed {
			changes[name] = nil
		}
		for _, r := range changed {
			changes[r.Name] = p.set.Apply(r)
		}
		line.source, line.made = source, line.made.Next(changes)
	}
	return line.made
}

// addition is the section of what patches add of a type.
func (p *patched) addition(url string) *envoy.Section {
	section := p.added[url]
	if section == nil {
		section = sectionOf(p.set.Added(url))
		p.added[url] = section
	}
	return section
}

// addedHosts is the section of the virtual hosts that patches add to tables.
func (p *patched) addedHosts(tables []*envoy.Section, step uint64) *envoy.Section {
	line := p.line(lineKey{envoy.VirtualHostType, nil}, step)
	source := tables[0]
	if line.source == source {
		return line.made
	}
	changes := map[string]*envoy.Resource{}
	line.made.Each(func(r *envoy.Resource) { changes[r.Name] = nil })
	each(tables, func(table *envoy.Resource) {
		for _, r := range p.set.AddedHosts(table.Name) {
			changes[r.Name] = r
		}
	})
	line.source, line.made = source, line.made.Next(changes)
	return line.made
}

func sectionOf(resources []*envoy.Resource) *envoy.Section {
	changes := map[string]*envoy.Resource{}
	for _, r := range resources {
		changes[r.Name] = r
	}
	return envoy.EmptySection().Next(changes)
}

// filterTree is the type of the world's EnvoyFilters.
type filterTree = *iradix.Tree[*mesh.EnvoyFilter]
