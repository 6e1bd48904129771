package resolve

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/url"
	"slices"

	meshapi "istio.io/api/mesh/v1alpha1"

	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
)

// trustedRoots reads MeshConfig.caCertificates: roots that workloads trust beside the control plane's, in PEM, one certificate each, and the
// URLs of bundles of such roots.
func trustedRoots(config *mesh.Config, api *meshapi.MeshConfig, r *report) (out, bundles []string) {
	ours := append([]string{config.TrustDomain}, config.TrustAliases...)
	for i, from := range api.CaCertificates {
		field := fmt.Sprintf("data.mesh.caCertificates[%d]", i)
		switch {
		case len(from.CertSigners) > 0:
			r.warn(field+".certSigners", ReasonUnsupported, "there are no signers but the control plane, so these certificates are not trusted")
		case len(from.TrustDomains) > 0 && !slices.ContainsFunc(from.TrustDomains, func(domain string) bool { return slices.Contains(ours, domain) }):
			r.warn(field+".trustDomains", ReasonUnsupported, "does not name the mesh's own trust domain %s, and workloads of others are not taken; name it, or add the other to trustDomainAliases", config.TrustDomain)
		case from.GetSpiffeBundleUrl() != "":
			if at, err := url.Parse(from.GetSpiffeBundleUrl()); err == nil && at.Host != "" && (at.Scheme == "https" || at.Scheme == "http") {
				bundles = append(bundles, from.GetSpiffeBundleUrl())
			} else {
				r.refuse(field+".spiffeBundleUrl", "is to be an https or http URL")
			}
		default:
			found, err := certificates([]byte(from.GetPem()))
			if err != nil {
				r.refuse(field+".pem", "%v; it takes certificates in PEM", err)
			}
			out = append(out, found...)
		}
	}
	return out, bundles
}

// bundleRoots are the roots of the bundles that were fetched, in PEM.
func (s *step) bundleRoots(bundles []string) []string {
	var out []string
	for _, source := range bundles {
		text, _ := s.World.Keys.Get([]byte(source))
		out = append(out, rootsOf(text)...)
	}
	return out
}

// rootsOf reads a SPIFFE bundle: a key set with a certificate in each key that signs workloads' certificates. What cannot be read is left out.
// https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE_Trust_Domain_and_Bundle.md#4-spiffe-bundle-format
func rootsOf(text string) []string {
	var set struct {
		Keys []struct {
			Use string   `json:"use"`
			X5C [][]byte `json:"x5c"`
		} `json:"keys"`
	}
	if json.Unmarshal([]byte(text), &set) != nil {
		return nil
	}
	var out []string
	for _, key := range set.Keys {
		if key.Use != "x509-svid" || len(key.X5C) != 1 {
			continue
		}
		if found, err := certificates(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: key.X5C[0]})); err == nil {
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
