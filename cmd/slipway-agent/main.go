// Command slipway-agent runs beside Envoy. pilot-agent is another name of it, which injected pods and users call.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/slipway-mesh/slipway/internal/sidecar/agent"
	"github.com/slipway-mesh/slipway/internal/sidecar/dns"
	"github.com/slipway-mesh/slipway/internal/sidecar/redirect"
	"github.com/slipway-mesh/slipway/internal/version"
)

const usage = "usage: slipway-agent proxy|redirect|wait|request|version [flags]"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		slog.Error("slipway-agent failed", "error", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New(usage)
	}
	switch args[0] {
	case "proxy":
		options, err := proxyOptions(args[1:])
		if err != nil {
			return err
		}
		return agent.Run(ctx, options)
	case "redirect", "istio-iptables":
		return runRedirect(args[1:])
	case "wait":
		return wait(ctx, args[1:])
	case "request":
		return request(ctx, args[1:])
	case "version":
		fmt.Println(version.String())
		return nil
	}
	return errors.New(usage)
}

func runRedirect(args []string) error {
	flags := flag.NewFlagSet("redirect", flag.ContinueOnError)
	var o redirect.Options
	outbound, inbound := flags.Uint("p", 15001, "port that outbound connections go to"), flags.Uint("z", 15006, "port that inbound connections go to")
	uid := flags.Uint("u", 1337, "user ID of the proxy, whose connections pass")
	gid := flags.Uint("g", 1337, "group ID of the proxy, whose connections pass")
	mode := flags.String("m", "REDIRECT", "interception mode")
	flags.StringVar(&o.IncludeOutboundRanges, "i", "", "CIDRs to capture, or *")
	flags.StringVar(&o.ExcludeOutboundRanges, "x", "", "CIDRs not to capture")
	flags.StringVar(&o.IncludeInbound, "b", "", "inbound ports to capture, or *")
	flags.StringVar(&o.ExcludeInbound, "d", "", "inbound ports not to capture")
	flags.StringVar(&o.IncludeOutboundPorts, "q", "", "outbound ports to capture wherever they lead")
	flags.StringVar(&o.ExcludeOutboundPorts, "o", "", "outbound ports not to capture")
	captured := flags.Bool("redirect-dns", dnsCaptured(), "lead DNS questions to the agent")
	allDNS := flags.Bool("capture-all-dns", false, "whichever server they are for, and not only those of resolv.conf")
	cleanup := flags.Bool("cleanup-only", false, "take the rules away")
	flags.String("log_output_level", "", "accepted for compatibility")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *cleanup {
		return redirect.Cleanup()
	}
	if *mode != "REDIRECT" {
		return fmt.Errorf("-m %s: only REDIRECT is supported yet", *mode)
	}
	o.OutboundPort, o.InboundPort, o.ProxyUID, o.ProxyGID = uint16(*outbound), uint16(*inbound), uint32(*uid), uint32(*gid)
	if *captured {
		if err := captureDNS(&o, *allDNS); err != nil {
			return err
		}
	}
	plan, err := redirect.NewPlan(o)
	if err != nil {
		return err
	}
	return redirect.Apply(plan)
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

// wait returns when the proxy is ready, or fails with the cause when it is not in time.
func wait(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("wait", flag.ContinueOnError)
	url := flags.String("url", "http://localhost:15021/healthz/ready", "what to ask")
	timeout := flags.Int("timeoutSeconds", 60, "how long to wait")
	period := flags.Int("periodMillis", 500, "time between two requests")
	if err := flags.Parse(args); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(*timeout)*time.Second)
	defer cancel()
	for {
		_, err := call(ctx, http.MethodGet, *url, "")
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the proxy is not ready after %d seconds: %w", *timeout, err)
		case <-time.After(time.Duration(*period) * time.Millisecond):
		}
	}
}

// request calls a local port: METHOD PATH [BODY].
func request(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("request", flag.ContinueOnError)
	port := flags.Int("debug-port", 15000, "15000 is Envoy's admin port, 15020 the agent's")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() < 2 {
		return errors.New("usage: slipway-agent request [--debug-port PORT] METHOD PATH [BODY]")
	}
	body, err := call(ctx, flags.Arg(0), fmt.Sprintf("http://localhost:%d/%s", *port, strings.TrimPrefix(flags.Arg(1), "/")), flags.Arg(2))
	fmt.Print(body)
	return err
}

func call(ctx context.Context, method, url, body string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return "", err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode >= 300 {
		err = fmt.Errorf("%s: %s", response.Status, strings.TrimSpace(string(text)))
	}
	return string(text), err
}
