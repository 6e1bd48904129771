package envoy

import (
	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rawbuffer "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/raw_buffer/v3"
	tls "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	networking "istio.io/api/networking/v1alpha3"

	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
)

// The ALPN names by which the mesh's proxies tell each other what is inside their TLS. istio-proxy's clients send them as
// well. https://istio.io/latest/docs/reference/config/networking/
var (
	alpnHTTP = []string{"istio-http/1.1", "istio-http/1.0", "istio-h2", "istio"}
	alpnTCP  = []string{"istio-peer-exchange", "istio"}
	// alpnHTTPOnly and alpnAll are what an inbound chain matches.
	alpnHTTPOnly = []string{"istio-http/1.0", "istio-http/1.1", "istio-h2"}
	alpnAll      = []string{"istio-http/1.0", "istio-http/1.1", "istio-h2", "istio-peer-exchange", "istio"}
)

const (
	tlsSocket = "envoy.transport_sockets.tls"
	rawSocket = "envoy.transport_sockets.raw_buffer"
	// matchNamespace is where Envoy looks for an endpoint's transport socket match.
	matchNamespace = "envoy.transport_socket_match"
)

// secure gives the cluster its transport: what the DestinationRule says; otherwise, for services of the mesh, mutual TLS
// to the endpoints that take it and plain text to the others.
func secure(c *cluster.Cluster, config *mesh.Config, o *mesh.Outbound, port mesh.Port, subset mesh.Subset, settings *networking.ClientTLSSettings) {
	switch {
	case settings != nil:
		if context := ruleContext(config, o, port, subset, settings); context != nil {
			c.TransportSocket = tlsTransport(context)
		}
	case o.MTLS && c.GetType() != cluster.Cluster_ORIGINAL_DST:
		c.TransportSocketMatches = []*cluster.Cluster_TransportSocketMatch{
			{Name: "tlsMode-istio", Match: tlsModeMatch(), TransportSocket: tlsTransport(meshContext(config, o, port, subset))},
			{Name: "tlsMode-disabled", Match: &structpb.Struct{}, TransportSocket: &core.TransportSocket{Name: rawSocket,
				ConfigType: &core.TransportSocket_TypedConfig{TypedConfig: pack(&rawbuffer.RawBuffer{})}}},
		}
	}
}

func tlsModeMatch() *structpb.Struct {
	return &structpb.Struct{Fields: map[string]*structpb.Value{"tlsMode": structpb.NewStringValue("istio")}}
}

func tlsTransport(context *tls.UpstreamTlsContext) *core.TransportSocket {
	return &core.TransportSocket{Name: tlsSocket, ConfigType: &core.TransportSocket_TypedConfig{TypedConfig: pack(context)}}
}

// meshContext is mutual TLS with the workload's certificate, to exactly the identities that the service's endpoints have.
func meshContext(config *mesh.Config, o *mesh.Outbound, port mesh.Port, subset mesh.Subset) *tls.UpstreamTlsContext {
	validation := &tls.CertificateValidationContext{}
	for _, account := range o.Service.Accounts {
		validation.MatchTypedSubjectAltNames = append(validation.MatchTypedSubjectAltNames,
			&tls.SubjectAltNameMatcher{SanType: tls.SubjectAltNameMatcher_URI, Matcher: exact(account)})
	}
	if len(o.Service.Accounts) == 0 { // nobody known yet: anybody of the mesh
		validation.MatchTypedSubjectAltNames = trustDomainSANs(config)
	}
	alpn := alpnTCP
	if port.Protocol.IsHTTP() {
		alpn = alpnHTTP
	}
	return &tls.UpstreamTlsContext{
		CommonTlsContext: &tls.CommonTlsContext{
			AlpnProtocols:                  alpn,
			TlsCertificateSdsSecretConfigs: []*tls.SdsSecretConfig{agentSecret("default")},
			ValidationContextType: &tls.CommonTlsContext_CombinedValidationContext{CombinedValidationContext: &tls.CommonTlsContext_CombinedCertificateValidationContext{
				DefaultValidationContext: validation, ValidationContextSdsSecretConfig: agentSecret("ROOTCA"),
			}},
		},
		Sni: mesh.SNI(o.Host, subset.Name, port.Number),
	}
}

func trustDomainSANs(config *mesh.Config) []*tls.SubjectAltNameMatcher {
	var out []*tls.SubjectAltNameMatcher
	for _, domain := range append([]string{config.TrustDomain}, config.TrustAliases...) {
		out = append(out, &tls.SubjectAltNameMatcher{SanType: tls.SubjectAltNameMatcher_URI, Matcher: prefix("spiffe://" + domain + "/")})
	}
	return out
}

// agentSecret is a secret that the agent beside the proxy serves. Envoy waits for it for ever: without it nothing works.
func agentSecret(name string) *tls.SdsSecretConfig {
	return &tls.SdsSecretConfig{Name: name, SdsConfig: &core.ConfigSource{
		ConfigSourceSpecifier: &core.ConfigSource_ApiConfigSource{ApiConfigSource: &core.ApiConfigSource{
			ApiType: core.ApiConfigSource_GRPC, TransportApiVersion: core.ApiVersion_V3, SetNodeOnFirstMessageOnly: true,
			GrpcServices: []*core.GrpcService{{TargetSpecifier: &core.GrpcService_EnvoyGrpc_{EnvoyGrpc: &core.GrpcService_EnvoyGrpc{ClusterName: "sds-grpc"}}}},
		}},
		InitialFetchTimeout: durationpb.New(0), ResourceApiVersion: core.ApiVersion_V3,
	}}
}

// ruleContext is what a DestinationRule's tls asks for; nil is plain text.
func ruleContext(config *mesh.Config, o *mesh.Outbound, port mesh.Port, subset mesh.Subset, settings *networking.ClientTLSSettings) *tls.UpstreamTlsContext {
	switch settings.Mode {
	case networking.ClientTLSSettings_ISTIO_MUTUAL:
		context := meshContext(config, o, port, subset)
		if settings.Sni != "" {
			context.Sni = settings.Sni
		}
		return context
	case networking.ClientTLSSettings_SIMPLE, networking.ClientTLSSettings_MUTUAL:
		return originateContext(port, settings)
	}
	return nil
}

// originateContext is TLS to a server outside the mesh, with files that the proxy has.
func originateContext(port mesh.Port, settings *networking.ClientTLSSettings) *tls.UpstreamTlsContext {
	common := &tls.CommonTlsContext{}
	if port.Protocol.IsHTTP2() {
		common.AlpnProtocols = []string{"h2"}
	}
	if settings.Mode == networking.ClientTLSSettings_MUTUAL {
		common.TlsCertificates = []*tls.TlsCertificate{{CertificateChain: file(settings.ClientCertificate), PrivateKey: file(settings.PrivateKey)}}
	}
	if settings.CaCertificates != "" && !settings.GetInsecureSkipVerify().GetValue() {
		validation := &tls.CertificateValidationContext{TrustedCa: file(settings.CaCertificates)}
		for _, name := range settings.SubjectAltNames {
			validation.MatchTypedSubjectAltNames = append(validation.MatchTypedSubjectAltNames,
				&tls.SubjectAltNameMatcher{SanType: tls.SubjectAltNameMatcher_DNS, Matcher: exact(name)},
				&tls.SubjectAltNameMatcher{SanType: tls.SubjectAltNameMatcher_URI, Matcher: exact(name)})
		}
		common.ValidationContextType = &tls.CommonTlsContext_ValidationContext{ValidationContext: validation}
	}
	return &tls.UpstreamTlsContext{CommonTlsContext: common, Sni: settings.Sni}
}

func file(path string) *core.DataSource {
	return &core.DataSource{Specifier: &core.DataSource_Filename{Filename: path}}
}

// inboundContext is what a sidecar takes mutual TLS with: any identity of the trust domain, since who may call is for
// AuthorizationPolicy to say.
func inboundContext(config *mesh.Config) *core.TransportSocket {
	context := &tls.DownstreamTlsContext{
		RequireClientCertificate: boolean(true),
		CommonTlsContext: &tls.CommonTlsContext{
			TlsParams:                      &tls.TlsParameters{TlsMinimumProtocolVersion: tls.TlsParameters_TLSv1_2, TlsMaximumProtocolVersion: tls.TlsParameters_TLSv1_3},
			AlpnProtocols:                  []string{"istio-peer-exchange", "h2", "http/1.1"},
			TlsCertificateSdsSecretConfigs: []*tls.SdsSecretConfig{agentSecret("default")},
			ValidationContextType: &tls.CommonTlsContext_CombinedValidationContext{CombinedValidationContext: &tls.CommonTlsContext_CombinedCertificateValidationContext{
				DefaultValidationContext:         &tls.CertificateValidationContext{MatchTypedSubjectAltNames: trustDomainSANs(config)},
				ValidationContextSdsSecretConfig: agentSecret("ROOTCA"),
			}},
		},
	}
	return &core.TransportSocket{Name: tlsSocket, ConfigType: &core.TransportSocket_TypedConfig{TypedConfig: pack(context)}}
}
