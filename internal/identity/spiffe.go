// Package identity is who a workload is: SPIFFE names, and how a workload gets its certificate. It must not know the mesh's
// configuration, Envoy or Kubernetes: every agent has it. The authority is in identity/ca.
package identity

import (
	"fmt"
	"net/url"
	"strings"
)

// Audience is what a service account's tokens must be for.
const Audience = "istio-ca"

// ID is the identity of a service account.
type ID struct{ TrustDomain, Namespace, Account string }

// String is the SPIFFE URI, spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT.
func (id ID) String() string {
	return "spiffe://" + strings.ReplaceAll(id.TrustDomain, "@", ".") + "/ns/" + id.Namespace + "/sa/" + id.Account
}

// Parse reads a SPIFFE URI of this form.
func Parse(text string) (ID, error) {
	parts := strings.Split(strings.TrimPrefix(text, "spiffe://"), "/")
	if !strings.HasPrefix(text, "spiffe://") || len(parts) != 5 || parts[1] != "ns" || parts[3] != "sa" || parts[0] == "" || parts[2] == "" || parts[4] == "" {
		return ID{}, fmt.Errorf("%q is not spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT", text)
	}
	return ID{parts[0], parts[2], parts[4]}, nil
}

// URI is String, parsed.
func (id ID) URI() (*url.URL, error) { return url.Parse(id.String()) }
