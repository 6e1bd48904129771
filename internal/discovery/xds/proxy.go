// Package xds speaks the xDS protocol: it keeps for each kind of proxy what it is to be sent, and for each stream what it
// has been sent. A World enters; responses leave. It must not know Kubernetes.
package xds

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
)

// vhdsVersions are the Envoy minor versions of 1.x with which routes by virtual host were tried.
var vhdsVersions = map[uint32]bool{40: true}

// optOut is the node metadata that asks for whole route tables.
const optOut = "DISABLE_VHDS"

// parseNode reads a node: TYPE~IP~POD.NAMESPACE~DOMAIN, with Istio's metadata.
func parseNode(node *core.Node, delta bool) (*mesh.Proxy, error) {
	if node == nil {
		return nil, errors.New("the first request has no node")
	}
	parts := strings.Split(node.Id, "~")
	if len(parts) != 4 {
		return nil, fmt.Errorf("node ID %q is not TYPE~IP~POD.NAMESPACE~DOMAIN", node.Id)
	}
	name, namespace, ok := cutLast(parts[2])
	meta := node.GetMetadata().GetFields()
	if own := text(meta, "NAMESPACE"); own != "" {
		namespace, ok = own, true
		name = strings.TrimSuffix(parts[2], "."+own)
	}
	if !ok || namespace == "" {
		return nil, fmt.Errorf("node ID %q names no namespace", node.Id)
	}
	p := &mesh.Proxy{
		ID: node.Id, Kind: mesh.ProxyKind(parts[0]), Namespace: namespace, Name: name, Addresses: []string{parts[1]},
		Account: text(meta, "SERVICE_ACCOUNT"), Labels: labels(meta["LABELS"]), Cluster: text(meta, "CLUSTER_ID"), Network: text(meta, "NETWORK"),
		Node: text(meta, "NODE_NAME"), Version: text(meta, "ISTIO_VERSION"), Capture: text(meta, "INTERCEPTION_MODE"),
		Unprivileged: text(meta, "UNPRIVILEGED_POD") == "true",
		Locality:     mesh.Locality{Region: node.GetLocality().GetRegion(), Zone: node.GetLocality().GetZone(), SubZone: node.GetLocality().GetSubZone()},
	}
	if p.Kind != mesh.SidecarProxy && p.Kind != mesh.Router {
		return nil, fmt.Errorf("node ID %q: proxies of type %q are not served; use sidecar or router", node.Id, parts[0])
	}
	if ips := text(meta, "INSTANCE_IPS"); ips != "" {
		p.Addresses = strings.Split(ips, ",")
	}
	p.Metadata = texts(meta)
	own := meta["PROXY_CONFIG"].GetStructValue().GetFields()
	p.TellsHealth, p.Settings = own["readinessProbe"] != nil, settings(own)
	version := node.GetUserAgentBuildVersion().GetVersion()
	if p.Flavour = flavour(node); text(meta, "GENERATOR") == "grpc" {
		p.Flavour = mesh.Proxyless
	}
	if p.Flavour == mesh.Proxyless && delta {
		return nil, fmt.Errorf("node ID %q: gRPC applications are served by state-of-the-world ADS, and not by delta", node.Id)
	}
	p.Build = fmt.Sprintf("%d.%d.%d", version.GetMajorNumber(), version.GetMinorNumber(), version.GetPatch())
	p.VHDS = delta && node.UserAgentName == "envoy" && version.GetMajorNumber() == 1 && vhdsVersions[version.GetMinorNumber()] && text(meta, optOut) != "true"
	return p, nil
}

// settings are the fields of a ProxyConfig that mesh.ParseSettings reads, in an order of their own.
func settings(fields map[string]*structpb.Value) string {
	out := map[string]any{}
	for _, name := range []string{"gatewayTopology", "proxyHeaders"} {
		if value, there := fields[name]; there {
			out[name] = value.AsInterface()
		}
	}
	text, err := json.Marshal(out)
	if err != nil || len(out) == 0 {
		return ""
	}
	return string(text)
}

// flavour is told by the filters that the proxy says it was built with.
func flavour(node *core.Node) mesh.Flavour {
	for _, extension := range node.Extensions {
		if extension.Name == "istio.alpn" {
			return mesh.IstioProxy
		}
	}
	return mesh.Stock
}

func cutLast(s string) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, '.')
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}

func text(fields map[string]*structpb.Value, name string) string {
	return fields[name].GetStringValue()
}

// texts are the fields that are texts.
func texts(fields map[string]*structpb.Value) map[string]string {
	out := map[string]string{}
	for name, value := range fields {
		if v, ok := value.GetKind().(*structpb.Value_StringValue); ok {
			out[name] = v.StringValue
		}
	}
	return out
}

func labels(v *structpb.Value) map[string]string {
	out := map[string]string{}
	for name, value := range v.GetStructValue().GetFields() {
		out[name] = value.GetStringValue()
	}
	return out
}
