package cli

import "os"

// environment lists the variables that the CLI reads beside kubectl's, with what they are for.
var environment = map[string]string{
	"NO_COLOR":               "anything: no colours and no redrawing, on a terminal too",
	"TERM":                   "dumb: the same",
	"COMPLIANCE_POLICY":      "what TLS keeps to in the proxies that kube-inject makes, as for the control plane",
	"ENABLE_NATIVE_SIDECARS": "true or false: what kube-inject makes, whatever the nodes run",
}

func env(name string) string {
	if _, listed := environment[name]; !listed {
		panic("environment variable " + name + " is not in the table")
	}
	return os.Getenv(name)
}
