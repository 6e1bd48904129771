package redirect_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/slipway-mesh/slipway/internal/sidecar/redirect"
	"github.com/slipway-mesh/slipway/test/nettest"
)

// The users of the pod: the application's and the proxy's. second is a proxy's only where it is said so.
const application, proxy, second = 1000, 1337, 2000

const mark = 1337

func options(change func(*redirect.Options)) redirect.Options {
	o := redirect.Options{OutboundPort: 15001, InboundPort: 15006, ProxyUIDs: []uint32{proxy}, ProxyGIDs: []uint32{proxy}, Mark: mark, RouteTable: 133,
		IncludeInbound: "*", ExcludeInbound: "15090,15021,15020", IncludeOutboundRanges: "*"}
	if change != nil {
		change(&o)
	}
	return o
}

var backends = map[string]redirect.Backend{"nftables": redirect.Nftables{}, "iptables-nft": redirect.Iptables{Variant: "nft"}, "iptables-legacy": redirect.Iptables{Variant: "legacy"}}

// probe is a first packet, and where it lands where nothing is set.
type probe struct {
	name       string
	fromRemote bool
	user       int
	network    string // tcp if empty
	source     string // an address to call from
	to         string // pod, remote or local, and a port
	want       string // who answers: in, out, dns, app or remote
}

var probes = []probe{
	{name: "remote to the pod", fromRemote: true, to: "pod:80", want: "in"},
	{name: "remote to another port of the pod", fromRemote: true, to: "pod:9000", want: "in"},
	{name: "application to remote", user: application, to: "remote:80", want: "out"},
	{name: "application to another port of remote", user: application, to: "remote:5432", want: "out"},
	{name: "application to its own pod", user: application, to: "pod:80", want: "app"},
	{name: "application to localhost", user: application, to: "local:80", want: "app"},
	{name: "proxy to remote", user: proxy, to: "remote:80", want: "remote"},
	{name: "proxy to its own pod, as for a Service that leads there", user: proxy, to: "pod:80", want: "in"},
	{name: "proxy to the application", user: proxy, source: "passthrough", to: "pod:80", want: "app"},
	{name: "another user to remote", user: second, to: "remote:80", want: "out"},
	{name: "DNS over UDP", user: application, network: "udp", to: "remote:53", want: "remote"},
	{name: "DNS over TCP", user: application, to: "remote:53", want: "out"},
	{name: "the proxy's DNS", user: proxy, network: "udp", to: "remote:53", want: "remote"},
}

// configs are settings, and whose packets land elsewhere by them.
var configs = []struct {
	name   string
	change func(o *redirect.Options, pod, remote netip.Addr)
	lands  map[string]string
}{
	{name: "default"},
	{"-b 80", func(o *redirect.Options, _, _ netip.Addr) { o.IncludeInbound = "80" }, map[string]string{"remote to another port of the pod": "app"}},
	{"-d 9000", func(o *redirect.Options, _, _ netip.Addr) { o.ExcludeInbound = "15021,9000" }, map[string]string{"remote to another port of the pod": "app"}},
	{"-i elsewhere", func(o *redirect.Options, _, _ netip.Addr) { o.IncludeOutboundRanges = "10.99.0.0/16,fd00:99::/64" },
		map[string]string{"application to remote": "remote", "application to another port of remote": "remote", "another user to remote": "remote", "DNS over TCP": "remote"}},
	{"-i remote", func(o *redirect.Options, _, remote netip.Addr) { o.IncludeOutboundRanges = remote.String() }, nil},
	{"-x remote", func(o *redirect.Options, _, remote netip.Addr) { o.ExcludeOutboundRanges = remote.String() },
		map[string]string{"application to remote": "remote", "application to another port of remote": "remote", "another user to remote": "remote", "DNS over TCP": "remote"}},
	{"-q 5432", func(o *redirect.Options, _, _ netip.Addr) {
		o.IncludeOutboundRanges, o.IncludeOutboundPorts = "", "5432"
	},
		map[string]string{"application to remote": "remote", "another user to remote": "remote", "DNS over TCP": "remote"}},
	{"-o 5432", func(o *redirect.Options, _, _ netip.Addr) { o.ExcludeOutboundPorts = "5432" }, map[string]string{"application to another port of remote": "remote"}},
	{"-c eth0", func(o *redirect.Options, _, _ netip.Addr) { o.ExcludeInterfaces = "eth0" },
		map[string]string{"remote to the pod": "app", "remote to another port of the pod": "app", "application to remote": "remote", "application to another port of remote": "remote", "another user to remote": "remote", "DNS over TCP": "remote"}},
	{"-k eth0", func(o *redirect.Options, _, _ netip.Addr) { o.RerouteInterfaces = "eth0" }, map[string]string{"remote to the pod": "out", "remote to another port of the pod": "out"}},
	{"DNS", func(o *redirect.Options, _, remote netip.Addr) { o.DNSPort, o.DNSServers = 15053, []netip.Addr{remote} }, map[string]string{"DNS over UDP": "dns", "DNS over TCP": "dns"}},
	{"all DNS", func(o *redirect.Options, _, _ netip.Addr) { o.DNSPort = 15053 }, map[string]string{"DNS over UDP": "dns", "DNS over TCP": "dns"}},
	{"DNS of another server", func(o *redirect.Options, _, _ netip.Addr) {
		o.DNSPort, o.DNSServers = 15053, []netip.Addr{netip.MustParseAddr("10.99.0.1"), netip.MustParseAddr("fd00:99::1")}
	}, nil},
	{"-u 1337,2000", func(o *redirect.Options, _, _ netip.Addr) { o.ProxyUIDs = append(o.ProxyUIDs, second) }, map[string]string{"another user to remote": "remote"}},
	{"groups left out", func(o *redirect.Options, _, _ netip.Addr) { o.ExcludeOwnerGroups = []uint32{second} }, map[string]string{"another user to remote": "remote"}},
	{"groups", func(o *redirect.Options, _, _ netip.Addr) { o.OwnerGroups = []uint32{application} }, map[string]string{"another user to remote": "remote"}},
	{"--drop-invalid", func(o *redirect.Options, _, _ netip.Addr) { o.DropInvalid = true }, nil},
}

// ground is a captured pod and a remote one.
type ground struct{ pod, remote *nettest.Pod }

func newGround(t *testing.T) *ground {
	t.Helper()
	network := nettest.New(t)
	g := &ground{network.Pod(t, "pod"), network.Pod(t, "remote")}
	for _, l := range []struct {
		pod        *nettest.Pod
		name, port string
	}{{g.pod, "in", "15006"}, {g.pod, "out", "15001"}, {g.pod, "dns", "15053"}, {g.pod, "app", "80"}, {g.pod, "app", "9000"}, {g.remote, "remote", "80"}, {g.remote, "remote", "5432"}, {g.remote, "remote", "53"}} {
		answer(l.pod.ListenWith(t, &net.ListenConfig{Control: transparent}, "[::]:"+l.port), l.name)
	}
	answerPackets(g.remote.ListenPacket(t, "[::]:53"), "remote")
	g.pod.Do(t, func() error { // as the proxy: its answers are known by that
		defer as(proxy)()
		for _, address := range []string{"127.0.0.1:15053", "[::1]:15053"} {
			packets, err := net.ListenPacket("udp", address)
			if err != nil {
				return err
			}
			t.Cleanup(func() { _ = packets.Close() })
			answerPackets(packets, "dns")
		}
		return nil
	})
	return g
}

func transparent(_, _ string, c syscall.RawConn) error {
	var err error
	failed := c.Control(func(fd uintptr) {
		err = errors.Join(unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_TRANSPARENT, 1), unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_TRANSPARENT, 1))
	})
	return errors.Join(err, failed)
}

// answer tells each caller who it has reached, where it wanted to go, and who it is.
func answer(listener net.Listener, name string) {
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return // the test is over
			}
			wanted, err := redirect.OriginalDestination(c.(syscall.Conn))
			if err != nil { // not redirected
				wanted = c.LocalAddr().(*net.TCPAddr).AddrPort()
			}
			caller := c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
			_, _ = fmt.Fprintln(c, name, netip.AddrPortFrom(wanted.Addr().Unmap(), wanted.Port()), caller)
			go func() { // and then what he says
				_, _ = io.Copy(c, c)
				_ = c.Close()
			}()
		}
	}()
}

func answerPackets(packets net.PacketConn, name string) {
	go func() {
		buffer := make([]byte, 100)
		for {
			_, from, err := packets.ReadFrom(buffer)
			if err != nil {
				return // the test is over
			}
			_, _ = packets.WriteTo([]byte(name+"\n"), from)
		}
	}()
}

// as makes this thread's sockets a user's, until what it returns is called.
func as(user int) (back func()) {
	set := func(id int) {
		for _, call := range []uintptr{syscall.SYS_SETFSGID, syscall.SYS_SETFSUID} {
			_, _, _ = syscall.RawSyscall(call, uintptr(id), 0, 0)
		}
	}
	set(user)
	return func() { set(0) }
}

// call sends a first packet as a user, from an address if there is one, and returns what comes back.
func call(t *testing.T, from *nettest.Pod, user int, network, source, to string, control func(network, address string, c syscall.RawConn) error) (string, error) {
	t.Helper()
	var line string
	var failed error
	from.Do(t, func() error {
		defer as(user)()
		dialer := net.Dialer{Timeout: 2 * time.Second, Control: control}
		if source != "" {
			dialer.LocalAddr = &net.TCPAddr{IP: net.ParseIP(source)}
		}
		c, err := dialer.DialContext(context.Background(), network, to)
		if err != nil {
			failed = err
			return nil
		}
		defer func() { _ = c.Close() }()
		_ = c.SetDeadline(time.Now().Add(2 * time.Second))
		if network == "udp" {
			if _, failed = c.Write([]byte("who")); failed != nil {
				return nil
			}
		}
		line, failed = bufio.NewReader(c).ReadString('\n')
		return nil
	})
	return strings.TrimSpace(line), failed
}

// TestPackets sends real packets by every kind of rule, in both families and both modes, and sees where they land and whether it is
// still known where they were to go.
func TestPackets(t *testing.T) {
	g := newGround(t)
	for name, backend := range backends {
		for _, mode := range []string{"REDIRECT", "TPROXY"} {
			t.Run(name+" "+mode, func(t *testing.T) {
				for _, six := range []bool{false, true} {
					g.land(t, backend, mode, six)
				}
				g.pod.Do(t, func() error {
					plan, err := redirect.NewPlan(options(func(o *redirect.Options) { o.Transparent = mode == "TPROXY" }))
					return errors.Join(err, redirect.Cleanup(backend, plan))
				})
			})
		}
	}
}

// land sends all probes of one family under all settings.
func (g *ground) land(t *testing.T, backend redirect.Backend, mode string, six bool) {
	t.Helper()
	places := map[string]string{"pod": g.pod.Address, "remote": g.remote.Address, "local": "127.0.0.1", "passthrough": "127.0.0.6"}
	if six {
		places = map[string]string{"pod": g.pod.Address6, "remote": g.remote.Address6, "local": "::1", "passthrough": ""}
	}
	for _, config := range configs {
		o := options(func(o *redirect.Options) {
			o.Transparent = mode == "TPROXY"
			if config.change != nil {
				config.change(o, netip.MustParseAddr(places["pod"]), netip.MustParseAddr(places["remote"]))
			}
		})
		g.apply(t, backend, o)
		for _, p := range probes {
			from, network := g.pod, "tcp"
			if p.fromRemote {
				from = g.remote
			}
			if p.network != "" {
				network = p.network
			}
			if p.source != "" && places[p.source] == "" {
				continue // ::6 is no address of the pod's that a socket may have
			}
			place, port, _ := strings.Cut(p.to, ":")
			to := net.JoinHostPort(places[place], port)
			want := p.want
			if other := config.lands[p.name]; other != "" {
				want = other
			}
			got, err := call(t, from, p.user, network, places[p.source], to, nil)
			if network == "tcp" {
				want += " " + to
				got, _, _ = cutLast(got)
			}
			if got != want {
				t.Errorf("%s, IPv6 %v: %s (to %s) is answered by %q (%v), not %q", config.name, six, p.name, to, got, err, want)
			}
		}
		if mode == "TPROXY" && o.ExcludeInterfaces == "" {
			g.keepsCaller(t, places)
		}
	}
}

func cutLast(text string) (before, after string, ok bool) {
	i := strings.LastIndexByte(text, ' ')
	if i < 0 {
		return text, "", false
	}
	return text[:i], text[i+1:], true
}

// keepsCaller: the proxy calls the application with the address of the proxy's own caller, and is answered.
func (g *ground) keepsCaller(t *testing.T, places map[string]string) {
	t.Helper()
	marked := func(network, address string, c syscall.RawConn) error {
		var err error
		failed := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, mark) })
		if strings.HasSuffix(network, "4") {
			failed = errors.Join(failed, c.Control(func(fd uintptr) {
				err = errors.Join(err, unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_TRANSPARENT, 1))
			}))
			return errors.Join(err, failed)
		}
		failed = errors.Join(failed, c.Control(func(fd uintptr) {
			err = errors.Join(err, unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_TRANSPARENT, 1))
		}))
		return errors.Join(err, failed)
	}
	to := net.JoinHostPort(places["pod"], "80")
	if got, err := call(t, g.pod, proxy, "tcp", places["remote"], to, marked); got != "app "+to+" "+places["remote"] {
		t.Errorf("the application is called by %q: %v", got, err)
	}
}

// apply puts settings in force, and sees that to do so again is not needed.
func (g *ground) apply(t *testing.T, backend redirect.Backend, o redirect.Options) {
	t.Helper()
	plan, err := redirect.NewPlan(o)
	if err != nil {
		t.Fatal(err)
	}
	g.pod.Do(t, func() error {
		if _, err := redirect.Apply(backend, plan); err != nil {
			return err
		}
		if differs, err := redirect.Apply(backend, plan); err != nil || differs != "" {
			t.Fatalf("what was written a moment ago differs: %s %v", differs, err)
		}
		return nil
	})
}

// TestTampering: what somebody else does to the rules is seen and undone, connections that are there go on, and nothing is left in the
// end.
func TestTampering(t *testing.T) {
	for name, backend := range backends {
		t.Run(name, func(t *testing.T) {
			g := newGround(t)
			o := options(func(o *redirect.Options) { o.Transparent, o.DNSPort = true, 15053 })
			plan, err := redirect.NewPlan(o)
			if err != nil {
				t.Fatal(err)
			}
			g.apply(t, backend, o)
			streaming := g.stream(t)
			for what, tamper := range g.tamperings(name) {
				g.pod.Do(t, func() error {
					if err := tamper(); err != nil {
						return fmt.Errorf("%s: %w", what, err)
					}
					differs, err := redirect.Apply(backend, plan)
					if err != nil || differs == "" {
						t.Errorf("%s: not seen (%v)", what, err)
					}
					if differs, err := redirect.Differs(backend, plan); err != nil || differs != "" {
						t.Errorf("%s: not undone: %s %v", what, differs, err)
					}
					return nil
				})
			}
			if resent := streaming(); resent != 0 {
				t.Errorf("%d packets of a running stream were lost", resent)
			}
			g.pod.Do(t, func() error {
				if err := redirect.Cleanup(backend, plan); err != nil {
					return err
				}
				return g.nothingLeft(t)
			})
		})
	}
}

// stream keeps a captured connection busy. What it returns ends that, and says how many packets had to be sent again.
func (g *ground) stream(t *testing.T) (stop func() (resent int)) {
	t.Helper()
	var connection net.Conn
	g.pod.Do(t, func() (err error) {
		connection, err = (&net.Dialer{}).DialContext(t.Context(), "tcp", net.JoinHostPort(g.remote.Address, "80"))
		return err
	})
	reader := bufio.NewReader(connection)
	if line, err := reader.ReadString('\n'); err != nil || !strings.HasPrefix(line, "out ") {
		t.Fatalf("the stream is answered by %q: %v", line, err)
	}
	quit, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-quit:
				return
			case <-time.After(2 * time.Millisecond):
			}
			if _, err := fmt.Fprintln(connection, "on and on"); err != nil {
				t.Errorf("the stream broke: %v", err)
				return
			}
			if line, err := reader.ReadString('\n'); err != nil || line != "on and on\n" {
				t.Errorf("the stream broke: %q %v", line, err)
				return
			}
		}
	}()
	return func() (resent int) {
		close(quit)
		<-ended
		raw, err := connection.(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		_ = raw.Control(func(fd uintptr) {
			info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
			if err != nil {
				t.Fatal(err)
			}
			resent = int(info.Total_retrans)
		})
		_ = connection.Close()
		return resent
	}
}

// tamperings are what somebody may do to the rules, by a name of it.
func (g *ground) tamperings(backend string) map[string]func() error {
	if backend == "nftables" {
		return map[string]func() error{
			"a rule is gone": changeNft(func(c *nftables.Conn, _ *nftables.Chain, rules []*nftables.Rule) error { return c.DelRule(rules[2]) }),
			"the order is another": changeNft(func(c *nftables.Conn, chain *nftables.Chain, rules []*nftables.Rule) error {
				c.AddRule(&nftables.Rule{Table: chain.Table, Chain: chain, Exprs: rules[1].Exprs})
				return c.DelRule(rules[1])
			}),
			"a rule goes before": changeNft(func(c *nftables.Conn, chain *nftables.Chain, _ []*nftables.Rule) error {
				c.InsertRule(&nftables.Rule{Table: chain.Table, Chain: chain, Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}})
				return nil
			}),
			"a rule is another": changeNft(func(c *nftables.Conn, _ *nftables.Chain, rules []*nftables.Rule) error {
				changed := *rules[0]
				changed.Exprs = append([]expr.Any{}, rules[1].Exprs...)
				c.ReplaceRule(&changed)
				return nil
			}),
		}
	}
	variant := strings.TrimPrefix(backend, "iptables-")
	command := func(lines ...string) func() error {
		return func() error {
			for _, line := range lines {
				words := strings.Fields(line)
				if out, err := exec.Command("iptables-"+variant, append([]string{"-w", "5"}, words...)...).CombinedOutput(); err != nil {
					return fmt.Errorf("iptables %s: %w: %s", line, err, out)
				}
			}
			return nil
		}
	}
	return map[string]func() error{
		"a rule is gone":             command("-t nat -D ISTIO_OUTPUT 3"),
		"the order is another":       command("-t nat -D ISTIO_OUTPUT 2", "-t nat -A ISTIO_OUTPUT -o lo -p tcp -m multiport ! --dports 53 -j RETURN"),
		"a rule goes before":         command("-t nat -I ISTIO_OUTPUT 1 -j RETURN"),
		"a rule goes before all":     command("-t nat -I OUTPUT 1 -p tcp -j ACCEPT"),
		"a rule of another table":    command("-t mangle -D ISTIO_PREROUTING 1"),
		"our chain is asked no more": command("-t nat -D OUTPUT -j ISTIO_OUTPUT"),
	}
}

// nftChains are all that this network namespace has.
func nftChains() (*nftables.Conn, []*nftables.Chain, error) {
	c, err := nftables.New()
	if err != nil {
		return nil, nil, err
	}
	chains, err := c.ListChains()
	return c, chains, err
}

// changeNft changes the chain of what goes out.
func changeNft(change func(*nftables.Conn, *nftables.Chain, []*nftables.Rule) error) func() error {
	return func() error {
		c, chains, err := nftChains()
		if err != nil {
			return err
		}
		for _, chain := range chains {
			if chain.Name != "nat-output" {
				continue
			}
			rules, err := c.GetRules(chain.Table, chain)
			if err != nil {
				return err
			}
			return errors.Join(change(c, chain, rules), c.Flush())
		}
		return errors.New("there is no chain nat-output")
	}
}

// nothingLeft looks for anything of ours.
func (g *ground) nothingLeft(t *testing.T) error {
	_, chains, err := nftChains()
	if err != nil {
		return err
	}
	for _, chain := range chains {
		if strings.Contains(strings.ToLower(chain.Table.Name+chain.Name), "istio") {
			t.Errorf("chain %s of table %s is left", chain.Name, chain.Table.Name)
		}
	}
	for _, command := range [][]string{{"iptables-legacy-save"}, {"iptables-nft-save"}, {"ip6tables-legacy-save"}, {"ip", "rule"}, {"ip", "-6", "rule"}, {"ip", "route", "show", "table", "all"}} {
		out, err := exec.Command(command[0], command[1:]...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%v: %w: %s", command, err, out)
		}
		for _, ours := range []string{"ISTIO", "fwmark", "table 133"} {
			if strings.Contains(string(out), ours) {
				t.Errorf("%v has %s still: %s", command, ours, out)
			}
		}
	}
	return nil
}
