package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/user"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slipway-mesh/slipway/internal/sidecar/dns"
	"github.com/slipway-mesh/slipway/internal/sidecar/redirect"
)

// captureFlags are those of istio-iptables.
type captureFlags struct {
	redirect.Options
	outbound, inbound, mark uint
	uids, gids              string
	mode                    string
	dns, allDNS             bool
	cleanup, dryRun         bool
	skip, validate          bool
	force                   bool
	variant                 string
	namespace               string
	probe                   time.Duration
	groups, groupsExcluded  string
}

// longNames are what istio-iptables calls its flags in full.
var longNames = map[string]string{
	"envoy-port": "p", "inbound-capture-port": "z", "proxy-uid": "u", "proxy-gid": "g", "istio-inbound-interception-mode": "m", "istio-inbound-ports": "b",
	"istio-local-exclude-ports": "d", "istio-service-cidr": "i", "istio-service-exclude-cidr": "x", "istio-outbound-ports": "q", "istio-local-outbound-ports-exclude": "o",
	"kube-virt-interfaces": "k", "istio-exclude-interfaces": "c", "istio-inbound-tproxy-mark": "t", "istio-inbound-tproxy-route-table": "r", "dry-run": "n",
}

func parseCapture(args []string) (*captureFlags, error) {
	flags, o := flag.NewFlagSet("redirect", flag.ContinueOnError), &captureFlags{}
	flags.UintVar(&o.outbound, "p", 15001, "port that outbound connections go to")
	flags.UintVar(&o.inbound, "z", 15006, "port that inbound connections go to")
	flags.StringVar(&o.uids, "u", "1337", "user IDs of the proxy, whose connections pass")
	flags.StringVar(&o.gids, "g", "1337", "group IDs of the proxy, whose connections pass")
	flags.StringVar(&o.mode, "m", "REDIRECT", "REDIRECT or TPROXY, which keeps the caller's address")
	flags.UintVar(&o.mark, "t", 1337, "mark of packets, with TPROXY")
	flags.IntVar(&o.RouteTable, "r", 133, "number of the route table, with TPROXY")
	flags.StringVar(&o.IncludeOutboundRanges, "i", "", "CIDRs to capture, or *")
	flags.StringVar(&o.ExcludeOutboundRanges, "x", "", "CIDRs not to capture")
	flags.StringVar(&o.IncludeInbound, "b", "", "inbound ports to capture, or *")
	flags.StringVar(&o.ExcludeInbound, "d", "", "inbound ports not to capture")
	flags.StringVar(&o.IncludeOutboundPorts, "q", "", "outbound ports to capture wherever they lead")
	flags.StringVar(&o.ExcludeOutboundPorts, "o", "", "outbound ports not to capture")
	flags.StringVar(&o.RerouteInterfaces, "k", "", "interfaces of virtual machines, whose traffic is outbound")
	flags.StringVar(&o.ExcludeInterfaces, "c", "", "interfaces to leave alone")
	flags.StringVar(&o.groups, "outbound-owner-groups", "*", "groups, by name or ID, whose connections are captured")
	flags.StringVar(&o.groupsExcluded, "outbound-owner-groups-exclude", "", "groups, by name or ID, whose connections are not captured")
	flags.BoolVar(&o.DropInvalid, "drop-invalid", false, "drop packets that conntrack cannot place")
	flags.BoolVar(&o.dns, "redirect-dns", false, "lead DNS questions to the agent")
	flags.BoolVar(&o.allDNS, "capture-all-dns", false, "whichever server they are for, and not only those of resolv.conf")
	flags.BoolVar(&o.cleanup, "cleanup-only", false, "take the rules away")
	flags.BoolVar(&o.dryRun, "n", false, "say how the rules that are in force differ, and change nothing")
	flags.BoolVar(&o.skip, "skip-rule-apply", false, "change nothing")
	flags.BoolVar(&o.validate, "run-validation", false, "try whether connections are captured; exit with 126 if they are not")
	flags.DurationVar(&o.probe, "probe-timeout", 5*time.Second, "how long that may take")
	flags.BoolVar(&o.force, "force-apply", false, "write the rules even if they are in force")
	flags.StringVar(&o.variant, "force-iptables-binary", "", "write the rules by iptables, of the variant legacy or nft, or default for what is here")
	flags.StringVar(&o.namespace, "network-namespace", "", "file of the network namespace to write them in")
	for _, name := range []string{"native-nftables", "dual-stack", "reconcile", "cni-mode"} { // always so, but for the last, which is for a plugin
		flags.Bool(name, true, "accepted for compatibility")
	}
	flags.Uint("e", 15008, "accepted for compatibility")
	flags.String("log_output_level", "", "accepted for compatibility")
	for long, short := range longNames {
		flags.Var(flags.Lookup(short).Value, long, "-"+short)
	}
	if err := fromCaptureEnvironment(flags); err != nil {
		return nil, err
	}
	return o, flags.Parse(args)
}

// options are what the flags say, and the pod's resolver.
func (o *captureFlags) options() (redirect.Options, error) {
	out := o.Options
	out.OutboundPort, out.InboundPort, out.Mark = uint16(o.outbound), uint16(o.inbound), uint32(o.mark) //nolint:gosec // what is too big is not a port
	switch o.mode {
	case "REDIRECT":
	case "TPROXY":
		out.Transparent = true
	default:
		return out, fmt.Errorf("-m %s: use REDIRECT or TPROXY", o.mode)
	}
	for _, list := range []struct {
		name, text string
		into       *[]uint32
		groups     bool
	}{{"-u", o.uids, &out.ProxyUIDs, false}, {"-g", o.gids, &out.ProxyGIDs, false}, {"--outbound-owner-groups", strings.ReplaceAll(o.groups, "*", ""), &out.OwnerGroups, true},
		{"--outbound-owner-groups-exclude", o.groupsExcluded, &out.ExcludeOwnerGroups, true}} {
		for _, item := range redirect.Fields(list.text) {
			id, err := numberOf(item, list.groups)
			if err != nil {
				return out, fmt.Errorf("%s: %w", list.name, err)
			}
			*list.into = append(*list.into, id)
		}
	}
	if !o.dns {
		return out, nil
	}
	return out, captureDNS(&out, o.allDNS)
}

func numberOf(text string, group bool) (uint32, error) {
	id, err := strconv.ParseUint(text, 10, 32)
	if err != nil && group {
		var found *user.Group
		if found, err = user.LookupGroup(text); err == nil {
			id, err = strconv.ParseUint(found.Gid, 10, 32)
		}
	}
	if err != nil {
		return 0, fmt.Errorf("%q is no ID: %w", text, err)
	}
	return uint32(id), nil
}

func (o *captureFlags) backend() (redirect.Backend, error) {
	switch o.variant {
	case "":
		return redirect.Nftables{}, nil
	case "default":
		return redirect.Iptables{}, nil
	case "legacy", "nft":
		return redirect.Iptables{Variant: o.variant}, nil
	}
	return nil, fmt.Errorf("--force-iptables-binary %s: use legacy, nft or default", o.variant)
}

func runRedirect(ctx context.Context, args []string) error {
	o, err := parseCapture(args)
	if err != nil {
		return err
	}
	options, err := o.options()
	if err != nil {
		return err
	}
	backend, err := o.backend()
	if err != nil {
		return err
	}
	plan, err := redirect.NewPlan(options)
	if err != nil {
		return err
	}
	if o.namespace != "" {
		if err := enter(o.namespace); err != nil {
			return fmt.Errorf("--network-namespace: %w", err)
		}
	}
	if err := o.carryOut(backend, plan); err != nil || !o.validate {
		return err
	}
	return validate(ctx, options, o.probe)
}

func (o *captureFlags) carryOut(backend redirect.Backend, plan redirect.Plan) error {
	switch {
	case o.cleanup:
		return redirect.Cleanup(backend, plan)
	case o.dryRun:
		differs, err := redirect.Differs(backend, plan)
		if differs == "" && err == nil {
			differs = "the rules are in force"
		}
		fmt.Println(differs)
		return err
	case o.skip:
		return nil
	case o.force:
		if err := redirect.Cleanup(backend, plan); err != nil {
			return err
		}
	}
	differed, err := redirect.Apply(backend, plan)
	if differed != "" && err == nil {
		fmt.Println("rules written:", differed)
	}
	return err
}

// enter moves this process, of which nothing else runs yet, into a network namespace.
func enter(file string) error {
	runtime.LockOSThread()
	there, err := os.Open(file)
	if err != nil {
		return err
	}
	defer func() { _ = there.Close() }()
	return unix.Setns(int(there.Fd()), unix.CLONE_NEWNET)
}

// captureDNS leads the questions for the servers that the pod has, or for all, to the agent.
func captureDNS(o *redirect.Options, all bool) error {
	o.DNSPort = dns.Port
	if all {
		return nil
	}
	var servers dns.Server
	if err := servers.FromResolver(dns.ResolverFile); err != nil {
		return err
	}
	for _, server := range servers.Upstreams {
		if address, err := netip.ParseAddrPort(server); err == nil {
			o.DNSServers = append(o.DNSServers, address.Addr())
		}
	}
	return nil
}

// errNotCaptured ends a validation with the status that a CNI plugin's repair looks for.
var errNotCaptured = errors.New("connections are not captured: the rules are not in force, or something else goes before them")

func statusOf(err error) int {
	if errors.Is(err, errNotCaptured) {
		return 126
	}
	return 1
}

// validate opens a connection that leads nowhere, as the proxy would to its own workload, and sees whether it comes to the inbound port
// with its destination still known.
func validate(ctx context.Context, o redirect.Options, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	const nowhere = "127.0.0.6:15002"
	listener, err := (&net.ListenConfig{Control: transparent(o.Transparent)}).Listen(ctx, "tcp4", fmt.Sprintf("0.0.0.0:%d", o.InboundPort))
	if err != nil {
		return err
	}
	defer func() { _ = listener.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = listener.Close() })
	defer stop()
	connection, err := asProxy(ctx, o.ProxyUIDs, nowhere)
	if err != nil {
		return errors.Join(errNotCaptured, err)
	}
	defer func() { _ = connection.Close() }()
	caught, err := listener.Accept()
	if err != nil {
		return errors.Join(errNotCaptured, err)
	}
	defer func() { _ = caught.Close() }()
	told := caught.LocalAddr().String()
	if !o.Transparent {
		destination, err := redirect.OriginalDestination(caught.(syscall.Conn))
		if err != nil {
			return errors.Join(errNotCaptured, err)
		}
		told = destination.String()
	}
	if told != nowhere {
		return errors.Join(errNotCaptured, fmt.Errorf("the destination is told as %s", told))
	}
	fmt.Println("connections are captured")
	return nil
}

// asProxy connects as one of the proxy's users, which only root can.
func asProxy(ctx context.Context, uids []uint32, address string) (net.Conn, error) {
	if os.Geteuid() == 0 && len(uids) > 0 {
		runtime.LockOSThread() // a socket's owner is that of the thread that makes it
		defer runtime.UnlockOSThread()
		if _, _, errno := syscall.RawSyscall(syscall.SYS_SETFSUID, uintptr(uids[0]), 0, 0); errno != 0 {
			return nil, errno
		}
		defer func() { _, _, _ = syscall.RawSyscall(syscall.SYS_SETFSUID, 0, 0, 0) }()
	}
	return (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}}).DialContext(ctx, "tcp4", address)
}

// transparent lets a socket have connections to addresses that are not this pod's.
func transparent(on bool) func(network, address string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) (err error) {
		if !on {
			return nil
		}
		failed := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_TRANSPARENT, 1) })
		return errors.Join(failed, err)
	}
}
