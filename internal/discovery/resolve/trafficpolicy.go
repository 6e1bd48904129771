package resolve

import (
	"fmt"
	"strings"

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
	if zone := policy.LoadBalancer.GetZoneAwareLbSetting(); zone != nil {
		checkZoneAware(zone, policy.Field+".loadBalancer.zoneAwareLbSetting", r)
		if policy.LoadBalancer.GetLocalityLbSetting() != nil {
			r.refuse(policy.Field+".loadBalancer", "has localityLbSetting and zoneAwareLbSetting; leave one of them out")
		}
	}
	if tls := policy.Tls; tls != nil {
		checkClientTLS(tls, policy.Field+".tls", r)
	}
}

// checkZoneAware refuses labels by which zones would be apart: Envoy itself chooses among the zones of a region.
func checkZoneAware(zone *api.ZoneAwareLoadBalancerSetting, field string, r *report) {
	for i, label := range zone.FailoverPriority {
		switch name, _, _ := strings.Cut(label, "="); name {
		case mesh.LabelRegion, mesh.LabelZone, mesh.LabelSubZone:
			r.refuse(fmt.Sprintf("%s.failoverPriority[%d]", field, i), "%s must not be named: regions come in order by themselves, and zones are Envoy's to choose from", name)
		}
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
