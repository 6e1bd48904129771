package redirect

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Packets that are to reach the proxy though they are for other addresses are led to the loopback interface: a rule sends those with the
// mark to a table whose one route says that every address is this pod's own.

// leads are the rule and the route of a family.
func (p Plan) leads(family int) (*netlink.Rule, *netlink.Route, error) {
	lo, err := netlink.LinkByName(loopback)
	if err != nil {
		return nil, nil, fmt.Errorf("find the loopback interface: %w", err)
	}
	everything := &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}
	if family == unix.AF_INET6 {
		everything = &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
	}
	rule := netlink.NewRule()
	rule.Family, rule.Mark, rule.Table = family, p.Mark, p.RouteTable
	return rule, &netlink.Route{LinkIndex: lo.Attrs().Index, Dst: everything, Table: p.RouteTable, Type: unix.RTN_LOCAL, Scope: unix.RT_SCOPE_HOST, Family: family}, nil
}

// route leads the packets with the mark here; where the plan has no mark there is nothing to do.
func (p Plan) route() error {
	return p.eachLead(func(rule *netlink.Rule, route *netlink.Route) error {
		if there, err := hasRule(rule); err != nil || !there {
			if err := errors.Join(err, netlink.RuleAdd(rule)); err != nil {
				return fmt.Errorf("lead packets with mark %d: %w", p.Mark, err)
			}
		}
		if err := netlink.RouteReplace(route); err != nil {
			return fmt.Errorf("route of table %d: %w", p.RouteTable, err)
		}
		return nil
	})
}

// routeDiffers says in words what is missing.
func (p Plan) routeDiffers() (text string, err error) {
	err = p.eachLead(func(rule *netlink.Rule, route *netlink.Route) error {
		there, err := hasRule(rule)
		if err != nil {
			return err
		}
		routes, err := netlink.RouteListFiltered(route.Family, &netlink.Route{Table: p.RouteTable, Type: unix.RTN_LOCAL}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_TYPE)
		if !there || len(routes) == 0 {
			text = fmt.Sprintf("packets with mark %d are not led here", p.Mark)
		}
		return err
	})
	return text, err
}

// unroute undoes route for a mark and a table.
func (p Plan) unroute() error {
	return p.eachLead(func(rule *netlink.Rule, route *netlink.Route) error {
		there, err := hasRule(rule)
		if err != nil {
			return err
		}
		if there {
			err = netlink.RuleDel(rule)
		}
		if gone := netlink.RouteDel(route); gone != nil && !errors.Is(gone, unix.ESRCH) {
			err = errors.Join(err, gone)
		}
		return err
	})
}

func (p Plan) eachLead(do func(*netlink.Rule, *netlink.Route) error) error {
	if p.Mark == 0 {
		return nil
	}
	for _, f := range families() {
		family := unix.AF_INET
		if !f.is4 {
			family = unix.AF_INET6
		}
		rule, route, err := p.leads(family)
		if err != nil {
			return err
		}
		if err := do(rule, route); err != nil {
			return err
		}
	}
	return nil
}

func hasRule(want *netlink.Rule) (bool, error) {
	rules, err := netlink.RuleList(want.Family)
	if err != nil {
		return false, fmt.Errorf("read the rules of routing: %w", err)
	}
	for _, rule := range rules {
		if rule.Mark == want.Mark && rule.Table == want.Table {
			return true, nil
		}
	}
	return false, nil
}
