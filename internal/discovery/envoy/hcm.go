package envoy

import (
	"time"

	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	cors "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	fault "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	router "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
)

const (
	hcmName = "envoy.filters.network.http_connection_manager"
)

// manager is an HTTP connection manager with what all of them have. The filters' order is Istio's: users see it.
func manager(s side, statPrefix string) *hcm.HttpConnectionManager {
	config := s.config
	m := &hcm.HttpConnectionManager{
		StatPrefix:        statPrefix,
		CodecType:         hcm.HttpConnectionManager_AUTO,
		HttpFilters:       []*hcm.HttpFilter{httpFilter(faultName, &fault.HTTPFault{}), httpFilter("envoy.filters.http.cors", &cors.Cors{}), routerFilter()},
		UpgradeConfigs:    []*hcm.HttpConnectionManager_UpgradeConfig{{UpgradeType: "websocket"}},
		StreamIdleTimeout: durationpb.New(0),
		AccessLog:         s.requestLogs(),
		NormalizePath:     boolean(config.Paths != mesh.PathsNone),
		MergeSlashes:      config.Paths == mesh.PathsMergeSlashes || config.Paths == mesh.PathsDecode,
		UseRemoteAddress:  boolean(false),
		ServerName:        "istio-envoy",
	}
	traced(m, s.watch().Trace)
	if config.Paths == mesh.PathsDecode {
		m.PathWithEscapedSlashesAction = hcm.HttpConnectionManager_UNESCAPE_AND_FORWARD
	}
	return m
}

// guarded puts filters that let requests pass before all others.
func guarded(m *hcm.HttpConnectionManager, guards []*hcm.HttpFilter) *hcm.HttpConnectionManager {
	m.HttpFilters = append(guards, m.HttpFilters...)
	return m
}

func httpFilter(name string, message proto.Message) *hcm.HttpFilter {
	return &hcm.HttpFilter{Name: name, ConfigType: &hcm.HttpFilter_TypedConfig{TypedConfig: pack(message)}}
}

func routerFilter() *hcm.HttpFilter { return httpFilter("envoy.filters.http.router", &router.Router{}) }

func managerFilter(m *hcm.HttpConnectionManager) *listener.Filter {
	return &listener.Filter{Name: hcmName, ConfigType: &listener.Filter_TypedConfig{TypedConfig: pack(m)}}
}

// rds makes the manager fetch the named route table.
func rds(m *hcm.HttpConnectionManager, table string) *hcm.HttpConnectionManager {
	m.RouteSpecifier = &hcm.HttpConnectionManager_Rds{Rds: &hcm.Rds{ConfigSource: ads(), RouteConfigName: table}}
	return m
}

// inline gives the manager its routes.
func inline(m *hcm.HttpConnectionManager, table *route.RouteConfiguration) *hcm.HttpConnectionManager {
	m.RouteSpecifier = &hcm.HttpConnectionManager_RouteConfig{RouteConfig: table}
	return m
}

// detection is how long a sniffing listener waits for a client's first bytes; 0 is for ever.
func detection(config *mesh.Config) *durationpb.Duration {
	return durationpb.New(time.Duration(config.DetectionTimeoutMillis) * time.Millisecond)
}
