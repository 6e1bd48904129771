// Package redirect captures a pod's traffic: from flags to a plan, which is pure, and from the plan to rules of nftables or
// iptables in the pod's network namespace. It must not know Kubernetes or Envoy.
package redirect

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Options are the flags of istio-iptables that are honoured.
type Options struct {
	OutboundPort, InboundPort uint16   // of Envoy: 15001 and 15006
	ProxyUIDs, ProxyGIDs      []uint32 // whose connections pass
	// Transparent is TPROXY: what comes in keeps the caller's address. Mark is that of its packets, RouteTable what leads them here.
	Transparent           bool
	Mark                  uint32
	RouteTable            int
	IncludeInbound        string // ports, "*", or none
	ExcludeInbound        string
	IncludeOutboundRanges string // CIDRs or "*"
	ExcludeOutboundRanges string
	IncludeOutboundPorts  string
	ExcludeOutboundPorts  string
	ExcludeInterfaces     string // names; what comes and goes there is left alone
	RerouteInterfaces     string // names of those of virtual machines, whose traffic goes out
	// OwnerGroups are those whose connections are captured; none means all. ExcludeOwnerGroups are left alone.
	OwnerGroups, ExcludeOwnerGroups []uint32
	DropInvalid                     bool // packets that conntrack cannot place
	// DNSPort is that of the agent's DNS proxy; 0 leaves DNS alone. DNSServers are those whose questions are captured; none means all.
	DNSPort    uint16
	DNSServers []netip.Addr
}

// Verdict is what a rule does with what it matches.
type Verdict int

// The verdicts. Zone, SetMark, SaveMark and RestoreMark go on with the next rule; the others end a chain.
const (
	Return      Verdict = iota
	Redirect            // to the port Value
	Transparent         // to the port Value, the packet unchanged but for the plan's mark
	Divert              // to the socket that it belongs to, by the plan's mark
	Drop
	Zone        // of conntrack is Value
	SetMark     // of the packet is Value
	SaveMark    // of the packet, in the connection
	RestoreMark // of the packet, from the connection
)

// Rule matches a packet; fields that are zero are not looked at.
type Rule struct {
	In, Out        string // interfaces
	UID, GID       *uint32
	NotUIDs        []uint32 // it is none of these
	NotGIDs        []uint32
	Source         netip.Prefix
	Destination    netip.Prefix
	NotDestination netip.Prefix
	Port           uint16
	NotPorts       []uint16
	SourcePort     uint16
	UDP            bool // otherwise TCP
	Mark, NotMark  uint32
	ConnectionMark uint32
	Established    bool
	Invalid        bool
	Verdict        Verdict
	Value          uint32
}

// Hook is where a chain's packets come by.
type Hook int

// The hooks.
const (
	Prerouting Hook = iota // what comes in
	Output                 // what this pod sends
)

// Chain is rules in order. In those of NAT they are asked for the first packet of a connection only.
type Chain struct {
	Table string // raw, mangle or nat
	Hook  Hook
	Rules []Rule
}

// Plan is what is in force. Mark and RouteTable are zero where nothing is transparent.
type Plan struct {
	Chains     []Chain
	Mark       uint32
	RouteTable int
}

const (
	hbonePort = 15008
	dnsPort   = 53
	loopback  = "lo"
)

var (
	// passthrough is where the proxy calls the application from.
	passthrough = []netip.Prefix{netip.MustParsePrefix("127.0.0.6/32"), netip.MustParsePrefix("::6/128")}
	localhost   = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32"), netip.MustParsePrefix("::1/128")}
)

// NewPlan computes the rules. Both address families are always captured: what one lets by would bypass the mesh.
func NewPlan(o Options) (Plan, error) {
	in, err := o.inbound()
	if err != nil {
		return Plan{}, err
	}
	out, err := o.outbound()
	if err != nil {
		return Plan{}, err
	}
	reroute, err := o.reroute()
	if err != nil {
		return Plan{}, err
	}
	var plan Plan
	add := func(table string, hook Hook, rules []Rule) {
		if len(rules) > 0 {
			plan.Chains = append(plan.Chains, Chain{table, hook, slices.Concat(o.excluded(hook), rules)})
		}
	}
	if o.DNSPort != 0 {
		rawIn, rawOut := o.zones()
		add("raw", Prerouting, rawIn)
		add("raw", Output, rawOut)
	}
	mangle := []Rule(nil)
	if o.DropInvalid {
		mangle = append(mangle, Rule{Invalid: true, Verdict: Drop})
	}
	if o.Transparent {
		plan.Mark, plan.RouteTable = o.Mark, o.RouteTable
		mangle = append(mangle, o.transparent(in)...)
		in = nil
	}
	add("mangle", Prerouting, mangle)
	if o.Transparent {
		add("mangle", Output, o.marked())
	}
	add("nat", Prerouting, slices.Concat(reroute, in))
	add("nat", Output, out)
	return plan, nil
}

// excluded leaves interfaces alone.
func (o Options) excluded(hook Hook) []Rule {
	var rules []Rule
	for _, name := range Fields(o.ExcludeInterfaces) {
		for _, udp := range []bool{false, true} {
			rule := Rule{UDP: udp, In: name}
			if hook == Output {
				rule.In, rule.Out = "", name
			}
			rules = append(rules, rule)
		}
	}
	return rules
}

// reroute takes what virtual machines send as what this pod sends, and nothing of it as what others send here.
func (o Options) reroute() ([]Rule, error) {
	var rules []Rule
	for _, name := range Fields(o.RerouteInterfaces) {
		ranges, err := o.ranges()
		if err != nil {
			return nil, err
		}
		for _, rule := range append(ranges, Rule{}) {
			rule.In = name
			rules = append(rules, rule)
		}
	}
	return rules, nil
}

// inbound leads what comes in to the proxy, by NAT or, with the conditions that are transparent's, as it is.
func (o Options) inbound() ([]Rule, error) {
	capture := Rule{Verdict: Redirect, Value: uint32(o.InboundPort)}
	if o.Transparent {
		capture.Verdict = Transparent
	}
	if strings.TrimSpace(o.IncludeInbound) != "*" {
		include, err := ports("-b", o.IncludeInbound)
		var rules []Rule
		for _, port := range include {
			rule := capture
			rule.Port = port
			rules = append(rules, rule)
		}
		return rules, err
	}
	exclude, err := ports("-d", o.ExcludeInbound)
	rules := []Rule{{Port: hbonePort}}
	for _, port := range exclude {
		rules = append(rules, Rule{Port: port})
	}
	return append(rules, capture), err
}

// transparent is what comes in, and keeps the caller's address. The proxy's own packets to the application have the caller's address
// too: they are known by the mark that the proxy gives them, and what the application answers by that of their connection.
func (o Options) transparent(inbound []Rule) []Rule {
	if len(inbound) == 0 {
		return nil
	}
	rules := []Rule{{Mark: o.Mark, Verdict: SaveMark}, {Mark: o.Mark}}
	for _, name := range Fields(o.RerouteInterfaces) {
		rules = append(rules, Rule{In: name})
	}
	for _, source := range passthrough {
		rules = append(rules, Rule{In: loopback, Source: source})
	}
	rules = append(rules, Rule{In: loopback, NotMark: o.Mark + 1}) // the application calls itself
	for _, rule := range inbound {
		if rule.Verdict != Transparent {
			rules = append(rules, rule)
			continue
		}
		established := rule
		established.Established, established.Verdict, established.Value = true, Divert, 0
		rules = append(rules, established)
		for _, local := range localhost {
			one := rule
			one.NotDestination = local
			rules = append(rules, one)
		}
	}
	return rules
}

// marked is what this pod sends where the inbound side is transparent.
func (o Options) marked() []Rule {
	rules := []Rule{{ConnectionMark: o.Mark, Verdict: RestoreMark}, {Mark: o.Mark}}
	for _, owner := range o.proxies() {
		for _, local := range localhost { // the proxy calls a workload that is its own
			own := o.own(owner, local)
			own.Verdict, own.Value = SetMark, o.Mark+1
			rules = append(rules, own)
		}
	}
	return rules
}

// proxies are the owners whose connections pass.
func (o Options) proxies() []Rule {
	var owners []Rule
	for _, uid := range o.ProxyUIDs {
		owners = append(owners, Rule{UID: &uid})
	}
	for _, gid := range o.ProxyGIDs {
		owners = append(owners, Rule{GID: &gid})
	}
	return owners
}

func (o Options) outbound() ([]Rule, error) {
	exclude, err := ports("-o", o.ExcludeOutboundPorts)
	if err != nil {
		return nil, err
	}
	var rules []Rule
	for _, port := range exclude {
		rules = append(rules, Rule{Port: port}, Rule{UDP: true, Port: port})
	}
	for _, source := range passthrough {
		rules = append(rules, Rule{Out: loopback, Source: source})
	}
	rules = append(rules, o.ownRules()...)
	for _, gid := range o.ExcludeOwnerGroups {
		rules = append(rules, Rule{GID: &gid})
	}
	if len(o.OwnerGroups) > 0 {
		rules = append(rules, Rule{NotGIDs: o.OwnerGroups})
	}
	rules = append(rules, o.dnsRules()...)
	for _, local := range localhost {
		rules = append(rules, Rule{Destination: local})
	}
	ranges, err := o.ranges()
	return append(rules, ranges...), err
}

// own is what a proxy sends to its own pod, but not to localhost.
func (o Options) own(owner Rule, local netip.Prefix) Rule {
	owner.Out, owner.NotDestination, owner.NotPorts = loopback, local, []uint16{hbonePort}
	if o.DNSPort != 0 { // a resolver may be in the pod
		owner.NotPorts = append(owner.NotPorts, dnsPort)
	}
	return owner
}

// ownRules: what the proxy sends to its own pod goes in by the inbound listener; what the application sends to its own pod, and all
// else that the proxy sends, passes.
func (o Options) ownRules() []Rule {
	var rules []Rule
	for _, owner := range o.proxies() {
		for _, local := range localhost {
			if o.Transparent {
				break // the mark of these packets leads them
			}
			own := o.own(owner, local)
			own.Verdict, own.Value = Redirect, uint32(o.InboundPort)
			rules = append(rules, own)
		}
	}
	if !o.capturesLoopback() {
		pass := Rule{Out: loopback}
		if o.DNSPort != 0 {
			pass.NotPorts = []uint16{dnsPort}
		}
		rules = append(rules, pass)
	}
	return append(rules, o.proxies()...)
}

// capturesLoopback says whether a range of those to be captured is the pod's own.
func (o Options) capturesLoopback() bool {
	include, _ := prefixes("-i", strings.ReplaceAll(o.IncludeOutboundRanges, "*", ""))
	return slices.ContainsFunc(include, func(p netip.Prefix) bool { return p.Addr().IsLoopback() })
}

// dnsRules lead questions to the agent's DNS proxy, which asks others itself.
func (o Options) dnsRules() []Rule {
	if o.DNSPort == 0 {
		return nil
	}
	var rules []Rule
	for _, owner := range o.proxies() {
		owner.UDP = true
		rules = append(rules, owner)
	}
	for _, udp := range []bool{false, true} {
		for _, server := range o.dnsServers() {
			rules = append(rules, Rule{UDP: udp, Port: dnsPort, Destination: server, Verdict: Redirect, Value: uint32(o.DNSPort)})
		}
	}
	return rules
}

// dnsServers are the addresses whose questions are captured; the zero prefix is all.
func (o Options) dnsServers() []netip.Prefix {
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
func (o Options) zones() (inbound, outbound []Rule) {
	const proxy, application = 1, 2
	for _, owner := range o.proxies() {
		asks, answers := owner, owner
		asks.UDP, asks.Port, asks.Verdict, asks.Value = true, dnsPort, Zone, proxy
		answers.UDP, answers.SourcePort, answers.Verdict, answers.Value = true, o.DNSPort, Zone, application
		outbound = append(outbound, asks, answers)
	}
	for _, server := range o.dnsServers() {
		outbound = append(outbound, Rule{UDP: true, Port: dnsPort, NotUIDs: o.ProxyUIDs, Destination: server, Verdict: Zone, Value: application})
		inbound = append(inbound, Rule{UDP: true, SourcePort: dnsPort, Source: server, Verdict: Zone, Value: proxy})
	}
	return inbound, outbound
}

// ranges leads what goes out to the proxy.
func (o Options) ranges() ([]Rule, error) {
	var rules []Rule
	exclude, err := prefixes("-x", o.ExcludeOutboundRanges)
	if err != nil {
		return nil, err
	}
	for _, p := range exclude {
		rules = append(rules, Rule{Destination: p})
	}
	include, err := ports("-q", o.IncludeOutboundPorts)
	if err != nil {
		return nil, err
	}
	capture := Rule{Verdict: Redirect, Value: uint32(o.OutboundPort)}
	for _, port := range include {
		rule := capture
		rule.Port = port
		rules = append(rules, rule)
	}
	if strings.TrimSpace(o.IncludeOutboundRanges) == "*" {
		return append(rules, capture), nil
	}
	list, err := prefixes("-i", o.IncludeOutboundRanges)
	for _, p := range list {
		rule := capture
		rule.Destination = p
		rules = append(rules, rule)
	}
	return rules, err
}

func ports(flag, text string) ([]uint16, error) {
	var out []uint16
	for _, item := range Fields(text) {
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
	for _, item := range Fields(text) {
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

// Fields splits a list as flags have it, by commas or spaces.
func Fields(text string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' })
}
