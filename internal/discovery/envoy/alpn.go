package envoy

import (
	"strings"

	xdstype "github.com/cncf/xds/go/xds/type/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	commonstate "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/set_filter_state/v3"
	setfilterstate "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/set_filter_state/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
)

// tellMesh makes a request's upstream TLS say that HTTP is inside. The cluster cannot: it serves TCP as well. istio-proxy
// has a filter for it; stock Envoy has not, and is told by the filter state that the other's filter sets.
func tellMesh(flavour mesh.Flavour) *hcm.HttpFilter {
	if flavour == mesh.IstioProxy {
		return istioALPN()
	}
	return httpFilter("envoy.filters.http.set_filter_state", &setfilterstate.Config{OnRequestHeaders: []*commonstate.FilterStateValue{{
		Key:                &commonstate.FilterStateValue_ObjectKey{ObjectKey: "envoy.network.application_protocols"},
		Value:              &commonstate.FilterStateValue_FormatString{FormatString: textFormat(strings.Join(alpnHTTP, ","))},
		SharedWithUpstream: commonstate.FilterStateValue_ONCE,
	}}})
}

// istioALPN is istio-proxy's filter. Its configuration is given by name, since its Go types are not in istio.io/api.
func istioALPN() *hcm.HttpFilter {
	var overrides []*structpb.Value
	for _, o := range []struct{ upstream, own, plain string }{{"HTTP10", "istio-http/1.0", "http/1.0"}, {"HTTP11", "istio-http/1.1", "http/1.1"}, {"HTTP2", "istio-h2", "h2"}} {
		names := &structpb.ListValue{Values: []*structpb.Value{structpb.NewStringValue(o.own), structpb.NewStringValue("istio"), structpb.NewStringValue(o.plain)}}
		overrides = append(overrides, structpb.NewStructValue(&structpb.Struct{Fields: map[string]*structpb.Value{
			"upstream_protocol": structpb.NewStringValue(o.upstream), "alpn_override": structpb.NewListValue(names)}}))
	}
	return httpFilter("istio.alpn", &xdstype.TypedStruct{
		TypeUrl: "type.googleapis.com/istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig",
		Value:   &structpb.Struct{Fields: map[string]*structpb.Value{"alpn_override": structpb.NewListValue(&structpb.ListValue{Values: overrides})}},
	})
}

// beforeRouter puts a filter where it sees each request last.
func beforeRouter(m *hcm.HttpConnectionManager, filter *hcm.HttpFilter) {
	last := len(m.HttpFilters) - 1
	m.HttpFilters = append(m.HttpFilters[:last:last], filter, m.HttpFilters[last])
}

func textFormat(text string) *core.SubstitutionFormatString {
	return &core.SubstitutionFormatString{Format: &core.SubstitutionFormatString_TextFormatSource{
		TextFormatSource: &core.DataSource{Specifier: &core.DataSource_InlineString{InlineString: text}},
	}}
}
