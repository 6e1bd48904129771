package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// envoy is the Envoy process.
type envoy struct {
	options  Options
	config   string
	draining atomic.Bool
}

func newEnvoy(o Options, config string) *envoy { return &envoy{options: o, config: config} }

// Arguments are those that Envoy starts with; config is the file of its bootstrap.
func (o Options) Arguments(config string) ([]string, error) {
	const drain, flush = 45 * time.Second, time.Second
	c := o.Config
	args := []string{"-c", config, "--drain-time-s", strconv.Itoa(int(cmp.Or(time.Duration(c.DrainDuration), drain).Seconds())), "--drain-strategy", "immediate",
		"--local-address-ip-version", "v4", "--file-flush-interval-msec", strconv.Itoa(int(cmp.Or(time.Duration(c.FileFlushInterval), flush).Milliseconds())),
		"--disable-hot-restart", "--allow-unknown-static-fields", "-l", o.LogLevel, "--component-log-level", o.ComponentLogLevel}
	if c.FileFlushMinSizeKb > 0 {
		args = append(args, "--file-flush-min-size-kb", strconv.Itoa(c.FileFlushMinSizeKb))
	}
	if o.Concurrency > 0 {
		args = append(args, "--concurrency", strconv.Itoa(o.Concurrency))
	}
	if o.BootstrapOverride != "" {
		text, err := os.ReadFile(o.BootstrapOverride)
		if err != nil {
			return nil, fmt.Errorf("the bootstrap's override: %w", err)
		}
		args = append(args, "--config-yaml", string(text))
	}
	return args, nil
}

// run starts Envoy and waits for it. When ctx ends it drains Envoy, gives connections time, and ends it.
func (e *envoy) run(ctx, serving context.Context) error {
	args, err := e.options.Arguments(e.config)
	if err != nil {
		return err
	}
	cmd := exec.Command(e.options.Envoy, args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), e.options.described()...)
	// Envoy must not get the signals that are for us: we drain it first.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", e.options.Envoy, err)
	}
	slog.Info("Envoy started", "pid", cmd.Process.Pid)
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	select {
	case err := <-exited:
		if err == nil {
			err = errors.New("with status 0")
		}
		return fmt.Errorf("ended by itself: %w", err)
	case <-serving.Done():
	case <-ctx.Done():
		wait := lateCallers
		drained := e.draining.Load()
		if !drained {
			e.drain(context.WithoutCancel(ctx))
			wait = e.options.TerminationDrain
		}
		select {
		case err := <-exited:
			return err
		case <-time.After(wait):
		}
		if !drained && e.idle(serving, exited) {
			return nil
		}
	}
	return e.end(cmd, exited)
}

// lateCallers is how long a native sidecar goes on when its applications have ended: there are callers that have not heard yet. They are
// answered that the application is gone, and try another; whose connection is cut in the middle does not.
const lateCallers = time.Second

// idlePoll is how often open connections are counted.
const idlePoll = time.Second

// idle waits until no connection is open any more, where that is asked for; who is impatient is the kubelet. It says whether Envoy has
// ended meanwhile.
func (e *envoy) idle(serving context.Context, exited <-chan error) bool {
	for e.options.ExitWhenIdle {
		open, err := openConnections(serving)
		if err != nil || open == 0 {
			return false
		}
		select {
		case <-exited:
			return true
		case <-serving.Done():
			return false
		case <-time.After(idlePoll):
		}
	}
	return false
}

// connectionsOpen ends the names of what counts the connections of a listener.
const connectionsOpen = "downstream_cx_active"

// openConnections are those that others have opened to Envoy, without those of whoever looks at it.
func openConnections(ctx context.Context) (int, error) {
	text, err := admin(ctx, http.MethodGet, "/stats?usedonly&filter=^listener.*"+connectionsOpen+"$")
	if err != nil {
		return 0, err
	}
	sum := 0
	for _, line := range strings.Split(text, "\n") {
		name, value, ok := strings.Cut(line, ": ")
		if !ok || strings.Contains(name, ".admin.") || strings.Contains(name, "_15021.") || strings.Contains(name, "_15090.") || strings.Contains(name, ".worker_") {
			continue
		}
		number, err := strconv.Atoi(strings.TrimSpace(value))
		if err != nil {
			return 0, err
		}
		sum += number
	}
	return sum, nil
}

func (e *envoy) end(cmd *exec.Cmd, exited <-chan error) error {
	_ = cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-exited:
	case <-time.After(2 * time.Second):
		_ = cmd.Process.Kill()
		<-exited
	}
	return nil
}

// drain tells Envoy to finish what it has and take no more. A gateway drains all listeners, a sidecar those for inbound.
func (e *envoy) drain(ctx context.Context) {
	e.draining.Store(true)
	query := "?graceful"
	if e.options.Kind == "sidecar" {
		query = "?inboundonly&graceful"
	}
	if _, err := admin(ctx, http.MethodPost, "/drain_listeners"+query); err != nil {
		slog.Warn("cannot drain Envoy", "error", err)
	}
}

// askAdmin asks Envoy's admin port.
func askAdmin(ctx context.Context, method, path string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, "http://127.0.0.1:"+strconv.Itoa(adminPort)+path, nil)
	if err != nil {
		return nil, err
	}
	return http.DefaultClient.Do(request)
}

// admin asks Envoy's admin port for something short.
func admin(ctx context.Context, method, path string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	response, err := askAdmin(ctx, method, path)
	if err != nil {
		return "", err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", response.Status, body)
	}
	return string(body), err
}

// notReady says in words why Envoy cannot serve yet; empty when it can.
func notReady(ctx context.Context) string {
	text, err := admin(ctx, http.MethodGet, "/stats?usedonly&filter=^(cluster_manager.cds.update_success|listener_manager.lds.update_success|server.state|listener_manager.workers_started)$")
	if err != nil {
		return "Envoy does not answer: " + err.Error()
	}
	stats := map[string]string{}
	for _, line := range strings.Split(text, "\n") {
		if name, value, ok := strings.Cut(line, ": "); ok {
			stats[name] = value
		}
	}
	for _, want := range []struct{ name, missing string }{
		{"cluster_manager.cds.update_success", "clusters (CDS) have not come from the control plane yet"},
		{"listener_manager.lds.update_success", "listeners (LDS) have not come from the control plane yet"},
		{"listener_manager.workers_started", "Envoy's workers have not started: listeners wait for routes or certificates"},
	} {
		if value := stats[want.name]; value == "" || value == "0" {
			return want.missing
		}
	}
	if state := stats["server.state"]; state != "" && state != "0" {
		return "Envoy is not live (server.state " + state + ")"
	}
	return ""
}
