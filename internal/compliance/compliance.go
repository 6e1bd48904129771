// Package compliance is what rules from outside ask of TLS: a policy's name enters, limits leave. They go before whatever anybody
// configures. It must not know who speaks TLS.
package compliance

import (
	"crypto/tls"
	"fmt"
)

// Policy is the name of a policy, as the environment variable COMPLIANCE_POLICY has it.
type Policy string

// The policies.
const (
	None Policy = ""
	// FIPS is TLS 1.2 with suites and a curve of FIPS 140-2.
	FIPS Policy = "fips-140-2"
	// PQC is TLS 1.3 with a key exchange that quantum computers do not break.
	PQC Policy = "pqc"
)

// Parse reads a policy's name. An unknown one is an error: whoever asks for a policy must not run without.
func Parse(name string) (Policy, error) {
	switch p := Policy(name); p {
	case None, FIPS, PQC:
		return p, nil
	}
	return None, fmt.Errorf("COMPLIANCE_POLICY %q is not known; use %s or %s, or leave it empty", name, FIPS, PQC)
}

// Limits are what a policy allows of TLS. Versions are those of crypto/tls; names are OpenSSL's, which Envoy takes.
type Limits struct {
	Min, Max  uint16
	Ciphers   []string // of TLS 1.2; those of 1.3 cannot be chosen
	Curves    []string
	goCiphers []uint16
	goCurves  []tls.CurveID
}

var limits = map[Policy]Limits{
	FIPS: {
		Min: tls.VersionTLS12, Max: tls.VersionTLS12,
		Ciphers: []string{"ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-RSA-AES256-GCM-SHA384"},
		Curves:  []string{"P-256"},
		goCiphers: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384},
		goCurves: []tls.CurveID{tls.CurveP256},
	},
	PQC: {Min: tls.VersionTLS13, Max: tls.VersionTLS13, Curves: []string{"X25519MLKEM768"}, goCurves: []tls.CurveID{tls.X25519MLKEM768}},
}

// Limits returns a policy's; false where it has none.
func (p Policy) Limits() (Limits, bool) {
	l, ok := limits[p]
	return l, ok
}

// Limit makes a configuration of Go's keep to the policy, and returns it.
func (p Policy) Limit(config *tls.Config) *tls.Config {
	if l, ok := p.Limits(); ok {
		config.MinVersion, config.MaxVersion, config.CipherSuites, config.CurvePreferences = l.Min, l.Max, l.goCiphers, l.goCurves
	}
	return config
}
