package envoy

import (
	"maps"
	"slices"
	"strings"
	"sync"

	accesslog "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	data "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	stats "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/stats/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	telemetry "istio.io/api/telemetry/v1alpha1"

	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
)

// Istio's metrics come from filters that stock Envoy does not have. Its access logger that counts takes their place: it keeps one
// tag, and the agent makes Istio's labels of them when somebody reads. See docs/design/0004-telemetry.md.

// side says at which end of a call a filter is, and how it is looked at there.
type side struct {
	config  *mesh.Config
	inbound bool
	// counts says that the proxy is a stock Envoy.
	counts bool
}

func outboundSide(config *mesh.Config, flavour mesh.Flavour) side {
	return side{config: config, counts: flavour == mesh.Stock}
}

func inboundSide(config *mesh.Config, flavour mesh.Flavour) side {
	return side{config: config, inbound: true, counts: flavour == mesh.Stock}
}

// requestLogs are those of requests.
func (s side) requestLogs() []*accesslog.AccessLog {
	return append(s.logs(false, nil), s.counters(requestStats, nil)...)
}

// connectionLogs are those of connections. They are told of when one begins, for the counters alone.
func (s side) connectionLogs() []*accesslog.AccessLog {
	if !s.counts {
		return s.logs(true, nil)
	}
	out := s.logs(true, logTypes(true, data.AccessLogType_TcpUpstreamConnected))
	out = append(out, s.counters(openStats, logTypes(false, data.AccessLogType_TcpUpstreamConnected))...)
	return append(out, s.counters(closeStats, logTypes(true, data.AccessLogType_TcpUpstreamConnected))...)
}

// counters are the logger that counts, as Telemetries would have it; none where nothing is left.
func (s side) counters(kind [2]statistics, filter *accesslog.AccessLogFilter) []*accesslog.AccessLog {
	if !s.counts {
		return nil
	}
	of, metrics := kind[index(s.inbound)], s.watch().Metrics
	if len(metrics) == 0 {
		return []*accesslog.AccessLog{statsLog(of.packed(), filter)}
	}
	how := func(stat *stats.Config_Stat) mesh.Counting { return metrics[metricNames[stat.Name]] }
	left := proto.CloneOf(of.config())
	left.Counters = slices.DeleteFunc(left.Counters, func(c *stats.Config_Counter) bool { return how(c.Stat).Off })
	left.Histograms = slices.DeleteFunc(left.Histograms, func(h *stats.Config_Histogram) bool { return how(h.Stat).Off })
	for _, c := range left.Counters {
		relabel(c.Stat, how(c.Stat).Labels)
	}
	for _, h := range left.Histograms {
		relabel(h.Stat, how(h.Stat).Labels)
	}
	if len(left.Counters)+len(left.Histograms) == 0 {
		return nil
	}
	return []*accesslog.AccessLog{statsLog(pack(left), filter)}
}

// What tells the agent of labels that a Telemetry sets, each by a tag of its own, and of those that it takes away, by one.
const setTag, dropTag = "set_", "drop"

// relabel adds tags to a statistic for the labels that are not as ever.
func relabel(stat *stats.Config_Stat, labels map[string]string) {
	var dropped []string
	for _, name := range slices.Sorted(maps.Keys(labels)) {
		if expression := labels[name]; expression != "" {
			stat.Tags = append(stat.Tags, &stats.Config_Tag{Name: setTag + name, ValueFormat: "%CEL(" + expression + ")%"})
		} else {
			dropped = append(dropped, name)
		}
	}
	if len(dropped) > 0 {
		stat.Tags = append(stat.Tags, &stats.Config_Tag{Name: dropTag, ValueFormat: strings.Join(dropped, ",")})
	}
}

// metricNames are the Telemetry API's names of the statistics.
var metricNames = map[string]telemetry.MetricSelector_IstioMetric{
	"requests_total": telemetry.MetricSelector_REQUEST_COUNT, "request_duration_milliseconds": telemetry.MetricSelector_REQUEST_DURATION,
	"request_bytes": telemetry.MetricSelector_REQUEST_SIZE, "response_bytes": telemetry.MetricSelector_RESPONSE_SIZE,
	"tcp_connections_opened_total": telemetry.MetricSelector_TCP_OPENED_CONNECTIONS, "tcp_connections_closed_total": telemetry.MetricSelector_TCP_CLOSED_CONNECTIONS,
	"tcp_sent_bytes_total": telemetry.MetricSelector_TCP_SENT_BYTES, "tcp_received_bytes_total": telemetry.MetricSelector_TCP_RECEIVED_BYTES,
}

func index(inbound bool) int {
	if inbound {
		return mesh.AtCalled
	}
	return mesh.AtCaller
}

func logTypes(exclude bool, types ...data.AccessLogType) *accesslog.AccessLogFilter {
	return &accesslog.AccessLogFilter{FilterSpecifier: &accesslog.AccessLogFilter_LogTypeFilter{LogTypeFilter: &accesslog.LogTypeFilter{Types: types, Exclude: exclude}}}
}

func statsLog(config *anypb.Any, filter *accesslog.AccessLogFilter) *accesslog.AccessLog {
	return &accesslog.AccessLog{Name: "envoy.access_loggers.stats", Filter: filter, ConfigType: &accesslog.AccessLog_TypedConfig{TypedConfig: config}}
}

// The statistics, first as a caller sees them and then as who is called does. They are the same for all proxies.
var (
	requestStats = bothSides(func(inbound bool) *stats.Config {
		tags := callTag(inbound, "%RESPONSE_FLAGS%", "%RESPONSE_CODE%", "%GRPC_STATUS_NUMBER%")
		return &stats.Config{
			Counters: []*stats.Config_Counter{{Stat: &stats.Config_Stat{Name: "requests_total", Tags: tags}, ValueFixed: u64(1)}},
			Histograms: []*stats.Config_Histogram{
				histogram("request_duration_milliseconds", tags, stats.Config_Histogram_Unspecified, "%DURATION%"),
				histogram("request_bytes", tags, stats.Config_Histogram_Unspecified, "%BYTES_RECEIVED%"),
				histogram("response_bytes", tags, stats.Config_Histogram_Unspecified, "%BYTES_SENT%"),
			},
		}
	})
	openStats = bothSides(func(inbound bool) *stats.Config {
		return &stats.Config{Counters: []*stats.Config_Counter{{Stat: &stats.Config_Stat{Name: "tcp_connections_opened_total", Tags: callTag(inbound, "%RESPONSE_FLAGS%")}, ValueFixed: u64(1)}}}
	})
	closeStats = bothSides(func(inbound bool) *stats.Config {
		counter := func(name, value string) *stats.Config_Counter {
			return &stats.Config_Counter{Stat: &stats.Config_Stat{Name: name, Tags: callTag(inbound, "%RESPONSE_FLAGS%")}, ValueFormat: value}
		}
		return &stats.Config{Counters: []*stats.Config_Counter{
			{Stat: &stats.Config_Stat{Name: "tcp_connections_closed_total", Tags: callTag(inbound, "%RESPONSE_FLAGS%")}, ValueFixed: u64(1)},
			counter("tcp_sent_bytes_total", "%BYTES_SENT%"), counter("tcp_received_bytes_total", "%BYTES_RECEIVED%"),
		}}
	})
)

// statistics are what is counted, and the same as every listener has it.
type statistics struct {
	config func() *stats.Config
	packed func() *anypb.Any
}

func bothSides(make func(inbound bool) *stats.Config) [2]statistics {
	scoped := func(inbound bool) statistics {
		config := sync.OnceValue(func() *stats.Config {
			config := make(inbound)
			config.StatsScope = &typev3.Scope{Prefix: StatsPrefix}
			return config
		})
		return statistics{config, sync.OnceValue(func() *anypb.Any { return pack(config()) })}
	}
	return [2]statistics{scoped(false), scoped(true)}
}

// StatsPrefix begins the names of the mesh's statistics in Envoy.
const StatsPrefix = "slipway"

// callSeparator stands between the parts of the one tag that everything has. It is in none of them.
const callSeparator = "~"

// callTag tells who the other side is, by its certificate, what was called, and what more is said. It is one tag, since each costs every
// request, and every listener its bytes.
func callTag(inbound bool, more ...string) []*stats.Config_Tag {
	parts := []string{"source", "%UPSTREAM_PEER_URI_SAN%", "%UPSTREAM_PEER_DNS_SAN%", "%UPSTREAM_CLUSTER_RAW%"}
	if inbound {
		parts = []string{"destination", "%DOWNSTREAM_PEER_URI_SAN%", "%DOWNSTREAM_PEER_DNS_SAN%", "%METADATA(CLUSTER:istio:service)%"}
	}
	return []*stats.Config_Tag{{Name: "call", ValueFormat: strings.Join(append(parts, more...), callSeparator)}}
}

func histogram(name string, tags []*stats.Config_Tag, unit stats.Config_Histogram_Unit, value string) *stats.Config_Histogram {
	return &stats.Config_Histogram{Stat: &stats.Config_Stat{Name: name, Tags: tags}, Unit: unit, ValueFormat: value}
}
