//go:build bench

package bench

import (
	"context"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	kind "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/structpb"
)

const (
	clusterType  = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
	endpointType = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
	listenerType = "type.googleapis.com/envoy.config.listener.v3.Listener"
	routeType    = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
	hostType     = "type.googleapis.com/envoy.config.route.v3.VirtualHost"
)

// types are in the order in which a proxy asks.
var types = []string{clusterType, endpointType, listenerType, routeType, hostType}

// names gives each name and each version a number, once for all clients: thousands hold the same.
type names struct {
	mu      sync.Mutex
	numbers map[string]uint32
	texts   []string
	follows map[string][]string // what a resource, by type and version, makes a proxy ask for
}

func newNames() *names {
	return &names{numbers: map[string]uint32{}, texts: []string{""}, follows: map[string][]string{}}
}

func (n *names) number(text string) uint32 {
	n.mu.Lock()
	defer n.mu.Unlock()
	if number, ok := n.numbers[text]; ok {
		return number
	}
	n.texts = append(n.texts, text)
	n.numbers[text] = uint32(len(n.texts) - 1)
	return n.numbers[text]
}

func (n *names) text(number uint32) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.texts[number]
}

// followed is what a resource makes a proxy ask for: load assignments, route tables, or virtual hosts.
func (n *names) followed(url string, r *discovery.Resource) []string {
	if url == endpointType || url == hostType {
		return nil
	}
	key := url + r.Name + r.Version
	n.mu.Lock()
	known, ok := n.follows[key]
	n.mu.Unlock()
	if ok {
		return known
	}
	var out []string
	switch url {
	case clusterType:
		c := &cluster.Cluster{}
		if r.Resource.UnmarshalTo(c) == nil && c.GetType() == cluster.Cluster_EDS {
			out = []string{c.Name}
		}
	case listenerType:
		l := &listener.Listener{}
		if r.Resource.UnmarshalTo(l) == nil {
			out = tables(l)
		}
	case routeType:
		table := &route.RouteConfiguration{}
		if r.Resource.UnmarshalTo(table) == nil && table.Vhds != nil {
			out = []string{""}
		}
	}
	n.mu.Lock()
	n.follows[key] = out
	n.mu.Unlock()
	return out
}

func tables(l *listener.Listener) []string {
	var out []string
	chains := l.FilterChains
	if l.DefaultFilterChain != nil {
		chains = append(chains, l.DefaultFilterChain)
	}
	for _, chain := range chains {
		for _, f := range chain.Filters {
			h := &hcm.HttpConnectionManager{}
			if f.GetTypedConfig().MessageIs(h) && f.GetTypedConfig().UnmarshalTo(h) == nil && h.GetRds() != nil {
				out = append(out, h.GetRds().RouteConfigName)
			}
		}
	}
	return out
}

// sidecar is a sidecar's side of delta ADS. It acknowledges everything.
type sidecar struct {
	node     *core.Node
	names    *names
	held     [5]map[uint32]uint32 // versions by name, by type
	asked    [5]map[string]bool
	bytes    atomic.Int64
	messages atomic.Int64
	last     atomic.Int64 // when the last message came, in nanoseconds
	nacks    atomic.Int64
}

func newSidecar(n *names, i, replicas int) *sidecar {
	c := &sidecar{names: n}
	for k := range types {
		c.held[k] = map[uint32]uint32{}
	}
	service, replica := i/replicas, i%replicas
	metadata, _ := structpb.NewStruct(map[string]any{
		"NAMESPACE": namespaceOf(service), "CLUSTER_ID": "Kubernetes", "ISTIO_VERSION": "1.31.0", "INSTANCE_IPS": address(service, replica, replicas), "NAME": podName(service, replica),
		"SERVICE_ACCOUNT": "default", "MESH_ID": "cluster.local", "LABELS": map[string]any{"app": serviceName(service), "security.istio.io/tlsMode": "istio"},
	})
	id := fmt.Sprintf("sidecar~%s~%s.%s~%s.svc.cluster.local", address(service, replica, replicas), podName(service, replica), namespaceOf(service), namespaceOf(service))
	c.node = &core.Node{Id: id, Metadata: metadata, UserAgentName: "envoy",
		UserAgentVersionType: &core.Node_UserAgentBuildVersion{UserAgentBuildVersion: &core.BuildVersion{Version: &kind.SemanticVersion{MajorNumber: 1, MinorNumber: 40}}}}
	return c
}

// run connects and follows until the context ends. What is held from before is told, as Envoy does.
func (c *sidecar) run(ctx context.Context, target string) error {
	connection, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32)))
	if err != nil {
		return err
	}
	defer func() { _ = connection.Close() }()
	stream, err := discovery.NewAggregatedDiscoveryServiceClient(connection).DeltaAggregatedResources(ctx)
	if err != nil {
		return err
	}
	for k, url := range types {
		was := c.asked[k]
		c.asked[k] = map[string]bool{}
		request := &discovery.DeltaDiscoveryRequest{TypeUrl: url, Node: c.node, InitialResourceVersions: map[string]string{}}
		for name, version := range c.held[k] {
			request.InitialResourceVersions[c.names.text(name)] = c.names.text(version)
		}
		for name := range was {
			c.asked[k][name] = true
			if name != "" {
				request.ResourceNamesSubscribe = append(request.ResourceNamesSubscribe, name)
			}
		}
		if url != clusterType && url != listenerType && len(was) == 0 {
			continue // nothing is asked for yet
		}
		if err := stream.Send(request); err != nil {
			return err
		}
	}
	for {
		response, err := stream.Recv()
		if err != nil {
			return err
		}
		if err := c.take(stream, response); err != nil {
			return err
		}
	}
}

func (c *sidecar) take(stream discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesClient, response *discovery.DeltaDiscoveryResponse) error {
	c.messages.Add(1)
	c.last.Store(time.Now().UnixNano())
	k := 0
	for types[k] != response.TypeUrl {
		k++
	}
	next := map[string]int{clusterType: 1, listenerType: 3, routeType: 4}
	var ask []string
	for _, r := range response.Resources {
		c.bytes.Add(int64(len(r.Resource.GetValue())))
		c.held[k][c.names.number(r.Name)] = c.names.number(r.Version)
		for _, name := range c.names.followed(response.TypeUrl, r) {
			if to := next[response.TypeUrl]; !c.asked[to][name] {
				c.asked[to][name] = true
				ask = append(ask, name)
			}
		}
	}
	for _, name := range response.RemovedResources {
		delete(c.held[k], c.names.number(name))
	}
	if err := stream.Send(&discovery.DeltaDiscoveryRequest{TypeUrl: response.TypeUrl, ResponseNonce: response.Nonce}); err != nil {
		return err
	}
	if len(ask) == 0 {
		return nil
	}
	request := &discovery.DeltaDiscoveryRequest{TypeUrl: types[next[response.TypeUrl]], ResourceNamesSubscribe: ask}
	if ask[0] == "" { // virtual hosts are asked for once a stream, without names
		request.ResourceNamesSubscribe = nil
	}
	return stream.Send(request)
}
