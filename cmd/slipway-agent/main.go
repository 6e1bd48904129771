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
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/slipway-mesh/slipway/internal/sidecar/agent"
	"github.com/slipway-mesh/slipway/internal/version"
)

// gcPercent is how much an agent's heap may grow before it is swept; Go's default is 100.
const gcPercent = 25

const usage = "usage: slipway-agent proxy|redirect|wait|request|diagnose|grpc-bootstrap|version [flags]"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		slog.Error("slipway-agent failed", "error", err)
		os.Exit(statusOf(err))
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
		// An agent has little to do, and there is one in every pod: memory counts for more than time.
		debug.SetGCPercent(gcPercent)
		return agent.Run(ctx, options)
	case "redirect", "istio-iptables":
		return runRedirect(ctx, args[1:])
	case "grpc-bootstrap":
		return grpcBootstrap(args[1:])
	case "diagnose":
		return diagnose(ctx, args[1:])
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

// grpcBootstrap writes a file for an application that is a client of xDS without an agent: FILE.
func grpcBootstrap(args []string) error {
	if len(args) != 1 {
		return errors.New("usage: slipway-agent grpc-bootstrap FILE")
	}
	options, err := proxyOptions([]string{"sidecar"})
	if err != nil {
		return err
	}
	return agent.WriteSimpleBootstrap(options, args[0])
}

// diagnose says in words what stands between this workload and the mesh. It reads the flags of proxy.
func diagnose(ctx context.Context, args []string) error {
	options, err := proxyOptions(args)
	if err != nil {
		return err
	}
	wrong := 0
	for _, finding := range agent.Diagnose(ctx, options) {
		mark := "✔"
		if finding.Wrong != "" {
			mark, wrong = "✘", wrong+1
		}
		fmt.Printf("%s %s", mark, finding.What)
		if finding.Wrong != "" {
			fmt.Printf(": %s\n  %s", finding.Wrong, finding.Remedy)
		}
		fmt.Println()
	}
	if wrong > 0 {
		return fmt.Errorf("%d things are not as they should be", wrong)
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
