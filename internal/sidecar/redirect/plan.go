// Package redirect captures a pod's traffic: from flags to a plan, which is pure, and from the plan to nftables rules in
// the pod's network namespace. It must not know Kubernetes or Envoy.
package redirect

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Options are the flags of istio-iptables that are honoured.
type Options struct {
	OutboundPort, InboundPort uint16 // of Envoy: 15001 and 15006
	ProxyUID, ProxyGID        uint32
	IncludeInbound            string // ports, "*", or none
	ExcludeInbound            string
	IncludeOutboundRanges     string // CIDRs or "*"
	ExcludeOutboundRanges     string
	IncludeOutboundPorts      string
	ExcludeOutboundPorts      string
	// DNSPort is that of the agent's DNS proxy; 0 leaves DNS alone. DNSServers are those whose questions are captured; none means all.
	DNSPort    uint16
	DNSServers []netip.Addr
}

// Verdict is what a rule does with what it matches.
type Verdict int

// The verdicts.
const (
	Return Verdict = iota
	ToOutbound
	ToInbound
	ToDNS
	ToZone // of conntrack
)

// Rule matches a new connection; fields that are zero are not looked at.
type Rule struct {
	Loopback       bool // leaves by lo
	UID            *uint32
	GID            *uint32
	Not            bool // UID or GID is another
	Source         netip.Prefix
	Destination    netip.Prefix
	NotDestination netip.Prefix
	Port           uint16
	NotPorts       []uint16
	SourcePort     uint16
	UDP            bool // otherwise TCP
	Verdict        Verdict
	Zone           uint16
}

// Plan is the rules for what comes in and for what goes out, in order; the first that matches decides. Of the raw ones, which put DNS into
// zones of conntrack, all that match count.
type Plan struct {
	Inbound, Outbound                  []Rule
	RawInbound, RawOutbound            []Rule
	OutboundPort, InboundPort, DNSPort uint16
}

const hbonePort = 15008

var (
	// passthrough is where the proxy calls the application from.
	passthrough = []netip.Prefix{netip.MustParsePrefix("127.0.0.6/32"), netip.MustParsePrefix("::6/128")}
	localhost   = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32"), netip.MustParsePrefix("::1/128")}
)

// NewPlan computes the rules. Both address families are always captured: what one lets by would bypass the mesh.
func NewPlan(o Options) (Plan, error) {
	plan := Plan{OutboundPort: o.OutboundPort, InboundPort: o.InboundPort, DNSPort: o.DNSPort}
	if o.DNSPort != 0 {
		plan.RawInbound, plan.RawOutbound = zones(o)
	}
	var err error
	if plan.Inbound, err = inbound(o); err != nil {
		return Plan{}, err
	}
	plan.Outbound, err = outbound(o)
	return plan, err
}

func inbound(o Options) ([]Rule, error) {
	include, err := ports("-b", strings.ReplaceAll(o.IncludeInbound, "*", ""))
	if err != nil {
		return nil, err
	}
	if strings.TrimSpace(o.IncludeInbound) != "*" {
		var rules []Rule
		for _, port := range include {
			rules = append(rules, Rule{Port: port, Verdict: ToInbound})
		}
		return rules, nil
	}
	exclude, err := ports("-d", o.ExcludeInbound)
	if err != nil {
		return nil, err
	}
	rules := []Rule{{Port: hbonePort, Verdict: Return}}
	for _, port := range exclude {
		rules = append(rules, Rule{Port: port, Verdict: Return})
	}
	return append(rules, Rule{Verdict: ToInbound}), nil
}

func outbound(o Options) ([]Rule, error) {
	exclude, err := ports("-o", o.ExcludeOutboundPorts)
	if err != nil {
		return nil, err
	}
	var rules []Rule
	for _, port := range exclude {
		rules = append(rules, Rule{Port: port, Verdict: Return})
	}
	for _, source := range passthrough {
		rules = append(rules, Rule{Loopback: true, Source: source, Verdict: Return})
	}
	for _, owner := range []Rule{{UID: &o.ProxyUID}, {GID: &o.ProxyGID}} {
		rules = append(rules, ownRules(owner, o.DNSPort != 0)...)
	}
	rules = append(rules, dnsRules(o)...)
	for _, local := range localhost {
		rules = append(rules, Rule{Destination: local, Verdict: Return})
	}
	ranges, err := outboundRanges(o)
	return append(rules, ranges...), err
}

// ownRules: what the proxy sends to its own pod, but not to localhost, goes in by the inbound listener; what the
// application sends to its own pod, and all else that the proxy sends, passes.
func ownRules(owner Rule, dns bool) []Rule {
	var rules []Rule
	for _, local := range localhost {
		own := owner
		own.Loopback, own.NotDestination, own.NotPorts, own.Verdict = true, local, []uint16{hbonePort}, ToInbound
		if dns { // a resolver may be in the pod
			own.NotPorts = append(own.NotPorts, dnsPort)
		}
		rules = append(rules, own)
	}
	other, pass := owner, owner
	other.Loopback, other.Not = true, true
	if dns {
		other.NotPorts = []uint16{dnsPort}
	}
	return append(rules, other, pass)
}

const dnsPort = 53

// dnsRules lead questions to the agent's DNS proxy, which asks others itself.
func dnsRules(o Options) []Rule {
	if o.DNSPort == 0 {
		return nil
	}
	rules := []Rule{{UDP: true, UID: &o.ProxyUID, Verdict: Return}, {UDP: true, GID: &o.ProxyGID, Verdict: Return}}
	for _, udp := range []bool{false, true} {
		for _, server := range dnsServers(o) {
			rules = append(rules, Rule{UDP: udp, Port: dnsPort, Destination: server, Verdict: ToDNS})
		}
	}
	return rules
}

// dnsServers are the addresses whose questions are captured; the zero prefix is all.
func dnsServers(o Options) []netip.Prefix {
	var out []netip.Prefix
	for _, server := range o.DNSServers {
		out = append(out, netip.PrefixFrom(server, server.BitLen()))
	}
	if len(out) == 0 {
		return []netip.Prefix{{}}
	}
	return out
}

// zones keep what the DNS proxy asks apart from what it is asked: both are the same addresses and, over UDP, may be the same ports, and
// conntrack would take the one for the other. https://github.com/istio/istio/issues/33469
func zones(o Options) (inbound, outbound []Rule) {
	const proxy, application = 1, 2
	for _, owner := range []Rule{{UID: &o.ProxyUID}, {GID: &o.ProxyGID}} {
		asks, answers := owner, owner
		asks.UDP, asks.Port, asks.Verdict, asks.Zone = true, dnsPort, ToZone, proxy
		answers.UDP, answers.SourcePort, answers.Verdict, answers.Zone = true, o.DNSPort, ToZone, application
		outbound = append(outbound, asks, answers)
	}
	for _, server := range dnsServers(o) {
		other := Rule{UDP: true, Port: dnsPort, UID: &o.ProxyUID, Not: true, Destination: server, Verdict: ToZone, Zone: application}
		outbound = append(outbound, other)
		inbound = append(inbound, Rule{UDP: true, SourcePort: dnsPort, Source: server, Verdict: ToZone, Zone: proxy})
	}
	return inbound, outbound
}

func outboundRanges(o Options) ([]Rule, error) {
	var rules []Rule
	exclude, err := prefixes("-x", o.ExcludeOutboundRanges)
	if err != nil {
		return nil, err
	}
	for _, p := range exclude {
		rules = append(rules, Rule{Destination: p, Verdict: Return})
	}
	include, err := ports("-q", o.IncludeOutboundPorts)
	if err != nil {
		return nil, err
	}
	for _, port := range include {
		rules = append(rules, Rule{Port: port, Verdict: ToOutbound})
	}
	if strings.TrimSpace(o.IncludeOutboundRanges) == "*" {
		return append(rules, Rule{Verdict: ToOutbound}), nil
	}
	list, err := prefixes("-i", o.IncludeOutboundRanges)
	for _, p := range list {
		rules = append(rules, Rule{Destination: p, Verdict: ToOutbound})
	}
	return rules, err
}

func ports(flag, text string) ([]uint16, error) {
	var out []uint16
	for _, item := range fields(text) {
		n, err := strconv.ParseUint(item, 10, 16)
		if err != nil {
			return nil, fmt.Errorf("%s: %q is not a port", flag, item)
		}
		out = append(out, uint16(n))
	}
	return out, nil
}

func prefixes(flag, text string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, item := range fields(text) {
		p, err := netip.ParsePrefix(item)
		if err != nil {
			address, err := netip.ParseAddr(item)
			if err != nil {
				return nil, fmt.Errorf("%s: %q is not a CIDR", flag, item)
			}
			p = netip.PrefixFrom(address, address.BitLen())
		}
		out = append(out, p.Masked())
	}
	return out, nil
}

func fields(text string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' })
}
