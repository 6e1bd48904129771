// Package bootstrap writes the configuration that an Envoy starts with. It is pure: what the agent knows enters, JSON
// leaves. All else Envoy learns by xDS.
package bootstrap

import (
	"encoding/json"
	"fmt"
	"path"
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
	// Stats are further statistics to keep.
	Stats Stats
}

// Stats says which statistics are kept, by parts of their names.
type Stats struct{ Prefixes, Suffixes, Regexps []string }

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
	manager := object{}
	if o.FindsPeers {
		manager["local_cluster_name"] = peersName
		clusters = append(clusters, object{"name": peersName, "type": "EDS", "connect_timeout": "1s", "eds_cluster_config": object{"eds_config": adsSource(), "service_name": peersName}})
	}
	text, err := json.MarshalIndent(object{
		"node": object{
			"id": o.NodeID(), "cluster": o.Service, "metadata": o.Metadata,
			"locality": object{"region": o.Locality[0], "zone": o.Locality[1], "sub_zone": o.Locality[2]},
		},
		"layered_runtime": object{"layers": []any{
			object{"name": "static", "static_layer": object{"re2.max_program_size.error_level": 32768}},
			object{"name": "admin", "admin_layer": object{}},
		}},
		"stats_config": statsConfig(o.Stats),
		"admin":        object{"address": socket("127.0.0.1", o.AdminPort), "ignore_global_conn_limit": true},
		"dynamic_resources": object{
			"lds_config": adsSource(), "cds_config": adsSource(),
			"ads_config": object{"api_type": "DELTA_GRPC", "set_node_on_first_message_only": true, "transport_api_version": "V3",
				"grpc_services": []any{object{"envoy_grpc": object{"cluster_name": "xds-grpc"}}}},
		},
		"static_resources": object{
			"clusters": clusters,
			"listeners": []any{
				forward("prometheus", o.PrometheusPort, object{"prefix": "/stats/prometheus"}, object{"cluster": "agent", "prefix_rewrite": "/stats/envoy"}),
				forward("agent", o.ReadyPort, object{"prefix": "/healthz/ready"}, object{"cluster": "agent"}),
			},
		},
		"cluster_manager": manager,
		"overload_manager": object{"resource_monitors": []any{object{"name": "envoy.resource_monitors.global_downstream_max_connections",
			"typed_config": object{"@type": "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
				"max_active_downstream_connections": 2147483647}}}},
	}, "", " ")
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
		"typed_extension_protocol_options": object{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": object{
			"@type":                "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
			"explicit_http_config": object{"http2_protocol_options": object{}},
		}},
	}
}

// forward opens a port that gives one path of a local cluster.
func forward(name string, port int, match, route object) object {
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
				"http_filters": []any{object{"name": "envoy.filters.http.router",
					"typed_config": object{"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}},
			},
		}}}},
	}
}

// statsConfig keeps what the mesh's tools read: a thousand services have a thousand times Envoy's own cluster statistics.
func statsConfig(more Stats) object {
	var patterns []any
	for _, prefix := range []string{"slipway.", "reporter=", "cluster_manager", "listener_manager", "http_mixer_filter", "tcp_mixer_filter", "server", "cluster.xds-grpc", "http.inbound_", "http.outbound_", "tcp.", "vhost.", "istio"} {
		patterns = append(patterns, object{"prefix": prefix})
	}
	for _, suffix := range []string{"ssl_context_update_by_sds", "update_rejected", "ssl.handshake", "ssl.fail_verify_san"} {
		patterns = append(patterns, object{"suffix": suffix})
	}
	for kind, list := range map[string][]string{"prefix": more.Prefixes, "suffix": more.Suffixes} {
		for _, text := range list {
			patterns = append(patterns, object{kind: text})
		}
	}
	for _, text := range more.Regexps {
		patterns = append(patterns, object{"safe_regex": object{"regex": text}})
	}
	return object{"use_all_default_tags": false, "stats_matcher": object{"inclusion_list": object{"patterns": patterns}}}
}
