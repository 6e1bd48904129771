package agent

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/slipway-mesh/slipway/internal/nametable"
	"github.com/slipway-mesh/slipway/internal/sidecar/dns"
	"github.com/slipway-mesh/slipway/internal/trustbundle"
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

// tappedStream adds to a stream of Envoy's the agent's own subscriptions to names and roots and what it tells of the workload, and keeps
// what comes for the agent from Envoy.
type tappedStream struct {
	ownStream
	ctx    context.Context //nolint:containedctx // of the stream, whose methods have none
	table  *dns.Table      // nil where no names are wanted
	health *healthState    // nil where nobody asks
	roots  rootsTap
	begun  bool
}

// SendMsg passes a request of Envoy's on. The agent's own follow the first, which tells who the node is.
func (n *tappedStream) SendMsg(message any) error {
	if err := n.pass(message); err != nil || n.begun {
		return err
	}
	n.begun = true
	if n.table != nil {
		if err := n.send(nametable.TypeURL, &discovery.DeltaDiscoveryRequest{ResourceNamesSubscribe: []string{"*"}, InitialResourceVersions: n.table.Versions()}); err != nil {
			return err
		}
	}
	if n.roots.secrets != nil {
		if err := n.send(trustbundle.TypeURL, &discovery.DeltaDiscoveryRequest{ResourceNamesSubscribe: []string{"*"}, InitialResourceVersions: n.roots.secrets.followed()}); err != nil {
			return err
		}
	}
	return n.health.follow(&n.ownStream)
}

// RecvMsg returns the next response that is for Envoy.
func (n *tappedStream) RecvMsg(message any) error {
	for {
		if err := n.upstream.RecvMsg(message); err != nil {
			return err
		}
		response, ok := message.(*raw)
		if !ok {
			return nil
		}
		var err error
		switch kind := typeURL(response.bytes); {
		case n.table != nil && kind == nametable.TypeURL:
			err = n.take(response.bytes)
		case n.roots.secrets != nil && kind == trustbundle.TypeURL:
			err = n.roots.take(n.ctx, response.bytes, func(answer *discovery.DeltaDiscoveryRequest) error { return n.send(trustbundle.TypeURL, answer) })
		default:
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// take updates the table by a response, and acknowledges it.
func (n *tappedStream) take(bytes []byte) error {
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
	return n.send(nametable.TypeURL, request)
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
