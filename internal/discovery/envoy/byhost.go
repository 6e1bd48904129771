package envoy

import iradix "github.com/hashicorp/go-immutable-radix/v2"

// byHost is a Section whose resources come from hosts: it remembers which host made which, so that a changed host
// replaces its own.
type byHost struct {
	*Section
	made *iradix.Tree[[]string] // names by host
}

func newByHost() byHost { return byHost{EmptySection(), iradix.New[[]string]()} }

// replace gives each host its new resources; a host without any loses what it had. A name that another of the hosts makes
// now is kept.
func (b byHost) replace(hosts map[string][]*Resource) byHost {
	changes := map[string]*Resource{}
	made := b.made.Txn()
	for host := range hosts {
		names, _ := b.made.Get([]byte(host))
		for _, name := range names {
			changes[name] = nil
		}
	}
	for host, resources := range hosts {
		names := make([]string, 0, len(resources))
		for _, r := range resources {
			names = append(names, r.Name)
			changes[r.Name] = r
		}
		if len(names) == 0 {
			made.Delete([]byte(host))
		} else {
			made.Insert([]byte(host), names)
		}
	}
	return byHost{b.Next(changes), made.Commit()}
}
