package agent

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/slipway-mesh/slipway/internal/nametable"
	"github.com/slipway-mesh/slipway/internal/sidecar/dns"
)

// namePatience is how long DNS questions wait for the first names: nobody is served by a pod that can never ask for any.
const namePatience = 5 * time.Second

// newNames prepares the DNS proxy; nil where the workload's DNS is not captured.
func newNames(o Options) (*dns.Server, error) {
	if o.Environment["ISTIO_META_DNS_CAPTURE"] != "true" {
		return nil, nil
	}
	namespace := o.Environment["POD_NAMESPACE"]
	server := &dns.Server{Table: &dns.Table{Namespace: namespace, Domain: strings.TrimPrefix(o.Domain, namespace+".svc.")}, Patience: namePatience}
	server.Addresses = []string{o.DNSAddress}
	if host, port, err := net.SplitHostPort(o.DNSAddress); err != nil {
		return nil, err
	} else if host == "localhost" {
		server.Addresses = localAddresses(port)
	}
	for _, ip := range strings.Split(o.Environment["INSTANCE_IP"], ",") {
		six := strings.Contains(ip, ":")
		server.V4, server.V6 = server.V4 || !six, server.V6 || six
	}
	return server, server.FromResolver(dns.ResolverFile)
}

// localAddresses are those of the loopback interface, of the families that there are.
func localAddresses(port string) []string {
	out := []string{net.JoinHostPort("127.0.0.1", port)}
	if probe, err := net.Listen("tcp", "[::1]:0"); err == nil {
		_ = probe.Close()
		out = append(out, net.JoinHostPort("::1", port))
	}
	return out
}

// nameStream adds to a stream of Envoy's the agent's own subscription to names, and keeps what comes for it from Envoy.
type nameStream struct {
	upstream stream
	table    *dns.Table // nil where no names are wanted
	mu       sync.Mutex // of sending
	asked    bool
}

// SendMsg passes a request of Envoy's on. The subscription follows the first, which tells who the node is.
func (n *nameStream) SendMsg(message any) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.upstream.SendMsg(message); err != nil || n.asked || n.table == nil {
		return err
	}
	n.asked = true
	return n.send(&discovery.DeltaDiscoveryRequest{ResourceNamesSubscribe: []string{"*"}, InitialResourceVersions: n.table.Versions()})
}

func (n *nameStream) send(request *discovery.DeltaDiscoveryRequest) error {
	request.TypeUrl = nametable.TypeURL
	bytes, err := proto.Marshal(request)
	if err != nil {
		return err
	}
	return n.upstream.SendMsg(&raw{bytes})
}

// RecvMsg returns the next response that is for Envoy.
func (n *nameStream) RecvMsg(message any) error {
	for {
		if err := n.upstream.RecvMsg(message); err != nil {
			return err
		}
		response, ok := message.(*raw)
		if n.table == nil || !ok || typeURL(response.bytes) != nametable.TypeURL {
			return nil
		}
		if err := n.take(response.bytes); err != nil {
			return err
		}
	}
}

// take updates the table by a response, and acknowledges it.
func (n *nameStream) take(bytes []byte) error {
	response := &discovery.DeltaDiscoveryResponse{}
	if err := proto.Unmarshal(bytes, response); err != nil {
		return err
	}
	changes, err := nameChanges(response)
	request := &discovery.DeltaDiscoveryRequest{ResponseNonce: response.Nonce}
	if err != nil {
		slog.Warn("DNS: names that cannot be read", "error", err)
		request.ErrorDetail = &status.Status{Code: int32(codes.InvalidArgument), Message: err.Error()}
	} else {
		n.table.Update(changes)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.send(request)
}

func nameChanges(response *discovery.DeltaDiscoveryResponse) ([]dns.Change, error) {
	var changes []dns.Change
	for _, name := range response.RemovedResources {
		changes = append(changes, dns.Change{Name: name})
	}
	for _, resource := range response.Resources {
		entries, err := nametable.Unmarshal(resource.GetResource().GetValue())
		if err != nil {
			return nil, err
		}
		for _, entry := range entries {
			changes = append(changes, dns.Change{Name: entry.Host, Version: resource.Version, Entry: &entry})
		}
	}
	return changes, nil
}

// typeURL finds the type of a response, without reading the rest of it.
func typeURL(response []byte) string {
	const field = 4 // of DiscoveryResponse and of DeltaDiscoveryResponse
	for len(response) > 0 {
		number, kind, n := protowire.ConsumeTag(response)
		if n < 0 {
			return ""
		}
		response = response[n:]
		if number == field && kind == protowire.BytesType {
			text, _ := protowire.ConsumeBytes(response)
			return string(text)
		}
		if n = protowire.ConsumeFieldValue(number, kind, response); n < 0 {
			return ""
		}
		response = response[n:]
	}
	return ""
}

// runNames serves DNS until the context ends.
func runNames(ctx context.Context, server *dns.Server) error {
	if server == nil {
		return nil
	}
	return server.Run(ctx)
}

// serveNames shows what names are known, as Istio's agent does.
func serveNames(server *dns.Server) http.HandlerFunc {
	return local(func(w http.ResponseWriter, _ *http.Request) {
		table := map[string]nametable.Entry{}
		if server != nil {
			for _, entry := range server.Table.Entries() {
				table[entry.Host] = entry
			}
		}
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(table); err != nil {
			slog.Debug("names: whoever asked is gone", "error", err)
		}
	})
}
