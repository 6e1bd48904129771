package redirect

import (
	"net/netip"
	"slices"
	"testing"
)

// packet is a new TCP connection.
type packet struct {
	loopback bool
	udp      bool
	uid, gid uint32
	from, to string
	port     uint16
}

// Where packets go.
const passes, toOutbound, toInbound, toDNS = 0, 15001, 15006, 15053

// decide is the port that a packet is led to: the first rule that matches says it.
func decide(plan Plan, hook Hook, p packet) uint32 {
	for _, c := range plan.Chains {
		if c.Table != "nat" || c.Hook != hook {
			continue
		}
		for _, r := range c.Rules {
			if matches(r, p) {
				return r.Value
			}
		}
	}
	return passes
}

func matches(r Rule, p packet) bool {
	from, to := netip.MustParseAddr(p.from), netip.MustParseAddr(p.to)
	switch {
	case r.Out == loopback && !p.loopback,
		r.UID != nil && *r.UID != p.uid,
		r.GID != nil && *r.GID != p.gid,
		slices.Contains(r.NotUIDs, p.uid),
		slices.Contains(r.NotGIDs, p.gid),
		r.Source.IsValid() && !r.Source.Contains(from),
		r.Destination.IsValid() && !r.Destination.Contains(to),
		r.NotDestination.IsValid() && (r.NotDestination.Contains(to) || r.NotDestination.Addr().Is4() != to.Is4()),
		r.Port != 0 && r.Port != p.port,
		slices.Contains(r.NotPorts, p.port),
		r.UDP != p.udp:
		return false
	}
	return true
}

func TestPlan(t *testing.T) {
	const pod, remote = "10.1.0.5", "10.2.0.9"
	all := Options{OutboundPort: 15001, InboundPort: 15006, ProxyUIDs: []uint32{1337}, ProxyGIDs: []uint32{1337}, IncludeInbound: "*", ExcludeInbound: "15090,15021", IncludeOutboundRanges: "*"}
	with := func(change func(*Options)) Options { o := all; change(&o); return o }
	app, proxy := packet{uid: 1000, gid: 1000, from: pod}, packet{uid: 1337, gid: 1337, from: pod}
	to := func(p packet, ip string, port uint16) packet { p.to, p.port = ip, port; return p }
	udp := func(p packet) packet { p.udp = true; return p }
	dns := with(func(o *Options) { o.DNSPort, o.DNSServers = 15053, []netip.Addr{netip.MustParseAddr(remote)} })
	lo := func(p packet) packet { p.loopback = true; return p }
	for _, c := range []struct {
		name    string
		options Options
		inbound bool
		packet  packet
		want    uint32
	}{
		{"remote to the application", all, true, packet{from: remote, to: pod, port: 80}, toInbound},
		{"remote to the proxy's own port", all, true, packet{from: remote, to: pod, port: 15021}, passes},
		{"only listed inbound ports", with(func(o *Options) { o.IncludeInbound = "80" }), true, packet{from: remote, to: pod, port: 81}, passes},
		{"application to remote", all, false, to(app, remote, 80), toOutbound},
		{"application to remote by IPv6", all, false, packet{uid: 1000, gid: 1000, from: "fd00::1", to: "fd00::2", port: 80}, toOutbound},
		{"application to its own pod", all, false, lo(to(app, pod, 80)), passes},
		{"application to localhost", all, false, lo(to(app, "127.0.0.1", 80)), passes},
		{"proxy to remote", all, false, to(proxy, remote, 80), passes},
		{"proxy to its own pod", all, false, lo(to(proxy, pod, 80)), toInbound},
		{"proxy to the application", all, false, lo(packet{uid: 1337, gid: 1337, from: "127.0.0.6", to: pod, port: 80}), passes},
		{"excluded port", with(func(o *Options) { o.ExcludeOutboundPorts = "5432" }), false, to(app, remote, 5432), passes},
		{"excluded range", with(func(o *Options) { o.ExcludeOutboundRanges = "10.2.0.0/16" }), false, to(app, remote, 80), passes},
		{"only included range", with(func(o *Options) { o.IncludeOutboundRanges = "10.3.0.0/16" }), false, to(app, remote, 80), passes},
		{"included port outside the ranges", with(func(o *Options) { o.IncludeOutboundRanges, o.IncludeOutboundPorts = "10.3.0.0/16", "80" }), false, to(app, remote, 80), toOutbound},
		{"DNS left alone", all, false, udp(to(app, remote, 53)), passes},
		{"DNS of the application", dns, false, udp(to(app, remote, 53)), toDNS},
		{"DNS of the application over TCP", dns, false, to(app, remote, 53), toDNS},
		{"DNS of the application to a server in the pod", with(func(o *Options) { o.DNSPort, o.DNSServers = 15053, []netip.Addr{netip.MustParseAddr("127.0.0.53")} }), false, udp(lo(to(app, "127.0.0.53", 53))), toDNS},
		{"the same over TCP", with(func(o *Options) { o.DNSPort, o.DNSServers = 15053, []netip.Addr{netip.MustParseAddr("127.0.0.53")} }), false, lo(to(app, "127.0.0.53", 53)), toDNS},
		{"DNS of the proxy", dns, false, udp(to(proxy, remote, 53)), passes},
		{"DNS of the proxy over TCP", dns, false, to(proxy, remote, 53), passes},
		{"DNS of another server", dns, false, udp(to(app, "10.2.0.10", 53)), passes},
		{"DNS of another server over TCP is a connection like others", dns, false, to(app, "10.2.0.10", 53), toOutbound},
		{"all DNS", with(func(o *Options) { o.DNSPort = 15053 }), false, udp(to(app, "10.2.0.10", 53)), toDNS},
		{"other UDP", dns, false, udp(to(app, remote, 443)), passes},
	} {
		t.Run(c.name, func(t *testing.T) {
			plan, err := NewPlan(c.options)
			if err != nil {
				t.Fatal(err)
			}
			hook := Output
			if c.inbound {
				hook = Prerouting
			}
			if got := decide(plan, hook, c.packet); got != c.want {
				t.Errorf("led to %d, not %d", got, c.want)
			}
		})
	}
	for _, bad := range []Options{{IncludeInbound: "x"}, {ExcludeOutboundRanges: "nonsense"}, {IncludeInbound: "*", ExcludeInbound: "70000"}} {
		if _, err := NewPlan(bad); err == nil {
			t.Errorf("%+v is accepted", bad)
		}
	}
}
