package envoy

import (
	"maps"
	"slices"

	accesslog "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	fileaccess "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	cel "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/filters/cel/v3"
	grpcaccess "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/grpc/v3"
	otelaccess "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/open_telemetry/v3"
	otel "go.opentelemetry.io/proto/otlp/common/v1"
	"google.golang.org/protobuf/proto"
	meshapi "istio.io/api/mesh/v1alpha1"

	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
)

// defaultFormat is Istio's access log line.
// https://istio.io/latest/docs/tasks/observability/logs/access-log/
const defaultFormat = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% %RESPONSE_FLAGS% " +
	"%RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% " +
	"%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" " +
	"\"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% " +
	"%REQUESTED_SERVER_NAME% %ROUTE_NAME%\n"

// logs are those that the mesh's telemetry asks for at this end. filter keeps some out; nil keeps none.
func (s side) logs(tcp bool, filter *accesslog.AccessLogFilter) []*accesslog.AccessLog {
	var out []*accesslog.AccessLog
	for _, log := range s.watch().Logs {
		if name, config := logger(log.Provider, tcp); config != nil {
			out = append(out, &accesslog.AccessLog{Name: name, Filter: bothFilters(filter, expression(log.Filter)), ConfigType: &accesslog.AccessLog_TypedConfig{TypedConfig: pack(config)}})
		}
	}
	return out
}

// logger is how a provider is told; nil where it does not take what there is.
func logger(p *meshapi.MeshConfig_ExtensionProvider, tcp bool) (name string, config proto.Message) {
	switch v := p.Provider.(type) {
	case *meshapi.MeshConfig_ExtensionProvider_EnvoyFileAccessLog:
		return "envoy.access_loggers.file", fileLog(v.EnvoyFileAccessLog)
	case *meshapi.MeshConfig_ExtensionProvider_EnvoyOtelAls:
		return "envoy.access_loggers.open_telemetry", otelLog(v.EnvoyOtelAls)
	case *meshapi.MeshConfig_ExtensionProvider_EnvoyHttpAls:
		if a := v.EnvoyHttpAls; !tcp {
			return "envoy.access_loggers.http_grpc", &grpcaccess.HttpGrpcAccessLogConfig{CommonConfig: commonLog(a.LogName, "http_envoy_accesslog", a.Service, a.Port, a.FilterStateObjectsToLog),
				AdditionalRequestHeadersToLog: a.AdditionalRequestHeadersToLog, AdditionalResponseHeadersToLog: a.AdditionalResponseHeadersToLog, AdditionalResponseTrailersToLog: a.AdditionalResponseTrailersToLog}
		}
	case *meshapi.MeshConfig_ExtensionProvider_EnvoyTcpAls:
		if a := v.EnvoyTcpAls; tcp {
			return "envoy.access_loggers.tcp_grpc", &grpcaccess.TcpGrpcAccessLogConfig{CommonConfig: commonLog(a.LogName, "tcp_envoy_accesslog", a.Service, a.Port, a.FilterStateObjectsToLog)}
		}
	}
	return "", nil
}

func fileLog(p *meshapi.MeshConfig_ExtensionProvider_EnvoyFileAccessLogProvider) *fileaccess.FileAccessLog {
	out := &fileaccess.FileAccessLog{Path: p.Path}
	if labels := p.GetLogFormat().GetLabels(); labels != nil {
		out.AccessLogFormat = &fileaccess.FileAccessLog_LogFormat{LogFormat: &core.SubstitutionFormatString{OmitEmptyValues: p.GetOmitEmptyValues(), Format: &core.SubstitutionFormatString_JsonFormat{JsonFormat: labels}}}
		return out
	}
	text := p.GetLogFormat().GetText()
	if text == "" {
		text = defaultFormat
	}
	format := textFormat(text)
	format.OmitEmptyValues = p.GetOmitEmptyValues()
	out.AccessLogFormat = &fileaccess.FileAccessLog_LogFormat{LogFormat: format}
	return out
}

func otelLog(p *meshapi.MeshConfig_ExtensionProvider_EnvoyOpenTelemetryLogProvider) *otelaccess.OpenTelemetryAccessLogConfig {
	text := p.GetLogFormat().GetText()
	if text == "" {
		text = defaultFormat
	}
	out := &otelaccess.OpenTelemetryAccessLogConfig{CommonConfig: commonLog(p.LogName, "otel_envoy_accesslog", p.Service, p.Port, nil), Body: textValueOf(text), DisableBuiltinLabels: false}
	if labels := p.GetLogFormat().GetLabels(); labels != nil {
		out.Attributes = &otel.KeyValueList{}
		for _, name := range slices.Sorted(maps.Keys(labels.Fields)) {
			out.Attributes.Values = append(out.Attributes.Values, &otel.KeyValue{Key: name, Value: textValueOf(labels.Fields[name].GetStringValue())})
		}
	}
	return out
}

func textValueOf(text string) *otel.AnyValue {
	return &otel.AnyValue{Value: &otel.AnyValue_StringValue{StringValue: text}}
}

func commonLog(name, otherwise, service string, port uint32, state []string) *grpcaccess.CommonGrpcAccessLogConfig {
	if name == "" {
		name = otherwise
	}
	return &grpcaccess.CommonGrpcAccessLogConfig{LogName: name, GrpcService: grpcTo(service, port), TransportApiVersion: core.ApiVersion_V3, FilterStateObjectsToLog: state}
}

// grpcTo is a provider's service as Envoy calls it.
func grpcTo(service string, port uint32) *core.GrpcService {
	return &core.GrpcService{TargetSpecifier: &core.GrpcService_EnvoyGrpc_{EnvoyGrpc: &core.GrpcService_EnvoyGrpc{ClusterName: providerCluster(service, port), Authority: mesh.ProviderHost(service)}}}
}

// expression keeps what a CEL expression is true for.
func expression(text string) *accesslog.AccessLogFilter {
	if text == "" {
		return nil
	}
	return &accesslog.AccessLogFilter{FilterSpecifier: &accesslog.AccessLogFilter_ExtensionFilter{ExtensionFilter: &accesslog.ExtensionFilter{Name: "envoy.access_loggers.extension_filters.cel",
		ConfigType: &accesslog.ExtensionFilter_TypedConfig{TypedConfig: pack(&cel.ExpressionFilter{Expression: text})}}}}
}

func bothFilters(a, b *accesslog.AccessLogFilter) *accesslog.AccessLogFilter {
	if a == nil {
		return b
	}
	if b == nil {
		return a
	}
	return &accesslog.AccessLogFilter{FilterSpecifier: &accesslog.AccessLogFilter_AndFilter{AndFilter: &accesslog.AndFilter{Filters: []*accesslog.AccessLogFilter{a, b}}}}
}

// watch is what is told of calls at this end.
func (s side) watch() mesh.Watch { return s.config.Watches[index(s.inbound)] }
