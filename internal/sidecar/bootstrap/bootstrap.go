// Package bootstrap writes the configuration that an Envoy starts with. It is pure: what the agent knows enters, JSON
// leaves. All else Envoy learns by xDS.
package bootstrap

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"path"
	"strconv"
	"strings"
)

// Options are what a bootstrap is made of.
type Options struct {
	Kind                    string // sidecar or router
	Address, Pod, Namespace string
	Domain                  string // NAMESPACE.svc.cluster.local
	Service                 string // node cluster
	Locality                [3]string
	// FindsPeers asks where the other instances of the workload run: without, Envoy does not choose by zones.
	FindsPeers bool
	// Metadata is the node's; keys are Istio's.
	Metadata map[string]any
	// XDSSocket and SDSSocket are the agent's.
	XDSSocket, SDSSocket string
	AdminPort            int // 15000
	StatusPort           int // 15020, the agent's
	ReadyPort            int // 15021
	PrometheusPort       int // 15090
	Stats                Stats
	// Runtime is laid over Envoy's own runtime values.
	Runtime map[string]any
	// MetricsService and AccessLogService are HOST:PORT of gRPC services; empty is none.
	MetricsService, AccessLogService string
}

// NodeID is TYPE~IP~POD.NAMESPACE~DOMAIN.
func (o Options) NodeID() string {
	return strings.Join([]string{o.Kind, o.Address, o.Pod + "." + o.Namespace, o.Domain}, "~")
}

type object = map[string]any

// JSON writes the bootstrap.
func JSON(o Options) ([]byte, error) {
	clusters := []any{
		tcpCluster("agent", o.StatusPort),
		pipeCluster("sds-grpc", o.SDSSocket), pipeCluster("xds-grpc", o.XDSSocket),
	}
	for _, service := range [][2]string{{metricsService, o.MetricsService}, {"envoy_accesslog_service", o.AccessLogService}} {
		if service[1] == "" {
			continue
		}
		host, port, err := split(service[1])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", service[0], err)
		}
		clusters = append(clusters, namedCluster(service[0], host, port))
	}
	manager := object{}
	if o.FindsPeers {
		manager["local_cluster_name"] = peersName
		clusters = append(clusters, object{"name": peersName, "type": "EDS", "connect_timeout": "1s", "eds_cluster_config": object{"eds_config": adsSource(), "service_name": peersName}})
	}
	runtime := object{"re2.max_program_size.error_level": 32768}
	maps.Copy(runtime, o.Runtime)
	out := object{
		"node": object{
			"id": o.NodeID(), "cluster": o.Service, "metadata": o.Metadata,
			"locality": object{"region": o.Locality[0], "zone": o.Locality[1], "sub_zone": o.Locality[2]},
		},
		"layered_runtime": object{"layers": []any{
			object{"name": "static", "static_layer": runtime},
			object{"name": "admin", "admin_layer": object{}},
		}},
		"stats_config": o.Stats.config(),
		"admin":        object{"address": socket("127.0.0.1", o.AdminPort), "ignore_global_conn_limit": true},
		"dynamic_resources": object{
			"lds_config": adsSource(), "cds_config": adsSource(),
			"ads_config": object{"api_type": "DELTA_GRPC", "set_node_on_first_message_only": true, "transport_api_version": "V3",
				"grpc_services": []any{object{"envoy_grpc": object{"cluster_name": "xds-grpc"}}}},
		},
		"static_resources": object{
			"clusters": clusters,
			"listeners": []any{
				forward("prometheus", o.PrometheusPort, object{"prefix": "/stats/prometheus"}, object{"cluster": "agent", "prefix_rewrite": "/stats/envoy"}, o.Stats.compressors()...),
				forward("agent", o.ReadyPort, object{"prefix": "/healthz/ready"}, object{"cluster": "agent"}),
			},
		},
		"cluster_manager": manager,
		"overload_manager": object{"resource_monitors": []any{object{"name": "envoy.resource_monitors.global_downstream_max_connections",
			"typed_config": object{"@type": "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
				"max_active_downstream_connections": 2147483647}}}},
	}
	if err := o.sinks(out); err != nil {
		return nil, err
	}
	text, err := json.MarshalIndent(out, "", " ")
	if err != nil {
		return nil, fmt.Errorf("write the bootstrap: %w", err)
	}
	return text, nil
}

// peersName is how the control plane calls the workload's own instances.
const peersName = "local_cluster"

func adsSource() object {
	return object{"ads": object{}, "initial_fetch_timeout": "0s", "resource_api_version": "V3"}
}

func socket(ip string, port int) object {
	return object{"socket_address": object{"address": ip, "port_value": port}}
}

func endpointOf(name string, address object) object {
	return object{"cluster_name": name, "endpoints": []any{object{"lb_endpoints": []any{object{"endpoint": object{"address": address}}}}}}
}

func tcpCluster(name string, port int) object {
	return object{"name": name, "type": "STATIC", "connect_timeout": "1s", "load_assignment": endpointOf(name, socket("127.0.0.1", port))}
}

func pipeCluster(name, file string) object {
	return object{
		"name": name, "type": "STATIC", "connect_timeout": "1s", "load_assignment": endpointOf(name, object{"pipe": object{"path": path.Clean(file)}}),
		"typed_extension_protocol_options": http2(),
	}
}

// namedCluster is of a service that is found by its name.
func namedCluster(name, host string, port int) object {
	return object{"name": name, "type": "STRICT_DNS", "dns_lookup_family": "ALL", "connect_timeout": "1s", "load_assignment": endpointOf(name, socket(host, port)),
		"typed_extension_protocol_options": http2()}
}

func split(address string) (host string, port int, err error) {
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, fmt.Errorf("%w; use HOST:PORT", err)
	}
	number, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return "", 0, fmt.Errorf("%s: %q is no port", address, text)
	}
	return host, int(number), nil
}

func http2() object {
	return object{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": object{
		"@type":                "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
		"explicit_http_config": object{"http2_protocol_options": object{}},
	}}
}

// forward opens a port that gives one path of a local cluster.
func forward(name string, port int, match, route object, filters ...any) object {
	return object{
		"name": name + "_listener", "address": socket("0.0.0.0", port),
		"filter_chains": []any{object{"filters": []any{object{
			"name": "envoy.filters.network.http_connection_manager",
			"typed_config": object{
				"@type":       "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
				"stat_prefix": name,
				"route_config": object{"virtual_hosts": []any{object{"name": "backend", "domains": []any{"*"}, "routes": []any{
					object{"match": match, "route": route},
				}}}},
				"http_filters": append(filters, object{"name": "envoy.filters.http.router",
					"typed_config": object{"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}),
			},
		}}}},
	}
}
