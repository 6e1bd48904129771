package envoytest

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/slipway-mesh/slipway/internal/sidecar/agent"
)

// options are an agent's, with the annotations of its pod.
func options(t *testing.T, config map[string]any, annotations ...string) agent.Options {
	t.Helper()
	dir := t.TempDir()
	var text strings.Builder
	for i := 0; i+1 < len(annotations); i += 2 {
		value, err := json.Marshal(annotations[i+1])
		if err != nil {
			t.Fatal(err)
		}
		text.WriteString(annotations[i] + "=" + string(value) + "\n")
	}
	if err := os.WriteFile(filepath.Join(dir, "annotations"), []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	read, err := agent.ReadProxyConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return agent.Options{Kind: "sidecar", Domain: "n.svc.cluster.local", ConfigDir: dir, SDSSocket: "/tmp/sds", StatusPort: 15020, PodInfo: dir, ProxyConfig: config, Config: read,
		Environment: map[string]string{"POD_NAME": "p", "POD_NAMESPACE": "n", "INSTANCE_IP": "10.0.0.1", "ISTIO_META_WORKLOAD_NAME": "w"}}
}

// TestBootstrapIsAccepted puts the bootstrap of each kind of proxy, and of each setting that changes it, to the real Envoy. The bootstrap
// has what the setting is about.
func TestBootstrapIsAccepted(t *testing.T) {
	for _, c := range []struct {
		name        string
		config      map[string]any
		annotations []string
		want        []string
		router      bool
	}{
		{name: "a sidecar", want: []string{`"id": "sidecar~10.0.0.1~p.n~n.svc.cluster.local"`, "compressor.zstd"}},
		{name: "a gateway", router: true, want: []string{`"id": "router~`}},
		{name: "runtimeValues", config: map[string]any{"runtimeValues": map[string]any{"overload.global_downstream_max_connections": "50", "some.flag": "true"}}, want: []string{`"overload.global_downstream_max_connections": 50`, `"some.flag": true`}},
		{name: "proxyStatsMatcher", config: map[string]any{"proxyStatsMatcher": map[string]any{"inclusionPrefixes": []any{"one"}, "inclusionSuffixes": []any{"two"}, "inclusionRegexps": []any{"thr.e"}}}, want: []string{`"prefix": "one"`, `"suffix": "two"`, `"regex": "thr.e"`}},
		{name: "statsdUdpAddress", config: map[string]any{"statsdUdpAddress": "10.0.0.9:8125"}, want: []string{"envoy.stat_sinks.statsd", `"port_value": 8125`}},
		{name: "envoyMetricsService", config: map[string]any{"envoyMetricsService": map[string]any{"address": "metrics.n:15000"}}, want: []string{"envoy.stat_sinks.metrics_service", `"address": "metrics.n"`}},
		{name: "envoyAccessLogService", config: map[string]any{"envoyAccessLogService": map[string]any{"address": "als.n:15000"}}, want: []string{"envoy_accesslog_service"}},
		{name: "statsInclusionPrefixes", annotations: []string{"sidecar.istio.io/statsInclusionPrefixes", "a,b"}, want: []string{`"prefix": "a"`, `"prefix": "b"`}},
		{name: "statsHistogramBuckets", annotations: []string{"sidecar.istio.io/statsHistogramBuckets", `{"istiocustom": [1, 5, 10], "istiocustom_long": [100]}`}, want: []string{`"prefix": "istiocustom_long"`}},
		{name: "statsHistogramBins", annotations: []string{"sidecar.istio.io/statsHistogramBins", "50"}, want: []string{`"bins": 50`}},
		{name: "statsFlushInterval", annotations: []string{"sidecar.istio.io/statsFlushInterval", "1m30s"}, want: []string{`"stats_flush_interval": "90s"`}},
		{name: "statsEvictionInterval", annotations: []string{"sidecar.istio.io/statsEvictionInterval", "10s"}, want: []string{`"stats_eviction_interval": "10s"`}},
		{name: "statsCompression by one", annotations: []string{"sidecar.istio.io/statsCompression", "brotli"}, want: []string{"compressor.brotli", "!compressor.gzip"}},
		{name: "statsCompression off", config: map[string]any{"statsCompression": false}, want: []string{"!compressor."}},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := options(t, c.config, c.annotations...)
			if c.router {
				o.Kind = "router"
			}
			text, err := o.Bootstrap()
			if err != nil {
				t.Fatal(err)
			}
			for _, part := range c.want {
				if absent := strings.TrimPrefix(part, "!"); strings.Contains(string(text), absent) == (absent != part) {
					t.Errorf("as for %s, the bootstrap is:\n%s", part, text)
				}
			}
			Validate(t, text)
		})
	}
}

// TestArguments puts what Envoy is started with to the real one, with every setting that changes it.
func TestArguments(t *testing.T) {
	o := options(t, map[string]any{"drainDuration": "10s", "fileFlushInterval": "50ms", "fileFlushMinSizeKb": 8})
	o.Concurrency, o.LogLevel, o.ComponentLogLevel = 1, "warning", "misc:error"
	o.BootstrapOverride = filepath.Join(t.TempDir(), "override.json")
	if err := os.WriteFile(o.BootstrapOverride, []byte(`{"stats_flush_interval": "7s"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(t.TempDir(), "envoy.json")
	text, err := o.Bootstrap()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(config, text, 0o600); err != nil {
		t.Fatal(err)
	}
	args, err := o.Arguments(config)
	if err != nil {
		t.Fatal(err)
	}
	for _, pair := range [][2]string{{"--drain-time-s", "10"}, {"--file-flush-interval-msec", "50"}, {"--file-flush-min-size-kb", "8"}, {"--config-yaml", `{"stats_flush_interval": "7s"}`}} {
		if i := slices.Index(args, pair[0]); i < 0 || !reflect.DeepEqual(args[i:i+2], pair[:]) {
			t.Errorf("%v is not among %q", pair, args)
		}
	}
	Accepts(t, args...)
}
