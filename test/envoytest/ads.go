package envoytest

import (
	"net"
	"strconv"
	"sync"
	"testing"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// ADS is a delta ADS server that sends just what a test tells it to: it shows what Envoy makes of it.
type ADS struct {
	discovery.UnimplementedAggregatedDiscoveryServiceServer
	Port int

	mu       sync.Mutex
	stream   discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesServer
	requests []*discovery.DeltaDiscoveryRequest
	nonce    int
}

// NewADS starts a server that ends with the test.
func NewADS(t testing.TB) *ADS {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a := &ADS{Port: listener.Addr().(*net.TCPAddr).Port}
	server := grpc.NewServer()
	discovery.RegisterAggregatedDiscoveryServiceServer(server, a)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return a
}

// DeltaAggregatedResources notes the requests of a stream.
func (a *ADS) DeltaAggregatedResources(stream discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	a.mu.Lock()
	a.stream = stream
	a.mu.Unlock()
	for {
		request, err := stream.Recv()
		if err != nil {
			return err
		}
		a.mu.Lock()
		a.requests = append(a.requests, request)
		a.mu.Unlock()
	}
}

// Connected says whether Envoy has come.
func (a *ADS) Connected() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.requests) > 0
}

// Named is a resource with its name.
type Named struct {
	Name    string
	Message proto.Message
}

// Send sends one response, and returns its nonce.
func (a *ADS) Send(t testing.TB, typeURL string, resources []Named, removed ...string) string {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.nonce++
	response := &discovery.DeltaDiscoveryResponse{TypeUrl: typeURL, Nonce: strconv.Itoa(a.nonce), RemovedResources: removed}
	for _, r := range resources {
		body, err := anypb.New(r.Message)
		if err != nil {
			t.Fatal(err)
		}
		response.Resources = append(response.Resources, &discovery.Resource{Name: r.Name, Version: response.Nonce, Resource: body})
	}
	if err := a.stream.Send(response); err != nil {
		t.Fatal(err)
	}
	return response.Nonce
}

// Answer returns Envoy's answer to a response: acknowledged, or the error. It is nil as long as none has come.
func (a *ADS) Answer(nonce string) *discovery.DeltaDiscoveryRequest {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, r := range a.requests {
		if r.ResponseNonce == nonce {
			return r
		}
	}
	return nil
}

// Subscribed counts the requests of a type that are no answers, and the names that they ask for.
func (a *ADS) Subscribed(typeURL string) (requests int, names []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, r := range a.requests {
		if r.TypeUrl == typeURL && r.ResponseNonce == "" {
			requests++
			names = append(names, r.ResourceNamesSubscribe...)
		}
	}
	return requests, names
}
