package resolve

import (
	api "istio.io/api/networking/v1alpha3"

	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
)

// checkPolicy tells of what a traffic policy asks that cannot be had.
func checkPolicy(policy mesh.PolicyAt, r *report) {
	if hash := policy.LoadBalancer.GetConsistentHash(); hash != nil && hash.HashKey == nil {
		r.refuse(policy.Field+".loadBalancer.consistentHash", "names nothing to hash; add httpHeaderName, httpCookie, useSourceIp or httpQueryParameterName")
	}
	if policy.OutlierDetection.GetConsecutiveErrors() > 0 { //nolint:staticcheck // what older documents write
		r.warn(policy.Field+".outlierDetection.consecutiveErrors", ReasonDeprecated, "is read as consecutiveGatewayErrors; write that, or consecutive5xxErrors")
	}
	if policy.LoadBalancer.GetZoneAwareLbSetting() != nil {
		r.warn(policy.Field+".loadBalancer.zoneAwareLbSetting", ReasonUnsupported, "is not supported yet and has no effect; use localityLbSetting")
	}
	if tls := policy.Tls; tls != nil {
		checkClientTLS(tls, policy.Field+".tls", r)
	}
}

func checkClientTLS(tls *api.ClientTLSSettings, field string, r *report) {
	switch {
	case tls.Mode == api.ClientTLSSettings_MUTUAL && tls.CredentialName == "" && (tls.ClientCertificate == "" || tls.PrivateKey == ""):
		r.refuse(field, "mode MUTUAL needs clientCertificate and privateKey, or credentialName")
	case tls.Mode == api.ClientTLSSettings_ISTIO_MUTUAL && (tls.ClientCertificate != "" || tls.PrivateKey != "" || tls.CaCertificates != ""):
		r.warn(field, ReasonInvalid, "mode ISTIO_MUTUAL uses the mesh's own certificates; those named here have no effect")
	}
}
