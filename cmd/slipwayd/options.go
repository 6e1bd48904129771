package main

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/slipway-mesh/slipway/internal/compliance"
)

// options are slipwayd's flags and environment. The flags are those that Istio's chart gives istiod.
type options struct {
	namespace, revision, service, cluster, domain, kubeconfig     string
	monitoring, httpAddress, grpcAddress, secureAddress, webhooks string
	caDir, native                                                 string
	maxConnectionAge                                              time.Duration
	logJSON                                                       bool
	compliance                                                    compliance.Policy
	allocate                                                      bool          // addresses for ServiceEntries
	tellStatus                                                    bool          // in objects, how many proxies hold what they make
	drain                                                         time.Duration // over which streams end when this replica does
	entryGrace                                                    time.Duration
	certificateRate                                               float64       // a second, of one identity
	rootSettle                                                    time.Duration // how long each phase of a root's rotation lasts at least
}

// environment lists the variables that are read, with what they are for.
var environment = map[string]string{
	"POD_NAMESPACE":                     "the control plane's namespace, which is also the root namespace",
	"COMPLIANCE_POLICY":                 "fips-140-2 or pqc: what TLS keeps to, of the control plane and of proxies, whatever anybody configures",
	"REVISION":                          "this control plane's revision; default is none",
	"ISTIOD_SERVICE":                    "name of the Service that leads here",
	"CLUSTER_ID":                        "name of this cluster",
	"ENABLE_NATIVE_SIDECARS":            "auto, true or false: whether proxies are restartable init containers",
	"PILOT_ENABLE_IP_AUTOALLOCATE":      "false leaves ServiceEntries without addresses of the mesh's own",
	"PILOT_WORKLOAD_ENTRY_GRACE_PERIOD": "how long the WorkloadEntry of a proxy that went away is kept, such as 10s",
	"PILOT_ENABLE_STATUS":               "true tells in the status of objects how many proxies hold what they make",
	"KUBECONFIG":                        "a kubeconfig, for running outside the cluster",
}

func env(name, otherwise string) string {
	if _, listed := environment[name]; !listed {
		panic("environment variable " + name + " is not in the table")
	}
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}

func parseOptions(args []string) (options, error) {
	o := options{
		namespace: env("POD_NAMESPACE", "istio-system"), revision: env("REVISION", "default"), service: env("ISTIOD_SERVICE", "istiod"),
		cluster: env("CLUSTER_ID", "Kubernetes"), native: env("ENABLE_NATIVE_SIDECARS", "auto"),
		tellStatus: env("PILOT_ENABLE_STATUS", "false") == "true",
		allocate:   env("PILOT_ENABLE_IP_AUTOALLOCATE", "true") != "false",
	}
	if len(args) > 0 && args[0] == "discovery" {
		args = args[1:]
	}
	flags := flag.NewFlagSet("slipwayd", flag.ContinueOnError)
	flags.StringVar(&o.kubeconfig, "kubeconfig", env("KUBECONFIG", ""), "a kubeconfig, for running outside the cluster")
	flags.StringVar(&o.domain, "domain", "cluster.local", "DNS domain of the cluster")
	flags.StringVar(&o.monitoring, "monitoringAddr", ":15014", "address of /metrics")
	flags.StringVar(&o.httpAddress, "httpAddr", ":8080", "address of /ready and /debug")
	flags.StringVar(&o.grpcAddress, "grpcAddr", ":15010", "address of xDS in plain text; empty turns it off")
	flags.StringVar(&o.secureAddress, "secureGRPCAddr", ":15012", "address of xDS and the authority over TLS")
	flags.StringVar(&o.webhooks, "httpsAddr", ":15017", "address of the webhooks")
	flags.StringVar(&o.caDir, "cacerts", "/etc/cacerts", "folder of a plugged-in authority")
	flags.DurationVar(&o.maxConnectionAge, "keepaliveMaxServerConnectionAge", 30*time.Minute, "after which a proxy is asked to connect anew")
	grace, err := time.ParseDuration(env("PILOT_WORKLOAD_ENTRY_GRACE_PERIOD", "10s"))
	if err != nil {
		return o, fmt.Errorf("PILOT_WORKLOAD_ENTRY_GRACE_PERIOD: %w", err)
	}
	o.entryGrace = grace
	if o.compliance, err = compliance.Parse(env("COMPLIANCE_POLICY", "")); err != nil {
		return o, err
	}
	flags.DurationVar(&o.drain, "drainDuration", 5*time.Second, "over which the streams of proxies are ended when this replica ends")
	flags.DurationVar(&o.rootSettle, "rootSettle", 2*time.Minute, "how long each phase of a root's rotation lasts at least: kubelets renew mounted files in their own time")
	flags.Float64Var(&o.certificateRate, "certificateRate", 100, "certificates a second that one identity gets at most; ten times as many at once; 0 is no limit")
	flags.BoolVar(&o.logJSON, "log_as_json", false, "write the log as JSON")
	flags.String("log_output_level", "default:info", "accepted for compatibility")
	return o, flags.Parse(args)
}

// suffix is what names of this revision's objects end in.
func (o options) suffix() string {
	if o.revision == "default" {
		return ""
	}
	return "-" + o.revision
}

// dnsNames are the names that proxies, tools and the API server call this control plane by.
func (o options) dnsNames() []string {
	var names []string
	for _, service := range []string{o.service, "istiod", "istiod" + o.suffix(), "istio-pilot"} {
		for _, form := range []string{service + "." + o.namespace + ".svc", service + "." + o.namespace + ".svc." + o.domain, service + "." + o.namespace} {
			if !strings.Contains(strings.Join(names, " ")+" ", form+" ") {
				names = append(names, form)
			}
		}
	}
	return append(names, "localhost")
}
