package envoy

import (
	"strings"

	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
)

// claim is a domain that a host's virtual host has in a table.
type claim struct {
	table, domain, host string
	port                uint32 // of the host
}

func (c claim) key() []byte { return []byte(c.table + "\x00" + c.domain + "\x00" + c.host) }

// updateVirtualHosts replaces the virtual hosts of the changed hosts. A domain may stand once in a table, or Envoy refuses
// the whole: of several hosts that claim one, the first by name has it, and the others are computed again when it goes.
func (o *Outbound) updateVirtualHosts(lookup Lookup, changed []string, all bool) {
	made := map[string][]tableHost{}
	contested := map[string]bool{}
	claims, hosts, users := o.claims.Txn(), o.hosts.Txn(), o.users.Txn()
	before := map[string][]claim{}
	for _, host := range changed {
		old, _ := o.hosts.Get([]byte(host))
		before[host] = old
		for _, one := range old {
			claims.Delete(one.key())
		}
		var claimed []claim
		outbound := lookup.Outbound(host)
		if outbound != nil {
			made[host] = tablesOf(outbound)
			if outbound.Routes != nil {
				outbound.Routes.EachDestination(func(d mesh.Destination) { users.Insert([]byte(d.Host+"\x00"+host), struct{}{}) })
			}
		}
		for _, th := range made[host] {
			for _, domain := range th.domains {
				claimed = append(claimed, claim{th.table, domain, host, th.port.Number})
			}
		}
		for _, one := range claimed {
			claims.Insert(one.key(), one)
		}
		if len(claimed) > 0 {
			hosts.Insert([]byte(host), claimed)
		} else {
			hosts.Delete([]byte(host))
		}
	}
	o.claims, o.hosts, o.users = claims.Commit(), hosts.Commit(), users.Commit()
	for _, host := range changed {
		now, _ := o.hosts.Get([]byte(host))
		for _, one := range append(append([]claim{}, before[host]...), now...) {
			o.rivals(one, contested)
		}
	}
	for host := range contested { // a rival's virtual host gains or loses a domain
		if _, done := made[host]; !done {
			if outbound := lookup.Outbound(host); outbound != nil {
				made[host] = tablesOf(outbound)
			}
		}
	}
	o.publishVirtualHosts(lookup, made, before, all)
}

// rivals notes the hosts that claim the same domain of the same table.
func (o *Outbound) rivals(one claim, contested map[string]bool) {
	o.claims.WalkPrefix([]byte(one.table+"\x00"+one.domain+"\x00"), func(_ []byte, other claim) bool {
		if other.host != one.host {
			contested[other.host] = true
		}
		return false
	})
}

// owns says whether the host is the first that claims the domain.
func (o *Outbound) owns(table, domain, host string) bool {
	owner := ""
	o.claims.WalkPrefix([]byte(table+"\x00"+domain+"\x00"), func(_ []byte, c claim) bool {
		owner = c.host
		return true
	})
	return owner == host
}

// madeVirtualHost is a host's resource in a table, by the names that are its own there. It is the same for all who see the same,
// unless its routes depend on other hosts too.
func (o *Outbound) madeVirtualHost(lookup Lookup, host string, th tableHost) *Resource {
	outbound := lookup.Outbound(host)
	build := func() *Resource {
		c := routeContext{config: o.config, lookup: lookup}
		return tableResource(th.table, virtualHost(outbound, th.port, th.domains, c))
	}
	if outbound.Narrowed || leadsElsewhere(outbound) {
		return build()
	}
	return remember(o.memo.host(host, false).virtual, virtualKey{o.config.Plain(), outbound.Service, outbound.Rule, th.table, strings.Join(th.domains, ","), outbound.Routes, o.config.Settings.OfRoutes()}, build)
}

// leadsElsewhere says whether the routes read the ports or the rule of another host.
func leadsElsewhere(o *mesh.Outbound) bool {
	elsewhere := false
	if o.Routes != nil {
		o.Routes.EachDestination(func(d mesh.Destination) { elsewhere = elsewhere || d.Host != o.Host })
	}
	return elsewhere
}

// publishVirtualHosts puts what was made into the sections, with the tables that it stands in.
func (o *Outbound) publishVirtualHosts(lookup Lookup, made map[string][]tableHost, before map[string][]claim, all bool) {
	changes := map[string]*Resource{}
	tables := map[string]bool{}
	whole := map[string]*Resource{} // the one virtual host of each sniffed table
	for host, old := range before {
		for _, one := range old {
			tables[one.table] = true
			changes[resourceName(one.table, host, one.port)] = nil
		}
	}
	for host, list := range made {
		for _, th := range list {
			tables[th.table] = true
			name := resourceName(th.table, host, th.port.Number)
			changes[name] = nil
			var domains []string
			for _, domain := range th.domains {
				if o.owns(th.table, domain, host) {
					domains = append(domains, domain)
				}
			}
			if len(domains) > 0 {
				th.domains = domains
				resource := o.madeVirtualHost(lookup, host, th)
				if isSniffed(th.table) {
					whole[th.table] = resource
				} else {
					changes[resource.Name] = resource
				}
			}
		}
	}
	if all { // the catch-alls depend on the configuration
		o.tables.Each(func(r *Resource) {
			if !isSniffed(r.Name) {
				tables[r.Name] = true
			}
		})
	}
	o.publishTables(tables, whole, changes)
}

// publishTables makes each touched table, or removes it when no host claims a domain in it. The catch-all is a virtual
// host like the others, so that every table has at least one to be sent: without one Envoy would wait for it.
func (o *Outbound) publishTables(touched map[string]bool, whole, changes map[string]*Resource) {
	tables := map[string]*Resource{}
	for table := range touched {
		claimed := false
		o.claims.WalkPrefix([]byte(table+"\x00"), func([]byte, claim) bool {
			claimed = true
			return true
		})
		switch {
		case claimed && isSniffed(table):
			tables[table] = WholeTable(table, []*Resource{whole[table]})
		case claimed:
			fallback := tableResource(table, catchAll(o.config))
			for _, other := range catchAlls {
				if name := table + "/" + other; name != fallback.Name {
					changes[name] = nil
				}
			}
			changes[fallback.Name] = fallback
			tables[table] = vhdsTable(table)
		default:
			tables[table] = nil
			for _, name := range catchAlls {
				changes[table+"/"+name] = nil
			}
		}
	}
	o.virtualHosts = o.virtualHosts.next(changes, o.under.virtualHosts)
	o.tables = o.tables.next(tables, o.under.tables)
}

// isSniffed says that a table is a sniffing listener's: it has one host, which takes everything, and is sent whole.
func isSniffed(table string) bool { return strings.Contains(table, ":") }

// resourceName is that of the virtual host that a host's port has in a table.
func resourceName(table, host string, port uint32) string {
	return table + "/" + host + ":" + itoa(port)
}

// HostsOf returns the virtual hosts of a table.
func (o *Outbound) HostsOf(table string) []*Resource { return HostsIn(o.virtualHosts, table) }

// HostsIn are the virtual hosts of a table in a section.
func HostsIn(virtualHosts *Section, table string) []*Resource {
	var out []*Resource
	virtualHosts.Items.WalkPrefix([]byte(table+"/"), func(_ []byte, r *Resource) bool {
		out = append(out, r)
		return false
	})
	return out
}
