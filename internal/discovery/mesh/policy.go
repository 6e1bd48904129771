package mesh

import (
	"fmt"
	"strings"

	meshapi "istio.io/api/mesh/v1alpha1"
	security "istio.io/api/security/v1beta1"
)

// Action is what an AuthorizationPolicy does with what it matches.
type Action int

// The actions, in the order in which they are asked.
const (
	Custom Action = iota
	Audit
	Deny
	Allow
)

// AuthorizationPolicy says who may do what with a workload.
type AuthorizationPolicy struct {
	Owner
	Selector map[string]string
	Created  int64
	Action   Action
	Rules    []*security.Rule
	// Provider is the name of the extension provider that decides, for Custom.
	Provider string
	// DryRun says that it is only counted what it would do.
	DryRun bool
}

// RequestAuthentication says which tokens a workload takes.
type RequestAuthentication struct {
	Owner
	Selector map[string]string
	Created  int64
	Rules    []*security.JWTRule
}

// KeySet is a JSON Web Key Set that was read from where a rule says.
type KeySet struct{ Text string }

// Guard is all that decides which requests a workload takes.
type Guard struct {
	Authentication []*RequestAuthentication
	// Authorization are the policies, by action and age.
	Authorization []*AuthorizationPolicy
	// Keys are the key sets of issuers whose rules do not hold them, by KeySource. One that could not be read is missing.
	Keys map[string]string
	// Providers decide for Custom policies, by name; one that MeshConfig does not have is missing.
	Providers map[string]*meshapi.MeshConfig_ExtensionProvider
}

// Empty says that every request is taken.
func (g *Guard) Empty() bool { return g == nil || len(g.Authentication)+len(g.Authorization) == 0 }

// Key is equal for equal guards.
func (g *Guard) Key() string {
	if g.Empty() {
		return ""
	}
	var key strings.Builder
	for _, r := range g.Authentication {
		fmt.Fprintf(&key, "%p,", r)
		for _, rule := range r.Rules {
			fmt.Fprintf(&key, "%s,", g.Keys[KeySource(rule)])
		}
	}
	for _, p := range g.Authorization {
		fmt.Fprintf(&key, "%p,%p,", p, g.Providers[p.Provider])
	}
	return key.String()
}

// KeySource names where a rule's keys are read: a URI, or an issuer that tells of it. It is empty where the rule holds them.
func KeySource(rule *security.JWTRule) string {
	switch {
	case rule.Jwks != "":
		return ""
	case rule.JwksUri != "":
		return rule.JwksUri
	}
	return IssuerPrefix + rule.Issuer
}

// IssuerPrefix begins the name of a key source that has to be asked for.
const IssuerPrefix = "issuer:"
