package envoy

import (
	"slices"
	"strings"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	snicluster "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/sni_cluster/v3"
	tls "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	networking "istio.io/api/networking/v1alpha3"

	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
)

// chainBuilder collects the filter chains of a gateway's port that is not plain HTTP. A server name leads to one chain only, that
// of the oldest Gateway: Envoy would refuse the listener otherwise.
type chainBuilder struct {
	Edge
	port   *mesh.GatewayPort
	chains []*listener.FilterChain
	taken  map[string]bool
	tables map[string]mesh.GatewayServer // HTTPS servers by their route tables
}

// gatewayChains opens a port by what its servers are: TCP, TLS that is passed through, TLS that ends here, HTTPS. Without any
// chain the port stays closed.
func gatewayChains(e Edge, port *mesh.GatewayPort) (*Resource, map[string]mesh.GatewayServer) {
	b := &chainBuilder{Edge: e, port: port, taken: map[string]bool{}, tables: map[string]mesh.GatewayServer{}}
	for _, server := range port.Servers {
		switch {
		case server.Protocol.IsHTTP():
			// The port's first server decides whether it is plain HTTP.
		case server.TLS.GetMode() == networking.ServerTLSSettings_PASSTHROUGH && server.TLS != nil:
			b.passThrough(server)
		case server.LeadsThrough():
			b.autoPassThrough(server)
		case server.Protocol == mesh.HTTPS:
			b.https(server)
		default:
			b.tcp(server)
		}
	}
	if len(b.chains) == 0 {
		return nil, nil
	}
	out := &listener.Listener{
		Name: listenerName(port), Address: address(bindAddress(port), port.Port), TrafficDirection: core.TrafficDirection_OUTBOUND, FilterChains: b.chains,
	}
	if port.Servers[0].TLS != nil {
		out.ListenerFilters = []*listener.ListenerFilter{tlsInspector()}
	}
	return NewResource(out.Name, throughBalancer(out, b.Config.Settings)), b.tables
}

// add takes a chain for server names, less those that are taken.
func (b *chainBuilder) add(names []string, chain *listener.FilterChain) {
	var own []string
	for _, name := range names {
		if !b.taken[name] {
			b.taken[name] = true
			own = append(own, name)
		}
	}
	if len(own) == 0 {
		return
	}
	chain.FilterChainMatch = &listener.FilterChainMatch{}
	if !slices.Contains(own, "*") {
		chain.FilterChainMatch = serverNames(own)
	}
	b.chains = append(b.chains, chain)
}

func (b *chainBuilder) https(server mesh.GatewayServer) {
	table := tableName(strings.Join([]string{"https", itoa(b.port.Port), server.PortName, server.Gateway.Name, server.Gateway.Namespace}, "."), b.port)
	before := len(b.chains)
	b.add(serverHosts(server), &listener.FilterChain{TransportSocket: downstreamTLS(b.Config, server.TLS, true), Filters: []*listener.Filter{managerFilter(gatewayManager(b.Edge, b.port, server, table))}})
	if len(b.chains) > before {
		b.tables[table] = server
	}
}

// passThrough leads connections on by server name, without looking into them.
func (b *chainBuilder) passThrough(server mesh.GatewayServer) {
	for _, v := range server.Routes {
		for _, rule := range v.TLS {
			if !ruleIsFor(rule, server) {
				continue
			}
			var names []string
			for _, sni := range rule.SNIHosts {
				for _, host := range serverHosts(server) {
					if mesh.HostCovers(host, sni) {
						names = append(names, sni)
					} else if mesh.HostCovers(sni, host) {
						names = append(names, host)
					}
				}
			}
			b.add(names, &listener.FilterChain{Filters: append(tcpGuards(b.Config, b.Guard), tcpToAny(b.Config, withPorts(rule.Destinations, server.Port, b.Lookup), b.Lookup)...)})
		}
	}
}

// autoPassThrough leads the mesh's own TLS on to the cluster that its server name is. What has another name, or is not the mesh's,
// finds no way: a name such as outbound|80||HOST would be that of a cluster in which the gateway speaks for itself.
func (b *chainBuilder) autoPassThrough(server mesh.GatewayServer) {
	var names []string
	for _, host := range serverHosts(server) {
		if host != "*" {
			host = "*." + strings.TrimPrefix(host, "*.")
		}
		names = append(names, host)
	}
	filters := append(tcpGuards(b.Config, b.Guard), onlyServerNames("sni_dnat", mesh.SNIPattern), networkFilter("envoy.filters.network.sni_cluster", &snicluster.SniCluster{}),
		tcpTo(outboundSide(b.Config, b.Lookup.Flavour), BlackHoleCluster))
	before := len(b.chains)
	b.add(names, &listener.FilterChain{Filters: filters})
	for _, chain := range b.chains[before:] {
		chain.FilterChainMatch.ApplicationProtocols = alpnAll
	}
}

// tcp leads connections on by the first TCP rule; where the server has TLS, it ends here.
func (b *chainBuilder) tcp(server mesh.GatewayServer) {
	for _, v := range server.Routes {
		for _, rule := range v.TCP {
			if !ruleIsFor(rule, server) {
				continue
			}
			chain := &listener.FilterChain{Filters: append(tcpGuards(b.Config, b.Guard), tcpToAny(b.Config, withPorts(rule.Destinations, server.Port, b.Lookup), b.Lookup)...)}
			names := []string{"*"}
			if server.TLS != nil {
				chain.TransportSocket, names = downstreamTLS(b.Config, server.TLS, false), serverHosts(server)
			}
			b.add(names, chain)
			return
		}
	}
}

// ruleIsFor says whether a TLS or TCP rule is for a server's port and Gateway.
func ruleIsFor(rule *mesh.L4Route, server mesh.GatewayServer) bool {
	return (len(rule.Ports) == 0 || rule.Ports[0] == server.Port) &&
		(len(rule.Gateways) == 0 || slices.Contains(rule.Gateways, server.Gateway.Namespace+"/"+server.Gateway.Name))
}

func serverHosts(server mesh.GatewayServer) []string {
	var hosts []string
	for _, host := range server.Hosts {
		hosts = append(hosts, host.Host)
	}
	return hosts
}

var tlsVersions = map[networking.ServerTLSSettings_TLSProtocol]tls.TlsParameters_TlsProtocol{
	networking.ServerTLSSettings_TLSV1_0: tls.TlsParameters_TLSv1_0, networking.ServerTLSSettings_TLSV1_1: tls.TlsParameters_TLSv1_1,
	networking.ServerTLSSettings_TLSV1_2: tls.TlsParameters_TLSv1_2, networking.ServerTLSSettings_TLSV1_3: tls.TlsParameters_TLSv1_3,
}

// downstreamTLS ends TLS with the server's certificate: a secret by name, or files that the proxy has. MUTUAL asks the client for
// one of its own, OPTIONAL_MUTUAL looks at it if there is one.
func downstreamTLS(config *mesh.Config, settings *networking.ServerTLSSettings, http bool) *core.TransportSocket {
	parameters := &tls.TlsParameters{TlsMinimumProtocolVersion: tls.TlsParameters_TLSv1_2, CipherSuites: settings.CipherSuites}
	if v, ok := tlsVersions[settings.MinProtocolVersion]; ok {
		parameters.TlsMinimumProtocolVersion = v
	}
	if v, ok := tlsVersions[settings.MaxProtocolVersion]; ok {
		parameters.TlsMaximumProtocolVersion = v
	}
	limit := otherLimits
	if settings.Mode == networking.ServerTLSSettings_ISTIO_MUTUAL {
		limit = meshLimits
	}
	common := &tls.CommonTlsContext{TlsParams: limit(config, parameters)}
	if http {
		common.AlpnProtocols = []string{"h2", "http/1.1"}
	}
	context := &tls.DownstreamTlsContext{CommonTlsContext: common}
	mutual := settings.Mode == networking.ServerTLSSettings_MUTUAL || settings.Mode == networking.ServerTLSSettings_OPTIONAL_MUTUAL
	context.RequireClientCertificate = boolean(settings.Mode == networking.ServerTLSSettings_MUTUAL || settings.Mode == networking.ServerTLSSettings_ISTIO_MUTUAL)
	if settings.Mode == networking.ServerTLSSettings_ISTIO_MUTUAL {
		common.TlsCertificateSdsSecretConfigs = []*tls.SdsSecretConfig{agentSecret("default")}
		common.ValidationContextType = &tls.CommonTlsContext_ValidationContextSdsSecretConfig{ValidationContextSdsSecretConfig: agentSecret("ROOTCA")}
	} else {
		common.TlsCertificateSdsSecretConfigs = serverCertificates(settings)
		if mutual {
			common.ValidationContextType = checkedBy(settings, clientAuthority(settings))
		}
	}
	return &core.TransportSocket{Name: tlsSocket, ConfigType: &core.TransportSocket_TypedConfig{TypedConfig: pack(context)}}
}

// serverCertificates are those that the server shows: secrets by name before files, several before one.
func serverCertificates(settings *networking.ServerTLSSettings) []*tls.SdsSecretConfig {
	names := settings.CredentialNames
	if len(names) == 0 && settings.CredentialName != "" {
		names = []string{settings.CredentialName}
	}
	var out []*tls.SdsSecretConfig
	for _, name := range names {
		out = append(out, namedSecret(name))
	}
	if len(out) > 0 {
		return out
	}
	for _, files := range settings.TlsCertificates {
		out = append(out, fileSecret("file-cert:"+files.ServerCertificate+"~"+files.PrivateKey))
	}
	if len(out) > 0 {
		return out
	}
	return []*tls.SdsSecretConfig{fileSecret("file-cert:" + settings.ServerCertificate + "~" + settings.PrivateKey)}
}

// clientAuthority is who must have signed a client's certificate: a secret of its own, that of the server's secret, or a file.
func clientAuthority(settings *networking.ServerTLSSettings) *tls.SdsSecretConfig {
	switch {
	case settings.CaCertCredentialName != "":
		return namedSecret(settings.CaCertCredentialName + "-cacert")
	case len(settings.CredentialNames) > 0:
		return namedSecret(settings.CredentialNames[0] + "-cacert")
	case settings.CredentialName != "":
		return namedSecret(settings.CredentialName + "-cacert")
	}
	return fileSecret("file-root:" + mesh.ClientAuthorityFile(settings))
}

// checkedBy asks of a client's certificate that the authority has signed it, and what the settings say of it.
func checkedBy(settings *networking.ServerTLSSettings, root *tls.SdsSecretConfig) *tls.CommonTlsContext_CombinedValidationContext {
	validation := &tls.CertificateValidationContext{MatchTypedSubjectAltNames: anyName(settings.SubjectAltNames),
		VerifyCertificateSpki: settings.VerifyCertificateSpki, VerifyCertificateHash: settings.VerifyCertificateHash}
	if settings.GetInsecureSkipVerify().GetValue() { // it is looked at, and told of in x-forwarded-client-cert, whoever has signed it
		validation.TrustChainVerification = tls.CertificateValidationContext_ACCEPT_UNTRUSTED
	}
	if settings.CaCrl != "" {
		validation.Crl = file(settings.CaCrl)
	}
	return &tls.CommonTlsContext_CombinedValidationContext{CombinedValidationContext: &tls.CommonTlsContext_CombinedCertificateValidationContext{
		DefaultValidationContext: validation, ValidationContextSdsSecretConfig: root}}
}

// namedSecret is a secret that the control plane serves. Envoy waits for it for its default time only: a secret that is not there
// must not hold up the listener's other servers for ever.
func namedSecret(name string) *tls.SdsSecretConfig {
	return &tls.SdsSecretConfig{Name: "kubernetes://" + name, SdsConfig: &core.ConfigSource{
		ConfigSourceSpecifier: &core.ConfigSource_Ads{Ads: &core.AggregatedConfigSource{}}, ResourceApiVersion: core.ApiVersion_V3,
	}}
}
