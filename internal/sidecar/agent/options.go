// Package agent runs beside Envoy: it gets the workload's certificate, serves it to Envoy, carries Envoy's xDS to the
// control plane, starts and drains Envoy, and says whether the proxy is ready. It must not know what the resources mean.
package agent

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/slipway-mesh/slipway/internal/compliance"
	"github.com/slipway-mesh/slipway/internal/identity"
	"github.com/slipway-mesh/slipway/internal/sidecar/bootstrap"
)

// Options is all that the agent is told, by flags and environment.
type Options struct {
	Kind              string // sidecar or router
	Domain            string
	ConfigDir         string // where the bootstrap and the xDS socket are
	SDSSocket         string
	Served            bool   // by another server than the agent, at that socket
	MountedCerts      string // folder of a certificate in the place of the authority's, if there are files in it
	TokenFile         string
	RootFile          string // trusts the control plane
	Discovery         string // address of xDS
	CA                string // address of the authority
	Envoy             string // path of the binary
	Concurrency       int    // 0 is one for each core
	LogLevel          string
	ComponentLogLevel string
	StatusPort        int
	DNSAddress        string // of the DNS proxy
	ID                identity.ID
	CertLifetime      time.Duration
	TerminationDrain  time.Duration
	ExitWhenIdle      bool              // the end is put off after TerminationDrain until no connection is open
	Environment       map[string]string // ISTIO_META_* and the downward API's
	ProxyConfig       map[string]any    // as Istio's ProxyConfig
	Config            ProxyConfig       // what of it the agent follows
	AsksBootstrap     bool              // the control plane is asked what EnvoyFilters make of the bootstrap
	BootstrapOverride string            // a file that is laid over the bootstrap; empty is none
	Compliance        compliance.Policy // that TLS to the control plane keeps to
	PodInfo           string            // folder with labels and annotations
	NoEnvoy           bool              // the application is a client of xDS itself
	OutputCerts       string            // folder for the certificate's files; empty keeps it in memory
}

// metadata builds the node's metadata from the environment, as Istio's agent does: ISTIO_META_X is X.
func (o Options) metadata() map[string]any {
	out := map[string]any{}
	for name, value := range o.Environment {
		if key, ok := strings.CutPrefix(name, "ISTIO_META_"); ok {
			out[key] = value
		}
		if key, ok := strings.CutPrefix(name, "ISTIO_METAJSON_"); ok {
			var parsed any
			if json.Unmarshal([]byte(value), &parsed) == nil {
				out[key] = parsed
			}
		}
	}
	out["NAME"], out["NAMESPACE"] = o.Environment["POD_NAME"], o.Environment["POD_NAMESPACE"]
	out["SERVICE_ACCOUNT"], out["INSTANCE_IPS"] = o.Environment["SERVICE_ACCOUNT"], o.Environment["INSTANCE_IP"]
	labels, _ := readDownward(filepath.Join(o.PodInfo, "labels"))
	delete(labels, "pod-template-hash")
	if _, told := out["LABELS"]; !told || len(labels) > 0 { // outside Kubernetes the environment tells
		out["LABELS"] = labels
	}
	if o.findsPeers() {
		out["ENABLE_SELF_DISCOVERY"] = "true"
	}
	if len(o.ProxyConfig) > 0 {
		out["PROXY_CONFIG"] = o.ProxyConfig
	}
	return out
}

// readDownward reads a file of the downward API: NAME="VALUE" a line.
func readDownward(file string) (map[string]string, error) {
	out := map[string]string{}
	text, err := os.ReadFile(file)
	if err != nil {
		return out, err
	}
	for _, line := range strings.Split(string(text), "\n") {
		name, quoted, ok := strings.Cut(line, "=")
		if !ok {
			continue
		}
		var value string
		if json.Unmarshal([]byte(quoted), &value) != nil {
			value = strings.Trim(quoted, `"`)
		}
		out[name] = value
	}
	return out, nil
}

// Bootstrap is what Envoy starts with, as JSON.
func (o Options) Bootstrap() ([]byte, error) { return bootstrap.JSON(o.bootstrap()) }

func (o Options) bootstrap() bootstrap.Options {
	return bootstrap.Options{
		Kind: o.Kind, Address: o.Environment["INSTANCE_IP"], Pod: o.Environment["POD_NAME"], Namespace: o.Environment["POD_NAMESPACE"],
		Domain: o.Domain, Service: o.service(), Locality: o.locality(), FindsPeers: o.findsPeers(), Metadata: o.metadata(), XDSSocket: o.xdsSocket(), SDSSocket: o.SDSSocket,
		Stats: o.stats(), Runtime: o.Config.runtime(), MetricsService: o.Config.EnvoyMetricsService.Address, AccessLogService: o.Config.EnvoyAccessLogService.Address, AdminPort: adminPort, StatusPort: o.StatusPort, ReadyPort: 15021, PrometheusPort: 15090,
	}
}

// findsPeers is what proxyMetadata says, by Istio's name with or without its beginning.
func (o Options) findsPeers() bool {
	return o.Environment["ENABLE_SELF_DISCOVERY"] == "true" || o.Environment["ISTIO_META_ENABLE_SELF_DISCOVERY"] == "true"
}

// locality is where the pod runs, by its labels: those that Kubernetes copies from the node, or Istio's own, REGION.ZONE.SUBZONE, which
// comes first. Where no label tells, the control plane still knows by the node.
func (o Options) locality() [3]string {
	labels, _ := readDownward(filepath.Join(o.PodInfo, "labels"))
	if own := labels["istio-locality"]; own != "" {
		var out [3]string
		copy(out[:], strings.SplitN(own, ".", 3))
		return out
	}
	return [3]string{labels["topology.kubernetes.io/region"], labels["topology.kubernetes.io/zone"], labels["topology.istio.io/subzone"]}
}

// workload is what telemetry calls this pod's workload by.
func (o Options) workload() identity.Workload {
	labels, _ := readDownward(filepath.Join(o.PodInfo, "labels"))
	first := func(values ...string) string {
		for _, value := range values {
			if value != "" {
				return value
			}
		}
		return ""
	}
	name := o.Environment["ISTIO_META_WORKLOAD_NAME"]
	out := identity.Workload{
		Name:     name,
		Service:  first(labels["service.istio.io/canonical-name"], labels["app.kubernetes.io/name"], labels["app"], name),
		Revision: first(labels["service.istio.io/canonical-revision"], labels["app.kubernetes.io/version"], labels["version"], "latest"),
	}
	if labels["app"] != out.Service {
		out.App = labels["app"]
	}
	if labels["version"] != out.Revision {
		out.Version = labels["version"]
	}
	return out
}

// described are the variables by which Envoy's spans tell of the workload. Spans of OpenTelemetry have the name of the service in them.
func (o Options) described() []string {
	w := o.workload()
	mesh, cluster := o.Environment["ISTIO_META_MESH_ID"], o.Environment["ISTIO_META_CLUSTER_ID"]
	if mesh == "" {
		mesh = o.ID.TrustDomain
	}
	if cluster == "" {
		cluster = "Kubernetes"
	}
	return []string{"CANONICAL_SERVICE=" + w.Service, "CANONICAL_REVISION=" + w.Revision, "POD_NAMESPACE=" + o.Environment["POD_NAMESPACE"], "MESH_ID=" + mesh, "CLUSTER_ID=" + cluster,
		"OTEL_RESOURCE_ATTRIBUTES=service.name=" + o.service()}
}

// service is the node's cluster: APP.NAMESPACE, or the workload's name.
func (o Options) service() string {
	labels, _ := readDownward(filepath.Join(o.PodInfo, "labels"))
	for _, name := range []string{labels["app"], o.Environment["ISTIO_META_WORKLOAD_NAME"], "istio-proxy"} {
		if name != "" {
			return name + "." + o.Environment["POD_NAMESPACE"]
		}
	}
	return ""
}

func (o Options) xdsSocket() string { return filepath.Join(o.ConfigDir, "XDS") }

const adminPort = 15000

// Check says what is missing to start.
func (o Options) Check() error {
	for name, value := range map[string]string{"POD_NAME": o.Environment["POD_NAME"], "POD_NAMESPACE": o.Environment["POD_NAMESPACE"], "INSTANCE_IP": o.Environment["INSTANCE_IP"]} {
		if value == "" {
			return fmt.Errorf("environment variable %s is not set: the pod was not injected as it should be", name)
		}
	}
	return nil
}
