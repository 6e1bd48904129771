package bootstrap

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Stats says which statistics are kept, and where they go.
type Stats struct {
	// Prefixes, Suffixes and Regexps are of names that are kept further to what the mesh's tools read.
	Prefixes, Suffixes, Regexps []string
	// Buckets are the limits of histograms, by the beginning of their names.
	Buckets map[string][]float64
	// Bins is how many a histogram has at most; 0 is Envoy's default.
	Bins int
	// FlushInterval and EvictionInterval are durations such as 5s; empty is Envoy's default.
	FlushInterval, EvictionInterval string
	// Compression are the methods by which who scrapes may have them: brotli, gzip, zstd.
	Compression []string
	// Statsd is IP:PORT of where they are sent by UDP; empty is nowhere.
	Statsd string
}

// config keeps what the mesh's tools read: a thousand services have a thousand times Envoy's own cluster statistics.
func (s Stats) config() object {
	var patterns []any
	for _, prefix := range []string{"slipway.", "reporter=", "cluster_manager", "listener_manager", "http_mixer_filter", "tcp_mixer_filter", "server", "cluster.xds-grpc", "http.inbound_", "http.outbound_", "tcp.", "vhost.", "istio"} {
		patterns = append(patterns, object{"prefix": prefix})
	}
	for _, suffix := range []string{"ssl_context_update_by_sds", "update_rejected", "ssl.handshake", "ssl.fail_verify_san"} {
		patterns = append(patterns, object{"suffix": suffix})
	}
	for _, more := range []struct {
		kind string
		list []string
	}{{"prefix", s.Prefixes}, {"suffix", s.Suffixes}} {
		for _, text := range more.list {
			patterns = append(patterns, object{more.kind: text})
		}
	}
	for _, text := range s.Regexps {
		patterns = append(patterns, object{"safe_regex": object{"regex": text}})
	}
	out := object{"use_all_default_tags": false, "stats_matcher": object{"inclusion_list": object{"patterns": patterns}}}
	if histograms := s.histograms(); len(histograms) > 0 {
		out["histogram_bucket_settings"] = histograms
	}
	return out
}

// histograms says what Envoy counts of times: the longest beginning of a name counts.
func (s Stats) histograms() []any {
	var out []any
	setting := func(prefix string) object {
		one := object{"match": object{"prefix": prefix}}
		if prefix == "" { // Envoy takes no empty one
			one["match"] = object{"safe_regex": object{"regex": ".*"}}
		}
		if s.Bins > 0 {
			one["bins"] = s.Bins
		}
		return one
	}
	prefixes := slices.SortedFunc(maps.Keys(s.Buckets), func(a, b string) int {
		if len(a) != len(b) {
			return len(b) - len(a)
		}
		return strings.Compare(a, b)
	})
	for _, prefix := range prefixes {
		one := setting(prefix)
		one["buckets"] = s.Buckets[prefix]
		out = append(out, one)
	}
	if s.Bins > 0 && s.Buckets[""] == nil {
		out = append(out, setting(""))
	}
	return out
}

// compressors are the filters that compress.
func (s Stats) compressors() []any {
	var out []any
	for _, method := range s.Compression {
		out = append(out, object{"name": "compressor." + method, "typed_config": object{
			"@type": "type.googleapis.com/envoy.extensions.filters.http.compressor.v3.Compressor",
			"compressor_library": object{"name": method, "typed_config": object{
				"@type": "type.googleapis.com/envoy.extensions.compression." + method + ".compressor.v3." + strings.ToUpper(method[:1]) + method[1:],
			}},
			"response_direction_config": object{"common_config": object{"min_content_length": 4096, "content_type": []any{"text/plain", "application/openmetrics-text"}}},
		}})
	}
	return out
}

// metricsService is the cluster that statistics are sent to by gRPC.
const metricsService = "envoy_metrics_service"

// sinks adds to a bootstrap where statistics are sent, and how often.
func (o Options) sinks(bootstrap object) error {
	for name, value := range map[string]string{"stats_flush_interval": o.Stats.FlushInterval, "stats_eviction_interval": o.Stats.EvictionInterval} {
		if value != "" {
			bootstrap[name] = value
		}
	}
	var sinks []any
	if o.MetricsService != "" {
		sinks = append(sinks, object{"name": "envoy.stat_sinks.metrics_service", "typed_config": object{
			"@type": "type.googleapis.com/envoy.config.metrics.v3.MetricsServiceConfig", "transport_api_version": "V3", "report_counters_as_deltas": true,
			"grpc_service": object{"envoy_grpc": object{"cluster_name": metricsService}},
		}})
	}
	if o.Stats.Statsd != "" {
		ip, port, err := split(o.Stats.Statsd)
		if err != nil {
			return fmt.Errorf("statsd: %w", err)
		}
		sinks = append(sinks, object{"name": "envoy.stat_sinks.statsd", "typed_config": object{
			"@type":   "type.googleapis.com/envoy.config.metrics.v3.StatsdSink",
			"address": object{"socket_address": object{"protocol": "UDP", "address": ip, "port_value": port}},
		}})
	}
	if len(sinks) > 0 {
		bootstrap["stats_sinks"] = sinks
	}
	return nil
}
