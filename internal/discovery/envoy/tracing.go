package envoy

import (
	"maps"
	"slices"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tracers "github.com/envoyproxy/go-control-plane/envoy/config/trace/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	requestid "github.com/envoyproxy/go-control-plane/envoy/extensions/request_id/uuid/v3"
	detectors "github.com/envoyproxy/go-control-plane/envoy/extensions/tracers/opentelemetry/resource_detectors/v3"
	tracing "github.com/envoyproxy/go-control-plane/envoy/type/tracing/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	meshapi "istio.io/api/mesh/v1alpha1"
	telemetry "istio.io/api/telemetry/v1alpha1"

	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
)

// traced makes a manager report spans. What they tell of the workload itself comes from the proxy's environment, where the agent puts it,
// so that all workloads share one listener.
func traced(m *hcm.HttpConnectionManager, trace *mesh.Trace) {
	if trace == nil {
		return
	}
	name, config := tracer(trace.Provider)
	m.Tracing = &hcm.HttpConnectionManager_Tracing{
		Provider:       &tracers.Tracing_Http{Name: name, ConfigType: &tracers.Tracing_Http_TypedConfig{TypedConfig: pack(config)}},
		RandomSampling: &typev3.Percent{Value: trace.Percent}, OverallSampling: &typev3.Percent{Value: 100}, ClientSampling: &typev3.Percent{Value: 100},
		CustomTags: customTags(trace), NoContextPropagation: trace.Alone,
	}
	if length := max(trace.MaxTagLength, ownTagLength(trace.Provider)); length > 0 {
		m.Tracing.MaxPathTagLength = u32(length)
	}
	m.RequestIdExtension = &hcm.RequestIDExtension{TypedConfig: pack(&requestid.UuidRequestIdConfig{UseRequestIdForTraceSampling: boolean(trace.ByRequestID)})}
}

// tracer is how a provider is told; mesh.TraceService says which there are.
func tracer(p *meshapi.MeshConfig_ExtensionProvider) (name string, config proto.Message) {
	if zipkin := p.GetZipkin(); zipkin != nil {
		path := zipkin.Path
		if path == "" {
			path = "/api/v2/spans"
		}
		return "envoy.tracers.zipkin", &tracers.ZipkinConfig{CollectorCluster: providerCluster(zipkin.Service, zipkin.Port), CollectorEndpoint: path, CollectorEndpointVersion: tracers.ZipkinConfig_HTTP_JSON,
			CollectorHostname: mesh.ProviderHost(zipkin.Service), TraceId_128Bit: true, SharedSpanContext: boolean(false),
			TraceContextOption: tracers.ZipkinConfig_TraceContextOption(zipkin.TraceContextOption)}
	}
	otel := p.GetOpentelemetry()
	out := &tracers.OpenTelemetryConfig{ResourceDetectors: []*core.TypedExtensionConfig{{Name: "envoy.tracers.opentelemetry.resource_detectors.environment", TypedConfig: pack(&detectors.EnvironmentResourceDetectorConfig{})}}}
	if http := otel.GetHttp(); http != nil {
		out.HttpService = otlpOverHTTP(otel, http)
	} else {
		out.GrpcService = grpcTo(otel.GetService(), otel.GetPort())
	}
	return "envoy.tracers.opentelemetry", out
}

func otlpOverHTTP(at *meshapi.MeshConfig_ExtensionProvider_OpenTelemetryTracingProvider, http *meshapi.MeshConfig_ExtensionProvider_HttpService) *core.HttpService {
	out := &core.HttpService{HttpUri: &core.HttpUri{Uri: "http://" + mesh.ProviderHost(at.Service) + ":" + itoa(at.Port) + http.Path,
		HttpUpstreamType: &core.HttpUri_Cluster{Cluster: providerCluster(at.Service, at.Port)}, Timeout: either(http.Timeout, millis(otlpTimeoutMillis))}}
	for _, header := range http.Headers {
		out.RequestHeadersToAdd = append(out.RequestHeadersToAdd, &core.HeaderValueOption{Header: &core.HeaderValue{Key: header.Name, Value: header.GetValue()}})
	}
	return out
}

// otlpTimeoutMillis is how long a collector is waited for.
const otlpTimeoutMillis = 5000

func ownTagLength(p *meshapi.MeshConfig_ExtensionProvider) uint32 {
	if zipkin := p.GetZipkin(); zipkin != nil {
		return zipkin.MaxTagLength
	}
	return p.GetOpentelemetry().GetMaxTagLength()
}

// ownTags are what Istio tells of the workload, by the variables that the agent gives to Envoy.
var ownTags = map[string]string{"istio.canonical_service": "CANONICAL_SERVICE", "istio.canonical_revision": "CANONICAL_REVISION", "istio.namespace": "POD_NAMESPACE", "istio.mesh_id": "MESH_ID", "istio.cluster_id": "CLUSTER_ID"}

func customTags(trace *mesh.Trace) []*tracing.CustomTag {
	byName := map[string]*tracing.CustomTag{}
	if trace.IstioTags {
		for name, variable := range ownTags {
			byName[name] = environmentTag(name, variable, "unknown")
		}
	}
	for name, tag := range trace.Tags {
		if made := customTag(name, tag); made != nil {
			byName[name] = made
		}
	}
	var out []*tracing.CustomTag
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		out = append(out, byName[name])
	}
	return out
}

func environmentTag(name, variable, otherwise string) *tracing.CustomTag {
	return &tracing.CustomTag{Tag: name, Type: &tracing.CustomTag_Environment_{Environment: &tracing.CustomTag_Environment{Name: variable, DefaultValue: otherwise}}}
}

// customTag is nil for one that says nothing.
func customTag(name string, tag *telemetry.Tracing_CustomTag) *tracing.CustomTag {
	out := &tracing.CustomTag{Tag: name}
	switch v := tag.GetType().(type) {
	case *telemetry.Tracing_CustomTag_Literal:
		out.Type = &tracing.CustomTag_Literal_{Literal: &tracing.CustomTag_Literal{Value: v.Literal.GetValue()}}
	case *telemetry.Tracing_CustomTag_Environment:
		return environmentTag(name, v.Environment.GetName(), v.Environment.GetDefaultValue())
	case *telemetry.Tracing_CustomTag_Header:
		out.Type = &tracing.CustomTag_RequestHeader{RequestHeader: &tracing.CustomTag_Header{Name: v.Header.GetName(), DefaultValue: v.Header.GetDefaultValue()}}
	case *telemetry.Tracing_CustomTag_Formatter:
		out.Type = &tracing.CustomTag_Value{Value: v.Formatter.GetValue()}
	default:
		return nil
	}
	return out
}
