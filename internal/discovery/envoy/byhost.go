package envoy

import (
	"slices"

	"github.com/slipway-mesh/slipway/internal/discovery/layer"
)

// byHost is a Section whose resources come from hosts: it remembers which host made which, so that a changed host
// replaces its own.
type byHost struct {
	*Section
	made layer.Map[[]*Resource] // by host
}

func newByHost() byHost {
	same := func(a, b *Resource) bool { return a.Name == b.Name && a.Version == b.Version }
	return byHost{EmptySection(), layer.New(func(a, b []*Resource) bool { return slices.EqualFunc(a, b, same) })}
}

func (b byHost) over() byHost { return byHost{b.Over(), b.made.Over()} }

// of returns what a host has made.
func (b byHost) of(host string) []*Resource {
	made, _ := b.made.Get([]byte(host))
	return made
}

// replace gives each host its new resources; a host without any loses what it had. A name that another of the hosts makes
// now is kept. under is what b lies over; see Section.next.
func (b byHost) replace(hosts map[string][]*Resource, under byHost) byHost {
	changes := map[string]*Resource{}
	made := b.made.Onto(under.made).Txn()
	for host := range hosts {
		for _, r := range b.of(host) {
			changes[r.Name] = nil
		}
	}
	for host, resources := range hosts {
		for _, r := range resources {
			changes[r.Name] = r
		}
		if len(resources) == 0 {
			made.Delete([]byte(host))
		} else {
			made.Insert([]byte(host), resources)
		}
	}
	return byHost{b.next(changes, under.Section), made.Commit()}
}
