package resolve

import (
	"fmt"
	"maps"
	"net"
	"reflect"
	"slices"
	"strconv"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	meshapi "istio.io/api/mesh/v1alpha1"
	api "istio.io/api/telemetry/v1alpha1"
	telemetry "istio.io/client-go/pkg/apis/telemetry/v1"

	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
	"github.com/slipway-mesh/slipway/internal/discovery/world"
)

func (s *step) telemetry(namespace, name string, object *telemetry.Telemetry) {
	r := &report{kind: "Telemetry", namespace: namespace, name: name}
	defer s.keepProblems(r)
	key := world.Key(namespace, name)
	if object == nil {
		s.World.Telemetries, _, _ = s.World.Telemetries.Delete(key)
	} else {
		s.World.Telemetries, _, _ = s.World.Telemetries.Insert(key, s.convertTelemetry(object, r))
	}
	s.dirty.Tests = true
	s.dirty.Workloads(namespace)
	s.rewatch = s.rewatch || namespace == s.World.Config.RootNamespace
}

func (s *step) convertTelemetry(object *telemetry.Telemetry, r *report) *mesh.Telemetry {
	out := &mesh.Telemetry{Owner: mesh.Owner{Kind: r.kind, Namespace: object.Namespace, Name: object.Name}, Selector: object.Spec.GetSelector().GetMatchLabels(),
		Created: object.CreationTimestamp.Unix(), Spec: &object.Spec, Form: form(&object.Spec)}
	if object.Spec.TargetRef != nil || len(object.Spec.TargetRefs) > 0 {
		r.warn("spec.targetRefs", ReasonUnsupported, "is not supported, and the object has no effect; use a selector")
		out.Spec = &api.Telemetry{}
	}
	for i, log := range object.Spec.AccessLogging {
		at := fmt.Sprintf("spec.accessLogging[%d]", i)
		if why := checkExpression(log.GetFilter().GetExpression()); why != "" {
			r.refuse(at+".filter.expression", "%s", why)
			out.Spec = withoutLogs(out.Spec)
		}
	}
	for i, trace := range object.Spec.Tracing {
		at := fmt.Sprintf("spec.tracing[%d]", i)
		if len(trace.Providers) > 1 {
			r.warn(at+".providers", ReasonUnsupported, "calls are traced to one provider; the first counts")
		}
		if by := trace.UseRequestIdForTraceSampling; by != nil && !by.Value && trace.RandomSamplingPercentage != nil {
			r.warn(at+".randomSamplingPercentage", ReasonUnsupported, "Envoy traces all calls where useRequestIdForTraceSampling is false; leave that away")
		}
	}
	if len(out.Spec.Metrics) > 0 {
		out.Spec = withLabels(out.Spec, r)
	}
	return out
}

// withLabels is a Telemetry without the labels that cannot be.
func withLabels(spec *api.Telemetry, r *report) *api.Telemetry {
	out := proto.CloneOf(spec)
	for i, metrics := range out.Metrics {
		if metrics.ReportingInterval != nil {
			r.warn(fmt.Sprintf("spec.metrics[%d].reportingInterval", i), ReasonUnsupported, "the bytes of a connection are counted when it ends")
		}
		for k, override := range metrics.Overrides {
			at := fmt.Sprintf("spec.metrics[%d].overrides[%d]", i, k)
			if override.GetMatch().GetCustomMetric() != "" {
				r.warn(at+".match.customMetric", ReasonUnsupported, "the proxies count Istio's own metrics only")
			}
			for _, name := range slices.Sorted(maps.Keys(override.TagOverrides)) {
				tag, why := override.TagOverrides[name], ""
				if tag.Operation == api.MetricsOverrides_TagOverride_REMOVE {
					why = labelFault(name)
				} else {
					tag.Value, why = labelExpression(name, tag.Value)
				}
				if why != "" {
					r.refuse(fmt.Sprintf("%s.tagOverrides[%s]", at, name), "%s", why)
					delete(override.TagOverrides, name)
				}
			}
		}
	}
	return out
}

// withoutLogs is a Telemetry that says nothing of logs.
func withoutLogs(spec *api.Telemetry) *api.Telemetry {
	return &api.Telemetry{Selector: spec.Selector, Tracing: spec.Tracing, Metrics: spec.Metrics}
}

// builtIn are the providers that every mesh has.
func builtIn(api *meshapi.MeshConfig) map[string]*meshapi.MeshConfig_ExtensionProvider {
	return map[string]*meshapi.MeshConfig_ExtensionProvider{
		"envoy": fileProvider("envoy", "/dev/stdout", api), "prometheus": {Name: "prometheus", Provider: &meshapi.MeshConfig_ExtensionProvider_Prometheus{}},
	}
}

// fileProvider writes a file as MeshConfig says.
func fileProvider(name, path string, api *meshapi.MeshConfig) *meshapi.MeshConfig_ExtensionProvider {
	file := &meshapi.MeshConfig_ExtensionProvider_EnvoyFileAccessLogProvider{Path: path}
	if api.AccessLogEncoding == meshapi.MeshConfig_JSON {
		file.LogFormat = &meshapi.MeshConfig_ExtensionProvider_EnvoyFileAccessLogProvider_LogFormat{LogFormat: &meshapi.MeshConfig_ExtensionProvider_EnvoyFileAccessLogProvider_LogFormat_Labels{Labels: labelsFormat(api.AccessLogFormat)}}
	} else if api.AccessLogFormat != "" {
		file.LogFormat = &meshapi.MeshConfig_ExtensionProvider_EnvoyFileAccessLogProvider_LogFormat{LogFormat: &meshapi.MeshConfig_ExtensionProvider_EnvoyFileAccessLogProvider_LogFormat_Text{Text: api.AccessLogFormat}}
	}
	return &meshapi.MeshConfig_ExtensionProvider{Name: name, Provider: &meshapi.MeshConfig_ExtensionProvider_EnvoyFileAccessLog{EnvoyFileAccessLog: file}}
}

// labelsFormat reads a JSON access log's format; without one it is Istio's.
func labelsFormat(text string) *structpb.Struct {
	out := &structpb.Struct{}
	if text == "" || protojson.Unmarshal([]byte(text), out) != nil {
		out = jsonFormat()
	}
	return out
}

// jsonFormat is Istio's access log in JSON.
// https://istio.io/latest/docs/tasks/observability/logs/access-log/
func jsonFormat() *structpb.Struct {
	out := &structpb.Struct{Fields: map[string]*structpb.Value{}}
	for name, value := range map[string]string{
		"start_time": "%START_TIME%", "method": "%REQ(:METHOD)%", "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%", "protocol": "%PROTOCOL%", "response_code": "%RESPONSE_CODE%",
		"response_flags": "%RESPONSE_FLAGS%", "response_code_details": "%RESPONSE_CODE_DETAILS%", "connection_termination_details": "%CONNECTION_TERMINATION_DETAILS%",
		"upstream_transport_failure_reason": "%UPSTREAM_TRANSPORT_FAILURE_REASON%", "bytes_received": "%BYTES_RECEIVED%", "bytes_sent": "%BYTES_SENT%", "duration": "%DURATION%",
		"upstream_service_time": "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%", "x_forwarded_for": "%REQ(X-FORWARDED-FOR)%", "user_agent": "%REQ(USER-AGENT)%", "request_id": "%REQ(X-REQUEST-ID)%",
		"authority": "%REQ(:AUTHORITY)%", "upstream_host": "%UPSTREAM_HOST%", "upstream_cluster": "%UPSTREAM_CLUSTER_RAW%", "upstream_local_address": "%UPSTREAM_LOCAL_ADDRESS%",
		"downstream_local_address": "%DOWNSTREAM_LOCAL_ADDRESS%", "downstream_remote_address": "%DOWNSTREAM_REMOTE_ADDRESS%", "requested_server_name": "%REQUESTED_SERVER_NAME%", "route_name": "%ROUTE_NAME%",
	} {
		out.Fields[name] = structpb.NewStringValue(value)
	}
	return out
}

// hostPort reads HOST:PORT.
func hostPort(text string) (host string, port uint32, ok bool) {
	host, number, err := net.SplitHostPort(text)
	if err != nil {
		return "", 0, false
	}
	n, err := strconv.ParseUint(number, 10, 16)
	return host, uint32(n), err == nil && host != ""
}

// observers reads what MeshConfig says of telemetry.
func observers(api *meshapi.MeshConfig) (out mesh.Observers) {
	out.Providers = builtIn(api)
	for _, p := range api.ExtensionProviders {
		out.Providers[p.Name] = p
	}
	out.Logs, out.Tracing = api.GetDefaultProviders().GetAccessLogging(), api.GetDefaultProviders().GetTracing()
	tracing := api.GetDefaultConfig().GetTracing()
	out.Trace = mesh.Trace{Percent: 1, IstioTags: tracing.GetEnableIstioTags() == nil || tracing.EnableIstioTags.Value, MaxTagLength: tracing.GetMaxPathTagLength(), ByRequestID: true, Tags: map[string]*telemetryTag{}}
	if tracing.GetSampling() > 0 {
		out.Trace.Percent = tracing.Sampling
	}
	for name, tag := range tracing.GetCustomTags() {
		out.Trace.Tags[name] = customTag(tag)
	}
	if service, port, ok := hostPort(tracing.GetZipkin().GetAddress()); ok && api.EnableTracing {
		out.Trace.Provider = &meshapi.MeshConfig_ExtensionProvider{Name: "zipkin", Provider: &meshapi.MeshConfig_ExtensionProvider_Zipkin{Zipkin: &meshapi.MeshConfig_ExtensionProvider_ZipkinTracingProvider{Service: service, Port: port}}}
	}
	for _, p := range otherLogs(api) {
		out.Providers[p.Name] = p
		out.OtherLogs = append(out.OtherLogs, p.Name)
	}
	return out
}

// otherLogs are where calls are logged where neither a Telemetry nor defaultProviders says: by settings that are older than both. Their
// names are none that a document could have.
func otherLogs(api *meshapi.MeshConfig) []*meshapi.MeshConfig_ExtensionProvider {
	var out []*meshapi.MeshConfig_ExtensionProvider
	if api.AccessLogFile != "" {
		out = append(out, fileProvider("/accessLogFile", api.AccessLogFile, api))
	}
	if service, port, ok := hostPort(api.GetDefaultConfig().GetEnvoyAccessLogService().GetAddress()); ok && api.EnableEnvoyAccessLogService {
		out = append(out,
			&meshapi.MeshConfig_ExtensionProvider{Name: "/als/http", Provider: &meshapi.MeshConfig_ExtensionProvider_EnvoyHttpAls{EnvoyHttpAls: &meshapi.MeshConfig_ExtensionProvider_EnvoyHttpGrpcV3LogProvider{Service: service, Port: port}}},
			&meshapi.MeshConfig_ExtensionProvider{Name: "/als/tcp", Provider: &meshapi.MeshConfig_ExtensionProvider_EnvoyTcpAls{EnvoyTcpAls: &meshapi.MeshConfig_ExtensionProvider_EnvoyTcpGrpcV3LogProvider{Service: service, Port: port}}})
	}
	return out
}

type telemetryTag = api.Tracing_CustomTag

// customTag reads a tag as ProxyConfig writes it.
func customTag(tag *meshapi.Tracing_CustomTag) *telemetryTag {
	switch v := tag.Type.(type) {
	case *meshapi.Tracing_CustomTag_Literal:
		return &telemetryTag{Type: &api.Tracing_CustomTag_Literal{Literal: &api.Tracing_Literal{Value: v.Literal.GetValue()}}}
	case *meshapi.Tracing_CustomTag_Environment:
		return &telemetryTag{Type: &api.Tracing_CustomTag_Environment{Environment: &api.Tracing_Environment{Name: v.Environment.GetName(), DefaultValue: v.Environment.GetDefaultValue()}}}
	case *meshapi.Tracing_CustomTag_Header:
		return &telemetryTag{Type: &api.Tracing_CustomTag_Header{Header: &api.Tracing_RequestHeader{Name: v.Header.GetName(), DefaultValue: v.Header.GetDefaultValue()}}}
	}
	return &telemetryTag{}
}

// watch computes what is told of all calls: as MeshConfig says, and over it the root namespace's Telemetry.
func (s *step) watch() {
	watches := s.base.Observers
	watches.Known = s.World.HasService
	now := watches.Default()
	if root := s.World.Telemetry(s.base.RootNamespace); root != nil {
		now = now.With(root, watches)
	}
	if s.watched == s.base && reflect.DeepEqual(now, s.World.Config.Watches) {
		return
	}
	next := *s.base
	next.Watches = now
	s.watched, s.World.Config = s.base, &next
	s.dirty.All = true
}

// watchesHost says whether a host that changed is that of a provider.
func (s *step) watchesHost() bool {
	for _, p := range s.base.Observers.Providers {
		if mesh.Reports(p, s.dirty.Hosts) {
			return true
		}
	}
	return mesh.Reports(s.base.Observers.Trace.Provider, s.dirty.Hosts)
}
