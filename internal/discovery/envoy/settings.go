package envoy

import (
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	router "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	proxyprotocol "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/proxy_protocol/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	preservecase "github.com/envoyproxy/go-control-plane/envoy/extensions/http/header_formatters/preserve_case/v3"
	meshapi "istio.io/api/mesh/v1alpha1"

	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
)

// What proxies' own ProxyConfig says: gatewayTopology, of what is before a gateway, and proxyHeaders, of what proxies add to requests.

var certificateDetails = map[meshapi.ForwardClientCertDetails]hcm.HttpConnectionManager_ForwardClientCertDetails{
	meshapi.ForwardClientCertDetails_SANITIZE: hcm.HttpConnectionManager_SANITIZE, meshapi.ForwardClientCertDetails_FORWARD_ONLY: hcm.HttpConnectionManager_FORWARD_ONLY,
	meshapi.ForwardClientCertDetails_APPEND_FORWARD: hcm.HttpConnectionManager_APPEND_FORWARD, meshapi.ForwardClientCertDetails_SANITIZE_SET: hcm.HttpConnectionManager_SANITIZE_SET,
	meshapi.ForwardClientCertDetails_ALWAYS_FORWARD_ONLY: hcm.HttpConnectionManager_ALWAYS_FORWARD_ONLY,
}

// withHeaders applies proxyHeaders to a connection manager that is otherwise done.
func withHeaders(m *hcm.HttpConnectionManager, settings *mesh.Settings) *hcm.HttpConnectionManager {
	headers := settings.GetHeaders()
	if headers == nil {
		return m
	}
	if details, ok := certificateDetails[headers.ForwardedClientCert]; ok {
		m.ForwardClientCertDetails = details
	}
	if own := headers.SetCurrentClientCertDetails; own != nil && m.SetCurrentClientCertDetails != nil {
		d := m.SetCurrentClientCertDetails
		if own.Subject != nil {
			d.Subject = own.Subject
		}
		d.Cert, d.Chain = own.Cert.GetValue() || own.Cert == nil && d.Cert, own.Chain.GetValue() || own.Chain == nil && d.Chain
		d.Dns, d.Uri = own.Dns.GetValue() || own.Dns == nil && d.Dns, own.Uri.GetValue() || own.Uri == nil && d.Uri
	}
	if headers.RequestId.GetDisabled().GetValue() {
		m.GenerateRequestId = boolean(false)
	}
	switch server := headers.Server; {
	case server.GetDisabled().GetValue():
		m.ServerHeaderTransformation = hcm.HttpConnectionManager_PASS_THROUGH
	case server.GetValue() != "":
		m.ServerName = server.GetValue()
	}
	if headers.EnvoyDebugHeaders.GetDisabled().GetValue() {
		m.HttpFilters[len(m.HttpFilters)-1] = httpFilter("envoy.filters.http.router", &router.Router{SuppressEnvoyHeaders: true})
	}
	m.AppendXForwardedPort = headers.XForwardedPort.GetEnabled().GetValue()
	if settings.KeepsCase() {
		m.HttpProtocolOptions = http1(settings)
	}
	return m
}

// http1 is how HTTP/1.1 is spoken. Names keep their case only where both the listener and the cluster keep it: one reads those of the
// request and writes those of the answer, the other the reverse.
func http1(settings *mesh.Settings) *core.Http1ProtocolOptions {
	out := &core.Http1ProtocolOptions{}
	if settings.KeepsCase() {
		out.HeaderKeyFormat = &core.Http1ProtocolOptions_HeaderKeyFormat{HeaderFormat: &core.Http1ProtocolOptions_HeaderKeyFormat_StatefulFormatter{
			StatefulFormatter: &core.TypedExtensionConfig{Name: "preserve_case", TypedConfig: pack(&preservecase.PreserveCaseFormatterConfig{})}}}
	}
	return out
}

// behind applies gatewayTopology to a gateway's connection manager: how many proxies before it are believed, and what of clients'
// certificates.
func behind(m *hcm.HttpConnectionManager, settings *mesh.Settings) *hcm.HttpConnectionManager {
	topology := settings.GetTopology()
	m.XffNumTrustedHops = topology.GetNumTrustedProxies()
	if details, ok := certificateDetails[topology.GetForwardClientCertDetails()]; ok {
		m.ForwardClientCertDetails = details
	}
	return m
}

// throughBalancer makes a gateway's listener read who calls from what a load balancer before it tells by HAProxy's PROXY protocol.
func throughBalancer(l *listener.Listener, settings *mesh.Settings) *listener.Listener {
	if settings.GetTopology().GetProxyProtocol() != nil {
		first := &listener.ListenerFilter{Name: "envoy.filters.listener.proxy_protocol", ConfigType: &listener.ListenerFilter_TypedConfig{TypedConfig: pack(&proxyprotocol.ProxyProtocol{})}}
		l.ListenerFilters = append([]*listener.ListenerFilter{first}, l.ListenerFilters...)
	}
	return l
}
