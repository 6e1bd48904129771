package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/slipway-mesh/slipway/internal/compliance"
	"github.com/slipway-mesh/slipway/internal/identity"
	"github.com/slipway-mesh/slipway/internal/sidecar/agent"
	"github.com/slipway-mesh/slipway/internal/sidecar/dns"
)

// environment lists the variables that `proxy` reads, beside ISTIO_META_* and ISTIO_METAJSON_*.
var environment = []string{
	"ENABLE_SELF_DISCOVERY", "POD_NAME", "POD_NAMESPACE", "INSTANCE_IP", "HOST_IP", "SERVICE_ACCOUNT", "TRUST_DOMAIN", "CA_ADDR", "PROXY_CONFIG", "SECRET_TTL",
	"ISTIO_CPU_LIMIT", "XDS_ROOT_CA", "ENVOY_PATH", "ISTIO_KUBE_APP_PROBERS", "DNS_PROXY_ADDR", "ISTIO_PROMETHEUS_ANNOTATIONS", "DISABLE_ENVOY", "OUTPUT_CERTS",
	"EXIT_ON_ZERO_ACTIVE_CONNECTIONS", "MINIMUM_DRAIN_DURATION", "ISTIO_BOOTSTRAP_OVERRIDE", "BOOTSTRAP_XDS_AGENT", "COMPLIANCE_POLICY",
}

func readEnvironment() map[string]string {
	out := map[string]string{}
	for _, name := range environment {
		out[name] = os.Getenv(name)
	}
	for _, entry := range os.Environ() {
		if name, value, ok := strings.Cut(entry, "="); ok && strings.HasPrefix(name, "ISTIO_META") {
			out[name] = value
		}
	}
	return out
}

// proxyOptions reads `proxy [sidecar|router] [flags]`. Flags of Istio's that have no meaning here are accepted.
func proxyOptions(args []string) (agent.Options, error) {
	env := readEnvironment()
	o := agent.Options{
		Kind: "sidecar", ConfigDir: "/etc/istio/proxy", SDSSocket: "/var/run/secrets/workload-spiffe-uds/socket", MountedCerts: "/var/run/secrets/workload-spiffe-credentials",
		TokenFile: "/var/run/secrets/tokens/istio-token", RootFile: "/var/run/secrets/istio/root-cert.pem", PodInfo: "/etc/istio/pod",
		Discovery: "istiod.istio-system.svc:15012", Envoy: "/usr/local/bin/envoy", StatusPort: 15020, DNSAddress: fmt.Sprintf("localhost:%d", dns.Port), TerminationDrain: 5 * time.Second, Environment: env,
	}
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		o.Kind, args = args[0], args[1:]
	}
	flags := flag.NewFlagSet("proxy", flag.ContinueOnError)
	flags.StringVar(&o.Domain, "domain", env["POD_NAMESPACE"]+".svc.cluster.local", "DNS domain of the node")
	flags.StringVar(&o.LogLevel, "proxyLogLevel", "warning", "log level of Envoy")
	flags.StringVar(&o.ComponentLogLevel, "proxyComponentLogLevel", "misc:error", "log levels of Envoy's components")
	flags.IntVar(&o.Concurrency, "concurrency", 0, "worker threads of Envoy; 0 is by the CPU limit")
	meshFile := flags.String("meshConfig", "/etc/istio/config/mesh", "file with the mesh's configuration, of which defaultConfig counts")
	for _, name := range []string{"log_output_level", "serviceCluster", "stsPort", "tokenManagerPlugin", "templateFile", "outlierLogPath"} {
		flags.String(name, "", "accepted for compatibility")
	}
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	var err error
	if o.ProxyConfig, err = proxyConfig(*meshFile, env["PROXY_CONFIG"]); err != nil {
		return o, err
	}
	if o.Config, err = agent.ReadProxyConfig(o.ProxyConfig); err != nil {
		return o, err
	}
	if err := locate(env); err != nil {
		return o, err
	}
	return o, fromEnvironment(&o, env)
}

// proxyConfig is what a file says, where it is there, and over that what the environment does.
func proxyConfig(file, text string) (map[string]any, error) {
	var mesh struct {
		DefaultConfig map[string]any `json:"defaultConfig"`
	}
	content, err := os.ReadFile(file)
	if err == nil {
		err = yaml.Unmarshal(content, &mesh)
	}
	if err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("the mesh's configuration: %w", err)
	}
	out := mesh.DefaultConfig
	if out == nil {
		out = map[string]any{}
	}
	if text != "" {
		if err := json.Unmarshal([]byte(text), &out); err != nil {
			return nil, fmt.Errorf("PROXY_CONFIG: %w", err)
		}
	}
	return out, nil
}

// locate fills in what Kubernetes tells a pod of itself, and no machine outside it is told.
func locate(env map[string]string) error {
	if env["POD_NAME"] == "" {
		name, err := os.Hostname()
		if err != nil {
			return err
		}
		env["POD_NAME"], _, _ = strings.Cut(name, ".")
	}
	if env["INSTANCE_IP"] != "" {
		return nil
	}
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return err
	}
	for _, address := range addresses {
		if network, ok := address.(*net.IPNet); ok && network.IP.IsGlobalUnicast() {
			env["INSTANCE_IP"] = network.IP.String()
			return nil
		}
	}
	return errors.New("this machine has no address by which others could call it; set INSTANCE_IP")
}

func fromEnvironment(o *agent.Options, env map[string]string) error {
	config := o.Config
	if config.DiscoveryAddress != "" {
		o.Discovery = config.DiscoveryAddress
	}
	o.CA = o.Discovery
	if env["CA_ADDR"] != "" {
		o.CA = env["CA_ADDR"]
	}
	if config.Concurrency != nil {
		o.Concurrency = *config.Concurrency
	}
	if o.Concurrency == 0 && env["ISTIO_CPU_LIMIT"] != "" {
		_, _ = fmt.Sscan(env["ISTIO_CPU_LIMIT"], &o.Concurrency)
	}
	if config.StatusPort != 0 {
		o.StatusPort = config.StatusPort
	}
	if env["XDS_ROOT_CA"] != "" {
		o.RootFile = env["XDS_ROOT_CA"]
	}
	if env["DNS_PROXY_ADDR"] != "" {
		o.DNSAddress = env["DNS_PROXY_ADDR"]
	}
	if env["ENVOY_PATH"] != "" {
		o.Envoy = env["ENVOY_PATH"]
	}
	o.NoEnvoy, o.OutputCerts = env["DISABLE_ENVOY"] == "true", env["OUTPUT_CERTS"]
	o.BootstrapOverride, o.AsksBootstrap = env["ISTIO_BOOTSTRAP_OVERRIDE"], env["BOOTSTRAP_XDS_AGENT"] == "true"
	var err error
	if o.Compliance, err = compliance.Parse(env["COMPLIANCE_POLICY"]); err != nil {
		return err
	}
	drain := ""
	if o.ExitWhenIdle = env["EXIT_ON_ZERO_ACTIVE_CONNECTIONS"] == "true"; o.ExitWhenIdle {
		drain = env["MINIMUM_DRAIN_DURATION"] // in the place of the fixed time
	} else if config.TerminationDrainDuration > 0 {
		o.TerminationDrain = time.Duration(config.TerminationDrainDuration)
	}
	trust := env["TRUST_DOMAIN"]
	if trust == "" {
		trust = "cluster.local"
	}
	o.ID = identity.ID{TrustDomain: trust, Namespace: env["POD_NAMESPACE"], Account: env["SERVICE_ACCOUNT"]}
	for _, d := range []struct {
		text string
		into *time.Duration
	}{{env["SECRET_TTL"], &o.CertLifetime}, {drain, &o.TerminationDrain}} {
		if d.text == "" {
			continue
		}
		parsed, err := time.ParseDuration(d.text)
		if err != nil {
			return fmt.Errorf("duration %q: %w", d.text, err)
		}
		*d.into = parsed
	}
	return nil
}

// captureEnvironment are the variables that have a flag's value where the flag is not given.
var captureEnvironment = map[string]string{
	"p": "ENVOY_PORT", "z": "INBOUND_CAPTURE_PORT", "u": "PROXY_UID", "g": "PROXY_GID", "m": "ISTIO_INBOUND_INTERCEPTION_MODE", "b": "ISTIO_INBOUND_PORTS",
	"d": "ISTIO_LOCAL_EXCLUDE_PORTS", "i": "ISTIO_SERVICE_CIDR", "x": "ISTIO_SERVICE_EXCLUDE_CIDR", "q": "ISTIO_OUTBOUND_PORTS", "o": "ISTIO_LOCAL_OUTBOUND_PORTS_EXCLUDE",
	"c": "ISTIO_EXCLUDE_INTERFACES", "t": "ISTIO_INBOUND_TPROXY_MARK", "r": "ISTIO_INBOUND_TPROXY_ROUTE_TABLE", "redirect-dns": "ISTIO_META_DNS_CAPTURE",
	"drop-invalid": "INVALID_DROP", "outbound-owner-groups": "ISTIO_OUTBOUND_OWNER_GROUPS", "outbound-owner-groups-exclude": "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE",
}

func fromCaptureEnvironment(flags *flag.FlagSet) error {
	for name, variable := range captureEnvironment {
		if value := os.Getenv(variable); value != "" {
			if err := flags.Set(name, value); err != nil {
				return fmt.Errorf("%s: %w", variable, err)
			}
		}
	}
	return nil
}
