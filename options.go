package main

import (
	"flag"
	"os"

	"github.com/slipway-mesh/slipway/internal/version"
)

// options are the operator's flags. An environment variable is a flag's default where the table names one.
type options struct {
	watchNamespaces, metricsAddress, probeAddress, leaderNamespace string
	hub, tag, version                                              string
	leaderElect                                                    bool
	webhookPort                                                    int
	webhookCerts                                                   string
}

// environment lists the variables that the operator reads, with what they are for.
var environment = map[string]string{
	"WATCH_NAMESPACE":           "namespaces whose IstioOperators are read, with commas between; empty means all",
	"LEADER_ELECTION_NAMESPACE": "namespace of the leader's Lease",
	"HUB":                       "where this build's images are",
	"TAG":                       "the tag of this build's images",
}

func parseOptions(flags *flag.FlagSet, args []string) options {
	env := func(name, otherwise string) string {
		if _, listed := environment[name]; !listed {
			panic("environment variable " + name + " is not in the table")
		}
		if value, ok := os.LookupEnv(name); ok {
			return value
		}
		return otherwise
	}
	o := options{version: version.Version}
	flags.StringVar(&o.watchNamespaces, "watch-namespaces", env("WATCH_NAMESPACE", ""), "namespaces whose IstioOperators are read, with commas between; empty means all")
	flags.StringVar(&o.metricsAddress, "metrics-bind-address", ":8383", "address of /metrics; 0 turns it off")
	flags.StringVar(&o.probeAddress, "health-probe-bind-address", ":8081", "address of /healthz and /readyz")
	flags.BoolVar(&o.leaderElect, "leader-elect", true, "only one replica acts at a time")
	flags.StringVar(&o.leaderNamespace, "leader-election-namespace", env("LEADER_ELECTION_NAMESPACE", ""), "namespace of the leader's Lease")
	flags.IntVar(&o.webhookPort, "webhook-port", 9443, "where the API server's questions about IstioOperators are answered; 0 turns it off")
	flags.StringVar(&o.webhookCerts, "webhook-cert-dir", "/tmp/k8s-webhook-server/serving-certs", "where tls.crt and tls.key for that may be; without them the operator makes its own")
	flags.StringVar(&o.hub, "hub", env("HUB", version.Hub), "where this build's images are")
	flags.StringVar(&o.tag, "tag", env("TAG", version.Version), "the tag of this build's images")
	// The image is started as `operator server`, as Istio's is; the word is accepted.
	if len(args) > 0 && args[0] == "server" {
		args = args[1:]
	}
	_ = flags.Parse(args) // the flag set exits on an error
	return o
}
