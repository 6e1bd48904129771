package xds

import "github.com/slipway-mesh/slipway/internal/discovery/envoy"

// holding is what a proxy says that it holds, as the Section that it is most alike and what differs.
type holding struct {
	base    *envoy.Section
	differs map[string]string // versions; empty for what the proxy lacks
}

func holdingOf(held held, now *envoy.Section) *holding {
	h := &holding{base: now, differs: map[string]string{}}
	complete := held.compare([]*envoy.Section{now}, func(name, version string, _ bool) { h.differs[name] = version })
	if !complete {
		versions := held.versions()
		now.Each(func(r *envoy.Resource) {
			if _, has := versions[r.Name]; !has {
				h.differs[r.Name] = ""
			}
		})
	}
	return h
}

// version returns what is held of a resource; empty is nothing, and so is what a nil holding has.
func (h *holding) version(name string) string {
	if h == nil {
		return ""
	}
	if version, differs := h.differs[name]; differs {
		return version
	}
	if r, there := h.base.Get(name); there {
		return r.Version
	}
	return ""
}

// lose forgets what is held of a table: the proxy dropped it with the table.
func (h *holding) lose(table string) {
	if h == nil {
		return
	}
	for name := range h.differs {
		if envoy.TableOf(name) == table {
			h.differs[name] = ""
		}
	}
	h.base.Items.WalkPrefix([]byte(table+"/"), func(_ []byte, r *envoy.Resource) bool {
		h.differs[r.Name] = ""
		return false
	})
}

// gone lists what is held of a table and is not there any more.
func (h *holding) gone(table string, there func(name string) bool) []string {
	if h == nil {
		return nil
	}
	var names []string
	for name, version := range h.differs {
		if version != "" && envoy.TableOf(name) == table && !there(name) {
			names = append(names, name)
		}
	}
	h.base.Items.WalkPrefix([]byte(table+"/"), func(_ []byte, r *envoy.Resource) bool { // the mesh went on since
		if _, differs := h.differs[r.Name]; !differs && !there(r.Name) {
			names = append(names, r.Name)
		}
		return false
	})
	return names
}
