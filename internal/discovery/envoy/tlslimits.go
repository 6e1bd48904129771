package envoy

import (
	gotls "crypto/tls"

	tls "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	meshapi "istio.io/api/mesh/v1alpha1"

	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
)

// TLS keeps to what MeshConfig says: meshMTLS between workloads, tlsDefaults elsewhere, unless a Gateway's server says more. A compliance
// policy goes before all of them.

var protocolVersions = map[uint16]tls.TlsParameters_TlsProtocol{gotls.VersionTLS12: tls.TlsParameters_TLSv1_2, gotls.VersionTLS13: tls.TlsParameters_TLSv1_3}

var minimumVersions = map[meshapi.MeshConfig_TLSConfig_TLSProtocol]tls.TlsParameters_TlsProtocol{
	meshapi.MeshConfig_TLSConfig_TLSV1_2: tls.TlsParameters_TLSv1_2, meshapi.MeshConfig_TLSConfig_TLSV1_3: tls.TlsParameters_TLSv1_3,
}

// meshLimits are those of mutual TLS between workloads.
func meshLimits(config *mesh.Config, p *tls.TlsParameters) *tls.TlsParameters {
	if v, ok := minimumVersions[config.MeshTLS.GetMinProtocolVersion()]; ok {
		p = atLeast(p, v)
	}
	if suites := config.MeshTLS.GetCipherSuites(); len(suites) > 0 {
		p = orEmpty(p)
		p.CipherSuites = suites
	}
	return comply(config, p)
}

// otherLimits are those of TLS with others.
func otherLimits(config *mesh.Config, p *tls.TlsParameters) *tls.TlsParameters {
	if v, ok := minimumVersions[config.OtherTLS.GetMinProtocolVersion()]; ok && (p == nil || p.TlsMinimumProtocolVersion < v) {
		p = atLeast(p, v)
	}
	if suites := config.OtherTLS.GetCipherSuites(); len(suites) > 0 && len(p.GetCipherSuites()) == 0 {
		p = orEmpty(p)
		p.CipherSuites = suites
	}
	if curves := config.OtherTLS.GetEcdhCurves(); len(curves) > 0 {
		p = orEmpty(p)
		p.EcdhCurves = curves
	}
	return comply(config, p)
}

// atLeast sets a version. Envoy's own limit for clients is 1.2, which must not be under it.
func atLeast(p *tls.TlsParameters, version tls.TlsParameters_TlsProtocol) *tls.TlsParameters {
	p = orEmpty(p)
	if p.TlsMinimumProtocolVersion = version; p.TlsMaximumProtocolVersion < version {
		p.TlsMaximumProtocolVersion = tls.TlsParameters_TLSv1_3
	}
	return p
}

func comply(config *mesh.Config, p *tls.TlsParameters) *tls.TlsParameters {
	limits, ok := config.Compliance.Limits()
	if !ok {
		return p
	}
	p = orEmpty(p)
	p.TlsMinimumProtocolVersion, p.TlsMaximumProtocolVersion = protocolVersions[limits.Min], protocolVersions[limits.Max]
	p.CipherSuites, p.EcdhCurves = limits.Ciphers, limits.Curves
	return p
}

func orEmpty(p *tls.TlsParameters) *tls.TlsParameters {
	if p == nil {
		return &tls.TlsParameters{}
	}
	return p
}
