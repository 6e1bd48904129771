package envoy

import iradix "github.com/hashicorp/go-immutable-radix/v2"

// byHost is a Section whose resources come from hosts: it remembers which host made which, so that a changed host
// replaces its own.
type byHost struct {
	*Section
	made *iradix.Tree[[]*Resource] // by host
}

func newByHost() byHost { return byHost{EmptySection(), iradix.New[[]*Resource]()} }

// of returns what a host has made.
func (b byHost) of(host string) []*Resource {
	made, _ := b.made.Get([]byte(host))
	return made
}

// replace gives each host its new resources; a host without any loses what it had. A name that another of the hosts makes
// now is kept.
func (b byHost) replace(hosts map[string][]*Resource) byHost {
	changes := map[string]*Resource{}
	made := b.made.Txn()
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
	return byHost{b.Next(changes), made.Commit()}
}
