//go:build bench

package bench

import (
	"context"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	kind "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/anypb"
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

// registry numbers the resources that clients hold, and the names that they ask for, once for all: thousands hold the same.
type registry struct {
	mu       sync.Mutex
	numbers  map[string]int // by type, name and version
	known    []resource
	versions map[string][]int // the resources of a type and name
	names    map[string]int
	texts    []string
}

// resource is one resource in one version.
type resource struct {
	kind          int // index in types
	name, version string
	follows       []int // names of the next type that it makes a proxy ask for
}

func newRegistry() *registry {
	return &registry{numbers: map[string]int{}, versions: map[string][]int{}, names: map[string]int{}}
}

// nameOf numbers a name. The registry is locked.
func (n *registry) nameOf(text string) int {
	number, ok := n.names[text]
	if !ok {
		number = len(n.texts)
		n.names[text], n.texts = number, append(n.texts, text)
	}
	return number
}

// note numbers a resource, and finds out the first time what it makes a proxy ask for. The registry is locked.
func (n *registry) note(kind int, r wireResource) int {
	key := types[kind] + r.name + "\x00" + r.version
	number, ok := n.numbers[key]
	if !ok {
		number = len(n.known)
		one := resource{kind: kind, name: r.name, version: r.version}
		for _, name := range follows(types[kind], r.value) {
			one.follows = append(one.follows, n.nameOf(name))
		}
		n.numbers[key], n.known = number, append(n.known, one)
		n.versions[types[kind]+r.name] = append(n.versions[types[kind]+r.name], number)
	}
	return number
}

// follows is what a resource makes a proxy ask for: load assignments, route tables, or virtual hosts.
func follows(url string, value []byte) []string {
	body := &anypb.Any{TypeUrl: url, Value: value}
	switch url {
	case clusterType:
		c := &cluster.Cluster{}
		if body.UnmarshalTo(c) == nil && c.GetType() == cluster.Cluster_EDS {
			return []string{c.Name}
		}
	case listenerType:
		l := &listener.Listener{}
		if body.UnmarshalTo(l) == nil {
			return tables(l)
		}
	case routeType:
		table := &route.RouteConfiguration{}
		if body.UnmarshalTo(table) == nil && table.Vhds != nil {
			return []string{""}
		}
	}
	return nil
}

// set is a set of small numbers.
type set []uint64

func (s *set) add(n int) {
	for len(*s) <= n/64 {
		*s = append(*s, 0)
	}
	(*s)[n/64] |= 1 << (n % 64)
}

func (s set) remove(n int) {
	if n/64 < len(s) {
		s[n/64] &^= 1 << (n % 64)
	}
}

func (s set) has(n int) bool { return n/64 < len(s) && s[n/64]&(1<<(n%64)) != 0 }

func (s set) each(visit func(int)) {
	for i, word := range s {
		for ; word != 0; word &= word - 1 {
			visit(i*64 + bits.TrailingZeros64(word))
		}
	}
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
	namespace string
	node      *core.Node
	registry  *registry
	held      set    // numbers of resources
	asked     [5]set // numbers of names, by type
	bytes     atomic.Int64
	messages  atomic.Int64
	last      atomic.Int64 // when the last message came, in nanoseconds
}

func newSidecar(n *registry, i, replicas int) *sidecar {
	c := &sidecar{registry: n, namespace: namespaceOf(i / replicas)}
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

// newRouter is a gateway of the label app: gateway.
func newRouter(n *registry, i int) *sidecar {
	c := newSidecar(n, i, replicas)
	c.node.Id = "router" + strings.TrimPrefix(c.node.Id, "sidecar")
	c.node.Metadata.Fields["LABELS"] = structpb.NewStructValue(&structpb.Struct{Fields: map[string]*structpb.Value{"app": structpb.NewStringValue("gateway")}})
	return c
}

// run connects and follows until the context ends. What is held from before is told, as Envoy does.
func (c *sidecar) run(ctx context.Context, target string, options ...grpc.DialOption) error {
	options = append(options, grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32), grpc.ForceCodecV2(codec{})))
	connection, err := grpc.NewClient(target, options...)
	if err != nil {
		return err
	}
	defer func() { _ = connection.Close() }()
	stream, err := connection.NewStream(ctx, &discovery.AggregatedDiscoveryService_ServiceDesc.Streams[1], discovery.AggregatedDiscoveryService_DeltaAggregatedResources_FullMethodName)
	if err != nil {
		return err
	}
	if err := c.begin(stream); err != nil {
		return err
	}
	for {
		response := &wireResponse{}
		if err := stream.RecvMsg(response); err != nil {
			return err
		}
		if err := c.take(stream, response); err != nil {
			return err
		}
	}
}

// beginning bounds the clients that have first requests in memory: proxies have machines of their own for that.
var beginning = make(chan struct{}, 64)

func (c *sidecar) begin(stream grpc.ClientStream) error {
	beginning <- struct{}{}
	defer func() { <-beginning }()
	for _, request := range c.first() {
		if err := stream.SendMsg(request); err != nil {
			return err
		}
	}
	return nil
}

// first are the requests that begin a stream.
func (c *sidecar) first() []*discovery.DeltaDiscoveryRequest {
	c.registry.mu.Lock()
	defer c.registry.mu.Unlock()
	var held [5]map[string]string
	for k := range held {
		held[k] = map[string]string{}
	}
	c.held.each(func(n int) { r := c.registry.known[n]; held[r.kind][r.name] = r.version })
	var out []*discovery.DeltaDiscoveryRequest
	for k, url := range types {
		request := &discovery.DeltaDiscoveryRequest{TypeUrl: url, Node: c.node, InitialResourceVersions: held[k]}
		asked := false
		c.asked[k].each(func(n int) {
			asked = true
			if name := c.registry.texts[n]; name != "" {
				request.ResourceNamesSubscribe = append(request.ResourceNamesSubscribe, name)
			}
		})
		if asked || url == clusterType || url == listenerType { // of others nothing is asked for yet
			out = append(out, request)
		}
	}
	return out
}

func (c *sidecar) take(stream grpc.ClientStream, response *wireResponse) error {
	c.messages.Add(1)
	c.last.Store(time.Now().UnixNano())
	next := map[string]int{clusterType: 1, listenerType: 3, routeType: 4}
	kind := slices.Index(types, response.url)
	if kind < 0 {
		return fmt.Errorf("a response of type %q", response.url)
	}
	ask, leave := c.keep(kind, next[response.url], response)
	if err := stream.SendMsg(&discovery.DeltaDiscoveryRequest{TypeUrl: response.url, ResponseNonce: response.nonce}); err != nil || len(ask)+len(leave) == 0 {
		return err
	}
	request := &discovery.DeltaDiscoveryRequest{TypeUrl: types[next[response.url]], ResourceNamesSubscribe: ask, ResourceNamesUnsubscribe: leave}
	if len(ask) > 0 && ask[0] == "" { // virtual hosts are asked for once a stream, without names
		request.ResourceNamesSubscribe = nil
	}
	return stream.SendMsg(request)
}

// keep notes what a response brings, and returns what is to be asked for of the next type, and what not any more.
func (c *sidecar) keep(kind, next int, response *wireResponse) (ask, leave []string) {
	n := c.registry
	n.mu.Lock()
	defer n.mu.Unlock()
	forget := func(kind int, name string) {
		for _, version := range n.versions[types[kind]+name] {
			c.held.remove(version)
		}
	}
	drop := func(name string) { forget(kind, name) }
	for _, r := range response.resources {
		c.bytes.Add(int64(len(r.value)))
		number := n.note(kind, r)
		drop(r.name)
		c.held.add(number)
		for _, name := range n.known[number].follows {
			if !c.asked[next].has(name) {
				c.asked[next].add(name)
				ask = append(ask, n.texts[name])
			}
		}
	}
	for _, name := range response.removed {
		drop(name)
		if asked := n.nameOf(name); types[kind] == clusterType && c.asked[next].has(asked) { // its endpoints go with it
			c.asked[next].remove(asked)
			forget(next, name)
			leave = append(leave, name)
		}
	}
	return ask, leave
}

// check sees that the client holds so much of each type.
func (c *sidecar) check(t *testing.T, clusters, hosts int) {
	t.Helper()
	c.registry.mu.Lock()
	defer c.registry.mu.Unlock()
	var count [5]int
	c.held.each(func(n int) { count[c.registry.known[n].kind]++ })
	for kind, least := range []int{clusters, clusters, 1, 1, hosts} {
		if count[kind] < least {
			t.Fatalf("%s holds %d of %s, want %d at least", c.node.Id, count[kind], types[kind], least)
		}
	}
}

// wireResponse is a delta response as far as the clients read it. To decode thousands of full copies would measure the clients.
type wireResponse struct {
	url, nonce string
	resources  []wireResource
	removed    []string
}

type wireResource struct {
	name, version string
	value         []byte
}

// codec writes protobuf and reads responses.
type codec struct{}

func (codec) Name() string { return "proto" }

func (codec) Marshal(v any) (mem.BufferSlice, error) {
	return encoding.GetCodecV2("proto").Marshal(v)
}

func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	r := v.(*wireResponse)
	return fields(data.Materialize(), func(field protowire.Number, value []byte) error {
		switch field { // of DeltaDiscoveryResponse
		case 2:
			one := wireResource{}
			r.resources = append(r.resources, one)
			return r.resources[len(r.resources)-1].read(value)
		case 4:
			r.url = string(value)
		case 5:
			r.nonce = string(value)
		case 6:
			r.removed = append(r.removed, string(value))
		}
		return nil
	})
}

func (w *wireResource) read(data []byte) error {
	return fields(data, func(field protowire.Number, value []byte) error {
		switch field { // of Resource
		case 1:
			w.version = string(value)
		case 2:
			return fields(value, func(field protowire.Number, value []byte) error {
				if field == 2 { // of Any
					w.value = value
				}
				return nil
			})
		case 3:
			w.name = string(value)
		}
		return nil
	})
}

// fields visits the fields of a message that are texts, bytes or messages.
func fields(data []byte, visit func(protowire.Number, []byte) error) error {
	for len(data) > 0 {
		field, kind, n := protowire.ConsumeTag(data)
		if n < 0 {
			return protowire.ParseError(n)
		}
		data = data[n:]
		if n = protowire.ConsumeFieldValue(field, kind, data); n < 0 {
			return protowire.ParseError(n)
		}
		if kind == protowire.BytesType {
			value, _ := protowire.ConsumeBytes(data)
			if err := visit(field, value); err != nil {
				return err
			}
		}
		data = data[n:]
	}
	return nil
}
