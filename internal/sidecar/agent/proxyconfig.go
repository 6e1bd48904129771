package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/slipway-mesh/slipway/internal/sidecar/bootstrap"
)

// ProxyConfig is Istio's, as far as an agent follows it. The control plane is told all of it, by the node's metadata.
// https://istio.io/latest/docs/reference/config/istio.mesh.v1alpha1/#ProxyConfig
type ProxyConfig struct {
	DiscoveryAddress         string
	Concurrency              *int
	StatusPort               int
	DrainDuration            Duration
	TerminationDrainDuration Duration
	FileFlushInterval        Duration
	FileFlushMinSizeKb       int
	CustomConfigFile         string // a bootstrap in the place of the agent's own
	CaCertificatesPem        []string
	RuntimeValues            map[string]string
	StatsdUdpAddress         string
	EnvoyMetricsService      struct{ Address string }
	EnvoyAccessLogService    struct{ Address string }
	ProxyStatsMatcher        struct{ InclusionPrefixes, InclusionSuffixes, InclusionRegexps []string }
	StatsCompression         *bool
	ReadinessProbe           *readiness
}

// Duration is written as 45s.
type Duration time.Duration

// UnmarshalJSON reads it.
func (d *Duration) UnmarshalJSON(from []byte) error {
	var text string
	if err := json.Unmarshal(from, &text); err != nil {
		return fmt.Errorf("a duration is a text such as 45s: %w", err)
	}
	parsed, err := time.ParseDuration(text)
	*d = Duration(parsed)
	return err
}

// ReadProxyConfig reads what a ProxyConfig says.
func ReadProxyConfig(fields map[string]any) (ProxyConfig, error) {
	var out ProxyConfig
	text, err := json.Marshal(fields)
	if err == nil {
		err = json.Unmarshal(text, &out)
	}
	if err != nil {
		return out, fmt.Errorf("the proxy's configuration: %w", err)
	}
	return out, nil
}

// runtime are Envoy's runtime values: numbers and truth are written as such.
func (c ProxyConfig) runtime() map[string]any {
	out := map[string]any{}
	for name, text := range c.RuntimeValues {
		var value any
		if json.Unmarshal([]byte(text), &value) != nil {
			value = text
		}
		out[name] = value
	}
	return out
}

// statsd is the address where statistics are sent to: Envoy takes no name.
func (c ProxyConfig) statsd() string {
	if c.StatsdUdpAddress == "" {
		return ""
	}
	host, port, err := net.SplitHostPort(c.StatsdUdpAddress)
	if err != nil || net.ParseIP(host) != nil {
		return c.StatsdUdpAddress
	}
	const patience = 5 * time.Second
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	addresses, err := net.DefaultResolver.LookupHost(ctx, host)
	if err != nil || len(addresses) == 0 {
		slog.Warn("statsd gets nothing: its host is not found", "address", c.StatsdUdpAddress, "error", err)
		return ""
	}
	return net.JoinHostPort(addresses[0], port)
}

// stats are the statistics that ProxyConfig and, before it, the pod's annotations ask for. They were checked when the pod was injected.
func (o Options) stats() bootstrap.Stats {
	annotations, _ := readDownward(filepath.Join(o.PodInfo, "annotations"))
	text := func(name string) string { return annotations["sidecar.istio.io/"+name] }
	list := func(name string, otherwise []string) []string {
		if text(name) == "" {
			return otherwise
		}
		return strings.Split(text(name), ",")
	}
	matcher := o.Config.ProxyStatsMatcher
	out := bootstrap.Stats{
		Prefixes: list("statsInclusionPrefixes", matcher.InclusionPrefixes), Suffixes: list("statsInclusionSuffixes", matcher.InclusionSuffixes),
		Regexps: list("statsInclusionRegexps", matcher.InclusionRegexps), FlushInterval: seconds(text("statsFlushInterval")), EvictionInterval: seconds(text("statsEvictionInterval")),
		Compression: compressions(text("statsCompression"), o.Config.StatsCompression), Statsd: o.Config.statsd(),
	}
	_ = json.Unmarshal([]byte(text("statsHistogramBuckets")), &out.Buckets)
	_, _ = fmt.Sscan(text("statsHistogramBins"), &out.Bins)
	if o.ExitWhenIdle {
		out.Suffixes = append(out.Suffixes, connectionsOpen)
	}
	return out
}

// compressions are the methods by which statistics may be had: all, unless somebody says otherwise.
func compressions(annotation string, configured *bool) []string {
	switch annotation {
	case "brotli", "gzip", "zstd":
		return []string{annotation}
	}
	on := configured == nil || *configured
	if said, err := strconv.ParseBool(annotation); err == nil {
		on = said
	}
	if !on {
		return nil
	}
	return []string{"brotli", "zstd", "gzip"}
}

// seconds writes a duration as protobuf's JSON does.
func seconds(text string) string {
	d, err := time.ParseDuration(text)
	if err != nil {
		return ""
	}
	return fmt.Sprintf("%gs", d.Seconds())
}
