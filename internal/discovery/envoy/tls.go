package envoy

import (
	"strings"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	proxyprotocol "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/proxy_protocol/v3"
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
		c.TransportSocketMatches = []*cluster.Cluster_TransportSocketMatch{ // without a match the cluster's own transport is used: plain text
			{Name: "tlsMode-istio", Match: tlsModeMatch(), TransportSocket: tlsTransport(meshContext(config, o, port, subset))},
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
	validation := &tls.CertificateValidationContext{MatchTypedSubjectAltNames: peerSANs(config, o.Service)}
	alpn := alpnTCP
	if port.Protocol.IsHTTP() {
		alpn = alpnHTTP
	}
	return &tls.UpstreamTlsContext{
		CommonTlsContext: &tls.CommonTlsContext{
			TlsParams:                      meshLimits(config, nil),
			AlpnProtocols:                  alpn,
			TlsCertificateSdsSecretConfigs: []*tls.SdsSecretConfig{agentSecret("default")},
			ValidationContextType: &tls.CommonTlsContext_CombinedValidationContext{CombinedValidationContext: &tls.CommonTlsContext_CombinedCertificateValidationContext{
				DefaultValidationContext: validation, ValidationContextSdsSecretConfig: agentSecret("ROOTCA"),
			}},
		},
		Sni: mesh.SNI(o.Host, subset.Name, port.Number),
	}
}

// peerSANs match the identities that a service's endpoints have, by whichever name of the trust domain; while nobody is known, anybody of
// the mesh.
func peerSANs(config *mesh.Config, service *mesh.Service) []*tls.SubjectAltNameMatcher {
	if len(service.Accounts) == 0 {
		return trustDomainSANs(config)
	}
	var out []*tls.SubjectAltNameMatcher
	for _, account := range service.Accounts {
		out = append(out, &tls.SubjectAltNameMatcher{SanType: tls.SubjectAltNameMatcher_URI, Matcher: exact(account)})
		workload, ours := strings.CutPrefix(account, "spiffe://"+config.TrustDomain+"/")
		for _, domain := range config.TrustAliases {
			if ours && domain != config.TrustDomain {
				out = append(out, &tls.SubjectAltNameMatcher{SanType: tls.SubjectAltNameMatcher_URI, Matcher: exact("spiffe://" + domain + "/" + workload)})
			}
		}
	}
	return out
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
		return originateContext(config, o, port, settings)
	}
	return nil
}

// originateContext is TLS to a server outside the mesh: by a secret where the rule names one that the proxies may have, otherwise by
// files that they have. Whose authority nobody names must be signed by one that the proxy's system trusts.
func originateContext(config *mesh.Config, o *mesh.Outbound, port mesh.Port, settings *networking.ClientTLSSettings) *tls.UpstreamTlsContext {
	common := &tls.CommonTlsContext{TlsParams: otherLimits(config, nil)}
	if port.Protocol.IsHTTP2() {
		common.AlpnProtocols = []string{"h2"}
	}
	byName := settings.CredentialName != "" && mayName(o)
	if settings.Mode == networking.ClientTLSSettings_MUTUAL {
		certificate := fileSecret("file-cert:" + settings.ClientCertificate + "~" + settings.PrivateKey)
		if byName {
			certificate = namedSecret(settings.CredentialName)
		}
		common.TlsCertificateSdsSecretConfigs = []*tls.SdsSecretConfig{certificate}
	}
	if !settings.GetInsecureSkipVerify().GetValue() {
		root := fileSecret("file-root:" + settings.CaCertificates)
		switch {
		case byName:
			root = namedSecret(settings.CredentialName + "-cacert")
		case settings.CaCertificates == "":
			root = fileSecret("file-root:system")
		}
		names := settings.SubjectAltNames
		if len(names) == 0 {
			names = o.Service.Names
		}
		validation := &tls.CertificateValidationContext{MatchTypedSubjectAltNames: anyName(names)}
		if settings.CaCrl != "" {
			validation.Crl = file(settings.CaCrl)
		}
		common.ValidationContextType = &tls.CommonTlsContext_CombinedValidationContext{CombinedValidationContext: &tls.CommonTlsContext_CombinedCertificateValidationContext{
			DefaultValidationContext: validation, ValidationContextSdsSecretConfig: root}}
	}
	return &tls.UpstreamTlsContext{CommonTlsContext: common, Sni: settings.Sni}
}

// mayName says whether a credentialName can be had: by gateways, and by the workloads that a rule selects.
func mayName(o *mesh.Outbound) bool {
	return o.Edge || o.Rule != nil && len(o.Rule.Selector) > 0
}

// anyName matches certificates that have one of the names.
func anyName(names []string) []*tls.SubjectAltNameMatcher {
	var out []*tls.SubjectAltNameMatcher
	for _, name := range names {
		out = append(out, &tls.SubjectAltNameMatcher{SanType: tls.SubjectAltNameMatcher_DNS, Matcher: exact(name)},
			&tls.SubjectAltNameMatcher{SanType: tls.SubjectAltNameMatcher_URI, Matcher: exact(name)})
	}
	return out
}

// fileSecret is a secret of files that the agent beside the proxy reads. Envoy waits for it for its default time only, as for a
// secret by name: files that are not there must not hold up everything else.
func fileSecret(name string) *tls.SdsSecretConfig {
	out := agentSecret(name)
	out.SdsConfig.InitialFetchTimeout = nil
	return out
}

func file(path string) *core.DataSource {
	return &core.DataSource{Specifier: &core.DataSource_Filename{Filename: path}}
}

// tellSource makes connections to the cluster begin with who called, in HAProxy's PROXY protocol.
func tellSource(c *cluster.Cluster, settings *networking.TrafficPolicy_ProxyProtocol) {
	if settings == nil {
		return
	}
	version := core.ProxyProtocolConfig_V1
	if settings.Version == networking.TrafficPolicy_ProxyProtocol_V2 {
		version = core.ProxyProtocolConfig_V2
	}
	wrap := func(inner *core.TransportSocket) *core.TransportSocket {
		if inner == nil {
			inner = rawTransport()
		}
		return &core.TransportSocket{Name: "envoy.transport_sockets.upstream_proxy_protocol", ConfigType: &core.TransportSocket_TypedConfig{
			TypedConfig: pack(&proxyprotocol.ProxyProtocolUpstreamTransport{Config: &core.ProxyProtocolConfig{Version: version}, TransportSocket: inner})}}
	}
	for _, match := range c.TransportSocketMatches {
		match.TransportSocket = wrap(match.TransportSocket)
	}
	if len(c.TransportSocketMatches) == 0 {
		c.TransportSocket = wrap(c.TransportSocket)
	}
}

func rawTransport() *core.TransportSocket {
	return &core.TransportSocket{Name: rawSocket, ConfigType: &core.TransportSocket_TypedConfig{TypedConfig: pack(&rawbuffer.RawBuffer{})}}
}

// inboundContext is what a sidecar takes mutual TLS with: any identity of the trust domain, since who may call is for
// AuthorizationPolicy to say.
func inboundContext(config *mesh.Config) *core.TransportSocket {
	context := &tls.DownstreamTlsContext{
		RequireClientCertificate: boolean(true),
		CommonTlsContext: &tls.CommonTlsContext{
			TlsParams:                      meshLimits(config, &tls.TlsParameters{TlsMinimumProtocolVersion: tls.TlsParameters_TLSv1_2, TlsMaximumProtocolVersion: tls.TlsParameters_TLSv1_3}),
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
