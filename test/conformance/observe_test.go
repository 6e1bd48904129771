package conformance

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	accesslog "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	logs "go.opentelemetry.io/proto/otlp/logs/v1"
	traces "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/slipway-mesh/slipway/test/nettest"
)

// collector takes logs and spans, and keeps a line of each.
type collector struct {
	mu    sync.Mutex
	lines []string
}

func (c *collector) add(line string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lines = append(c.lines, line)
}

// with returns a line that has all the words; false if there is none.
func (c *collector) with(words ...string) (string, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
next:
	for _, line := range c.lines {
		for _, word := range words {
			if !strings.Contains(line, word) {
				continue next
			}
		}
		return line, true
	}
	return "", false
}

func (c *collector) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lines = nil
}

// take keeps what comes by OTLP, where an export is, on the wire, what the data types are, and by Envoy's own access log service.
func (c *collector) take(_ any, stream grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(stream)
	if strings.Contains(method, "AccessLogService") {
		return c.accessLogs(stream)
	}
	if strings.Contains(method, "LogsService") {
		data := &logs.LogsData{}
		if err := stream.RecvMsg(data); err != nil {
			return err
		}
		for _, resource := range data.ResourceLogs {
			for _, scope := range resource.ScopeLogs {
				for _, record := range scope.LogRecords {
					c.add("log " + record.Body.GetStringValue() + " " + attributes(record.Attributes) + attributes(resource.Resource.GetAttributes()))
				}
			}
		}
		return stream.SendMsg(&emptypb.Empty{})
	}
	data := &traces.TracesData{}
	if err := stream.RecvMsg(data); err != nil {
		return err
	}
	for _, resource := range data.ResourceSpans {
		for _, scope := range resource.ScopeSpans {
			for _, span := range scope.Spans {
				c.add("span " + span.Name + " " + attributes(span.Attributes) + attributes(resource.Resource.GetAttributes()))
			}
		}
	}
	return stream.SendMsg(&emptypb.Empty{})
}

func (c *collector) accessLogs(stream grpc.ServerStream) error {
	name := ""
	for {
		data := &accesslog.StreamAccessLogsMessage{}
		if err := stream.RecvMsg(data); err != nil {
			return err
		}
		if id := data.GetIdentifier(); id != nil { // on the first message only
			name = id.LogName
		}
		for _, entry := range data.GetHttpLogs().GetLogEntry() {
			c.add(fmt.Sprintf("als %s %s %d %s", name, entry.GetRequest().GetPath(), entry.GetResponse().GetResponseCode().GetValue(), entry.GetRequest().GetRequestHeaders()["x-who"]))
		}
		for _, entry := range data.GetTcpLogs().GetLogEntry() {
			c.add(fmt.Sprintf("als %s %s", name, entry.GetCommonProperties().GetUpstreamCluster()))
		}
	}
}

func attributes(list []*common.KeyValue) string {
	var out strings.Builder
	for _, a := range list {
		fmt.Fprintf(&out, "%s=%s ", a.Key, a.Value.GetStringValue())
	}
	return out.String()
}

// collect runs a collector in a pod: OTLP and ALS on 4317, Zipkin on 9411.
func collect(t *testing.T, p *nettest.Pod) *collector {
	t.Helper()
	c := &collector{}
	server := grpc.NewServer(grpc.UnknownServiceHandler(c.take))
	listener := p.Listen(t, "0.0.0.0:4317")
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	zipkin := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var list []struct {
			Name          string
			LocalEndpoint struct{ ServiceName string }
			Tags          map[string]string
		}
		_ = json.Unmarshal(body, &list)
		for _, span := range list {
			c.add(fmt.Sprintf("zipkin %s %s %v", span.Name, span.LocalEndpoint.ServiceName, span.Tags))
		}
		w.WriteHeader(http.StatusAccepted)
	})}
	at := p.Listen(t, "0.0.0.0:9411")
	go func() { _ = zipkin.Serve(at) }()
	t.Cleanup(func() { _ = zipkin.Close() })
	return c
}

const collectorService = `apiVersion: v1
kind: Service
metadata: {name: collector}
spec:
  clusterIP: 10.0.0.90
  selector: {app: legacy}
  ports: [{name: grpc-otlp, port: 4317, targetPort: 4317}, {name: http-zipkin, port: 9411, targetPort: 9411}]
`

// observed is the mesh's configuration with providers.
func observed(more string) string {
	return meshConfig("{" + more + "extensionProviders: [{name: file, envoyFileAccessLog: {path: /run/logs/file, logFormat: {labels: {code: \"%RESPONSE_CODE%\", to: \"%UPSTREAM_CLUSTER_RAW%\"}}}}, " +
		"{name: otel-logs, envoyOtelAls: {service: collector.default.svc.cluster.local, port: 4317, logFormat: {text: \"called %REQ(:PATH)%\", labels: {code: \"%RESPONSE_CODE%\"}}}}, " +
		"{name: otel, opentelemetry: {service: collector.default.svc.cluster.local, port: 4317}}, {name: zipkin, zipkin: {service: default/collector.default.svc.cluster.local, port: 9411}}, " +
		"{name: http-als, envoyHttpAls: {service: collector.default.svc.cluster.local, port: 4317, logName: mine, additionalRequestHeadersToLog: [x-who]}}, {name: tcp-als, envoyTcpAls: {service: collector.default.svc.cluster.local, port: 4317}}, " +
		"{name: lost, opentelemetry: {service: nowhere.test, port: 4317}}]}")
}

func telemetryObject(namespace, spec string) string {
	return "apiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {name: case, namespace: " + namespace + "}\nspec: " + spec + "\n"
}

// TestTelemetryObjects runs what is logged, traced and counted, as MeshConfig and Telemetry say.
func TestTelemetryObjects(t *testing.T) {
	t.Parallel() // its ports are its own
	m := startPods(t)
	m.kube.Apply(t, collectorService)
	m.endpoints(t, "collector", m.pods.plain)
	c := collect(t, m.pods.plain)
	for _, p := range []*nettest.Pod{m.pods.client, m.pods.other, m.pods.v1, m.pods.v2} {
		p.Mkdir(t, "/run/logs")
	}
	m.base = observed("") + "---\n" + withPolicy("")
	m.kube.Apply(t, m.base)
	m.prove(t, telemetryFeatures(t, c))
	m.rejections(t)
}

func telemetryFeatures(t *testing.T, c *collector) []feature {
	call := func(m *mesh, path string, headers ...string) error {
		response, _, err := m.from(m.pods.client, reviewsIP+":80", "reviews", path, headers...)
		return orErr(err, expect(response != nil && response.StatusCode == http.StatusOK, "answered %v", response))
	}
	// logs checks that a call leaves a line with the words in a pod's file.
	logs := func(p func(*mesh) *nettest.Pod, file string, words ...string) func(*mesh) error {
		return func(m *mesh) error {
			before := p(m).Read(file)
			if err := call(m, "/logged"); err != nil {
				return err
			}
			return within(3*time.Second, func() error {
				text := strings.TrimPrefix(p(m).Read(file), before)
				for _, word := range words {
					if !strings.Contains(text, word) {
						return fmt.Errorf("%s has %q", file, text)
					}
				}
				return nil
			})
		}
	}
	silent := func(check func(*mesh) error) func(*mesh) error {
		return func(m *mesh) error { return expect(check(m) != nil, "it is logged") }
	}
	told := func(path string, words ...string) func(*mesh) error {
		return func(m *mesh) error {
			c.forget()
			for range 6 { // spans leave Envoy by fives, or after some seconds
				if err := call(m, path, "x-who", "jason"); err != nil {
					return err
				}
			}
			return within(3*time.Second, func() error {
				_, ok := c.with(words...)
				return expect(ok, "the collector has nothing of %v", words)
			})
		}
	}
	client := func(m *mesh) *nettest.Pod { return m.pods.client }
	v1 := func(m *mesh) *nettest.Pod { return m.pods.v1 }
	toV1 := "---\n" + forMesh("http: [{route: [{destination: {host: reviews, subset: v1}}]}]")
	const file, all = "/run/logs/file", "accessLogging: [{providers: [{name: file}]}]"
	object := func(spec string) string { return telemetryObject("default", spec) + toV1 }
	const oldLogs = "defaultConfig: {envoyAccessLogService: {address: collector.default.svc.cluster.local:4317}}}"
	const oldTracing = "defaultConfig: {tracing: {sampling: 100, zipkin: {address: collector.default.svc.cluster.local:9411}}}}"
	return []feature{
		{name: "MeshConfig accessLogFile in JSON", proves: "MeshConfig.accessLogFile MeshConfig.accessLogEncoding", with: observed("accessLogFile: /run/logs/mesh, accessLogEncoding: JSON, ") + toV1, without: observed("accessLogFile: /run/logs/mesh, ") + toV1,
			check: logs(client, "/run/logs/mesh", `"path":"/logged"`, `"response_code":200`)},
		{name: "MeshConfig accessLogFormat", proves: "MeshConfig.accessLogFormat", with: observed(`accessLogFile: /run/logs/mesh, accessLogFormat: "own %RESPONSE_CODE%\n", `) + toV1, without: observed("accessLogFile: /run/logs/mesh, ") + toV1, check: logs(client, "/run/logs/mesh", "own 200")},
		{name: "names of rules and matches", proves: "VirtualService.http.name VirtualService.http.match.name", with: observed(`accessLogFile: /run/logs/mesh, accessLogFormat: "by %ROUTE_NAME%\n", `) + "---\n" + forMesh("http: [{name: first, match: [{name: second, uri: {prefix: /}}], route: [{destination: {host: reviews, subset: v1}}]}]"),
			without: observed(`accessLogFile: /run/logs/mesh, accessLogFormat: "by %ROUTE_NAME%\n", `) + toV1, check: logs(client, "/run/logs/mesh", "by first.second")},
		{name: "Telemetry accessLogging", proves: "Telemetry.accessLogging.providers.name", with: object("{" + all + "}"), check: both(logs(client, file, `"code":200`, `"to":"outbound|80|v1|reviews`), logs(v1, file, `"to":"inbound|8080||"`))},
		{name: "Telemetry accessLogging of the whole mesh", proves: "Telemetry.accessLogging.providers.name", with: telemetryObject("istio-system", "{"+all+"}") + toV1, check: logs(client, file, `"code":200`)},
		{name: "Telemetry selector", proves: "Telemetry.selector.matchLabels", with: object("{selector: {matchLabels: {version: v1}}, " + all + "}"), without: object("{selector: {matchLabels: {version: v9}}, " + all + "}"), check: both(logs(v1, file, `"to":"inbound`), silent(logs(client, file, `"code"`)))},
		{name: "Telemetry accessLogging of those who are called", proves: "Telemetry.accessLogging.match.mode", with: object("{accessLogging: [{match: {mode: SERVER}, providers: [{name: file}]}]}"), without: object("{accessLogging: [{match: {mode: CLIENT}, providers: [{name: file}]}]}"),
			check: both(logs(v1, file, `"to":"inbound`), silent(logs(client, file, `"code"`)))},
		{name: "Telemetry accessLogging disabled", proves: "Telemetry.accessLogging.disabled", with: telemetryObject("istio-system", "{"+all+"}") + "---\n" + object("{accessLogging: [{disabled: true}]}"), without: telemetryObject("istio-system", "{"+all+"}") + "---\n" + object("{selector: {matchLabels: {app: nobody}}, accessLogging: [{disabled: true}]}"), check: silent(logs(client, file, `"code"`))},
		{name: "Telemetry accessLogging filter", proves: "Telemetry.accessLogging.filter.expression", with: object("{accessLogging: [{providers: [{name: file}], filter: {expression: 'response.code >= 400'}}]}"), without: object("{accessLogging: [{providers: [{name: file}], filter: {expression: 'response.code >= 200'}}]}"), check: silent(logs(client, file, `"code"`))},
		{name: "Telemetry accessLogging by OTLP", proves: "MeshConfig.extensionProviders", with: object("{accessLogging: [{providers: [{name: otel-logs}]}]}"), check: told("/otlp", "log called /otlp", "code=200")},
		{name: "Telemetry accessLogging by ALS", proves: "MeshConfig.extensionProviders", with: object("{accessLogging: [{providers: [{name: http-als}]}]}"), check: told("/als", "als mine /als 200 jason")},
		{name: "Telemetry accessLogging of connections by ALS", proves: "MeshConfig.extensionProviders", with: object("{accessLogging: [{providers: [{name: tcp-als}]}]}"), check: func(m *mesh) error {
			c.forget()
			_, err := m.tcpFrom(m.pods.client, reviewsIP+":9000", "")
			return orErr(err, within(8*time.Second, func() error {
				_, ok := c.with("als tcp_envoy_accesslog outbound|9000||reviews.default.svc.cluster.local")
				return expect(ok, "the collector has nothing of the connection")
			}))
		}},
		{name: "MeshConfig enableEnvoyAccessLogService", proves: "MeshConfig.enableEnvoyAccessLogService", with: meshConfig("{enableEnvoyAccessLogService: true, "+oldLogs) + toV1, without: meshConfig("{enableEnvoyAccessLogService: false, "+oldLogs) + toV1, check: told("/als", "als http_envoy_accesslog /als 200")},
		{name: "MeshConfig defaultProviders", proves: "MeshConfig.defaultProviders", with: observed("defaultProviders: {accessLogging: [otel-logs]}, ") + toV1, check: told("/default", "log called /default")},
		{name: "Telemetry tracing by OpenTelemetry", proves: "Telemetry.tracing.providers.name Telemetry.tracing.randomSamplingPercentage", with: object("{tracing: [{providers: [{name: otel}], randomSamplingPercentage: 100}]}"), without: object("{tracing: [{providers: [{name: otel}], randomSamplingPercentage: 0}]}"),
			check: both(told("/span", "span reviews.default.svc.cluster.local:80/*", "upstream_cluster=outbound|80|v1|", "service.name=client.default", "istio.canonical_service=client", "istio.namespace=default"), told("/span", "span", "upstream_cluster=inbound|8080||", "service.name=reviews.default"))},
		{name: "Telemetry tracing by Zipkin", proves: "Telemetry.tracing.providers.name", with: object("{tracing: [{providers: [{name: zipkin}], randomSamplingPercentage: 100}]}"), without: object("{tracing: [{providers: [{name: lost}], randomSamplingPercentage: 100}]}"), check: told("/zipkin", "zipkin reviews.default.svc.cluster.local:80/*", "client.default")},
		{name: "MeshConfig enableTracing", proves: "MeshConfig.enableTracing", with: meshConfig("{enableTracing: true, "+oldTracing) + toV1, without: meshConfig("{enableTracing: false, "+oldTracing) + toV1, check: told("/old", "zipkin reviews.default.svc.cluster.local")},
		{name: "Telemetry tracing of those who are called", proves: "Telemetry.tracing.match.mode", with: object("{tracing: [{match: {mode: SERVER}, providers: [{name: otel}], randomSamplingPercentage: 100}]}"), without: object("{tracing: [{match: {mode: CLIENT}, providers: [{name: otel}], randomSamplingPercentage: 100}]}"),
			check: told("/mode", "span", "upstream_cluster=inbound|8080||")},
		{name: "Telemetry tracing useRequestIdForTraceSampling", proves: "Telemetry.tracing.useRequestIdForTraceSampling", with: object("{tracing: [{providers: [{name: otel}], randomSamplingPercentage: 0, useRequestIdForTraceSampling: false}]}"), // Envoy leaves it to the tracer then, which takes all
			without: object("{tracing: [{providers: [{name: otel}], randomSamplingPercentage: 0, useRequestIdForTraceSampling: true}]}"), check: told("/asked", "span", "upstream_cluster=outbound|80|v1|")},
		{name: "Telemetry tracing disableContextPropagation", proves: "Telemetry.tracing.disableContextPropagation", with: object("{tracing: [{providers: [{name: otel}], randomSamplingPercentage: 100, disableContextPropagation: true}]}"), without: object("{tracing: [{providers: [{name: otel}], randomSamplingPercentage: 100}]}"),
			check: both(told("/alone", "span", "upstream_cluster=outbound|80|v1|"), func(m *mesh) error {
				_, got, err := m.from(m.pods.client, reviewsIP+":80", "reviews", "/alone")
				return orErr(err, expect(got.Headers.Get("traceparent") == "", "the application is told of the trace: %v", got.Headers))
			})},
		{name: "Telemetry tracing customTags", proves: "Telemetry.tracing.customTags", with: object("{tracing: [{providers: [{name: otel}], randomSamplingPercentage: 100, customTags: {colour: {literal: {value: blue}}, who: {header: {name: x-who}}, where: {environment: {name: POD_NAMESPACE}}, how: {formatter: {value: '%PROTOCOL%'}}}}]}"),
			without: object("{tracing: [{providers: [{name: otel}], randomSamplingPercentage: 100}]}"), check: told("/tags", "colour=blue", "who=jason", "where=default", "how=HTTP/1.1")},
		{name: "Telemetry tracing enableIstioTags", proves: "Telemetry.tracing.enableIstioTags", with: object("{tracing: [{providers: [{name: otel}], randomSamplingPercentage: 100, enableIstioTags: true}]}"), without: object("{tracing: [{providers: [{name: otel}], randomSamplingPercentage: 100, enableIstioTags: false}]}"), check: told("/own", "istio.canonical_revision=latest")},
		{name: "Telemetry tracing disableSpanReporting", proves: "Telemetry.tracing.disableSpanReporting", with: telemetryObject("istio-system", "{tracing: [{providers: [{name: otel}], randomSamplingPercentage: 100}]}") + "---\n" + object("{tracing: [{disableSpanReporting: true}]}"),
			without: telemetryObject("istio-system", "{tracing: [{providers: [{name: otel}], randomSamplingPercentage: 100}]}") + "---\n" + object("{selector: {matchLabels: {app: nobody}}, tracing: [{disableSpanReporting: true}]}"), check: silent(told("/quiet", "span"))},
		{name: "Telemetry metrics disabled", proves: "Telemetry.metrics.overrides.disabled Telemetry.metrics.overrides.match.metric Telemetry.metrics.overrides.match.mode", with: object("{metrics: [{overrides: [{match: {metric: REQUEST_COUNT, mode: CLIENT}, disabled: true}]}]}"), without: object("{metrics: [{overrides: [{match: {metric: REQUEST_COUNT, mode: SERVER}, disabled: true}]}]}"),
			check: func(m *mesh) error {
				before, err := m.counted(m.pods.client, "15020", "istio_requests_total", "destination_service_name", "reviews")
				if err == nil {
					err = call(m, "/")
				}
				if err != nil {
					return err
				}
				time.Sleep(300 * time.Millisecond)
				after, err := m.counted(m.pods.client, "15020", "istio_requests_total", "destination_service_name", "reviews")
				return orErr(err, expect(after == before, "requests are counted"))
			}},
		{name: "Telemetry metrics tagOverrides", proves: "Telemetry.metrics.overrides.tagOverrides", with: object(relabelled("CLIENT")), without: object(relabelled("SERVER")), check: func(m *mesh) error {
			labels := []string{"who", "jason", "meant_port", "80", "request_protocol", "spoken", "destination_service_name", "reviews"}
			before, err := m.counted(m.pods.client, "15020", "istio_requests_total", labels...)
			if err := errors.Join(err, call(m, "/", "x-who", "jason")); err != nil {
				return err
			}
			return within(3*time.Second, func() error {
				all, err := m.metricsOf(m.pods.client, "15020")
				for _, one := range all {
					if _, there := one.labels["source_version"]; there && one.labels["who"] == "jason" {
						return fmt.Errorf("the label is there still: %v", one)
					}
				}
				after, missed := m.counted(m.pods.client, "15020", "istio_requests_total", labels...)
				return errors.Join(err, missed, expect(after == before+1, "%v requests are counted, not one", after-before))
			})
		}},
	}
}

// relabelled sets labels of the requests that are counted, and takes one away.
func relabelled(mode string) string {
	return "{metrics: [{overrides: [{match: {metric: REQUEST_COUNT, mode: " + mode + `}, tagOverrides: {who: {value: "request.headers['x-who']"}, meant_port: {value: "'x-who' in request.headers ? string(destination.port) : ''"},
  request_protocol: {value: "'spoken'"}, source_version: {operation: REMOVE}}}]}]}`
}
