package xds

import (
	"strings"

	admin "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/slipway-mesh/slipway/internal/discovery/envoy"
)

// dumpType asks for what a proxy is to hold, in the form in which Envoy itself tells what it holds: istioctl compares the two. The one
// resource name is the proxy's, POD.NAMESPACE or a node ID.
const dumpType = debugPrefix + "config_dump"

func (e *endpoint) answerDump(request *discovery.DiscoveryRequest, caller *Identity, send func(*discovery.DiscoveryResponse) error) error {
	if len(request.ResourceNames) != 1 {
		return status.Errorf(codes.InvalidArgument, "%s takes the name of one proxy, as POD.NAMESPACE", dumpType)
	}
	st := e.streamOf(request.ResourceNames[0])
	if st == nil {
		return status.Errorf(codes.NotFound, "proxy %s is not connected to this replica", request.ResourceNames[0])
	}
	if caller != nil && caller.Namespace != st.proxy.Namespace && caller.Namespace != e.rootNamespace() {
		return status.Errorf(codes.PermissionDenied, "proxies of namespace %s are for those of that and of the root namespace to look at", st.proxy.Namespace)
	}
	dumps, err := dump(st.target.Load())
	if err != nil {
		return status.Error(codes.Internal, err.Error())
	}
	return send(&discovery.DiscoveryResponse{TypeUrl: dumpType, Nonce: "1", ControlPlane: controlPlane, Resources: dumps})
}

func (s *Server) rootNamespace() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.world.Config.RootNamespace
}

// streamOf finds a connected proxy by its node ID, or by its pod's name and namespace.
func (s *Server) streamOf(name string) *stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	for st := range s.streams {
		if parts := strings.Split(st.proxy.ID, "~"); st.proxy.ID == name || len(parts) == 4 && parts[2] == name {
			return st
		}
	}
	return nil
}

// ConfigDump is what a proxy is to hold, for the debug port; nil where no such proxy is connected.
func (s *Server) ConfigDump(name string) (*admin.ConfigDump, error) {
	st := s.streamOf(name)
	if st == nil {
		return nil, nil
	}
	dumps, err := dump(st.target.Load())
	return &admin.ConfigDump{Configs: dumps}, err
}

// dump writes a target: clusters, listeners, route tables with all their virtual hosts, and endpoints. No secrets are in a target.
func dump(t *target) ([]*anypb.Any, error) {
	clusters, listeners, routes, endpoints := &admin.ClustersConfigDump{}, &admin.ListenersConfigDump{}, &admin.RoutesConfigDump{}, &admin.EndpointsConfigDump{}
	each(t.parts[clusterIndex], func(r *envoy.Resource) {
		clusters.DynamicActiveClusters = append(clusters.DynamicActiveClusters, &admin.ClustersConfigDump_DynamicCluster{VersionInfo: r.Version, Cluster: r.Body})
	})
	each(t.parts[listenerIndex], func(r *envoy.Resource) {
		listeners.DynamicListeners = append(listeners.DynamicListeners, &admin.ListenersConfigDump_DynamicListener{Name: r.Name,
			ActiveState: &admin.ListenersConfigDump_DynamicListenerState{VersionInfo: r.Version, Listener: r.Body}})
	})
	var tables []*envoy.Resource
	each(t.parts[routeIndex], func(r *envoy.Resource) { tables = append(tables, r) })
	if t.hostsOf != nil {
		tables = wholeTables(t, tables)
	}
	for _, r := range tables {
		routes.DynamicRouteConfigs = append(routes.DynamicRouteConfigs, &admin.RoutesConfigDump_DynamicRouteConfig{VersionInfo: r.Version, RouteConfig: r.Body})
	}
	each(t.parts[endpointIndex], func(r *envoy.Resource) {
		endpoints.DynamicEndpointConfigs = append(endpoints.DynamicEndpointConfigs, &admin.EndpointsConfigDump_DynamicEndpointConfig{VersionInfo: r.Version, EndpointConfig: r.Body})
	})
	var out []*anypb.Any
	for _, message := range []proto.Message{clusters, listeners, routes, endpoints} {
		packed, err := anypb.New(message)
		if err != nil {
			return nil, err
		}
		out = append(out, packed)
	}
	return out, nil
}
