package resolve

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"

	meshapi "istio.io/api/mesh/v1alpha1"

	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
)

// trustedRoots reads MeshConfig.caCertificates: roots that workloads trust beside the control plane's, in PEM, one certificate each.
func trustedRoots(config *mesh.Config, api *meshapi.MeshConfig, r *report) []string {
	var out []string
	ours := append([]string{config.TrustDomain}, config.TrustAliases...)
	for i, from := range api.CaCertificates {
		field := fmt.Sprintf("data.mesh.caCertificates[%d]", i)
		switch {
		case from.GetSpiffeBundleUrl() != "":
			r.warn(field+".spiffeBundleUrl", ReasonUnsupported, "is not fetched; write the certificates as pem")
		case len(from.CertSigners) > 0:
			r.warn(field+".certSigners", ReasonUnsupported, "there are no signers but the control plane, so these certificates are not trusted")
		case len(from.TrustDomains) > 0 && !slices.ContainsFunc(from.TrustDomains, func(domain string) bool { return slices.Contains(ours, domain) }):
			r.warn(field+".trustDomains", ReasonUnsupported, "does not name the mesh's own trust domain %s, and workloads of others are not taken; name it, or add the other to trustDomainAliases", config.TrustDomain)
		default:
			found, err := certificates([]byte(from.GetPem()))
			if err != nil {
				r.refuse(field+".pem", "%v; it takes certificates in PEM", err)
			}
			out = append(out, found...)
		}
	}
	return out
}

// certificates splits PEM into those in it; with one that cannot be read there is none.
func certificates(text []byte) ([]string, error) {
	var out []string
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			break
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return nil, err
		}
		out, text = append(out, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: block.Bytes}))), rest
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("there is no certificate in it")
	}
	return out, nil
}
