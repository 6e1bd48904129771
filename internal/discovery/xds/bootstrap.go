package xds

import (
	"strconv"

	bootstrap "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/slipway-mesh/slipway/internal/discovery/envoy"
)

// bootstrapKey is the node's metadata by which an agent shows the bootstrap that it would start its Envoy with, as JSON.
const bootstrapKey = "BOOTSTRAP"

// handleBootstrap answers with the agent's own bootstrap and what EnvoyFilters say of it. It is asked for once, before Envoy starts.
func (s *stream) handleBootstrap(request *request) error {
	if request.ResponseNonce != "" {
		return nil
	}
	b := &bootstrap.Bootstrap{}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal([]byte(s.proxy.Metadata[bootstrapKey]), b); err != nil {
		return status.Errorf(codes.InvalidArgument, "node metadata %s is to be the proxy's own bootstrap: %v", bootstrapKey, err)
	}
	s.target.Load().patches.Bootstrap(b)
	s.nonce++
	return s.send(&response{head: &discovery.DeltaDiscoveryResponse{TypeUrl: envoy.BootstrapType, Nonce: strconv.FormatUint(s.nonce, 10), ControlPlane: controlPlane},
		resources: []*envoy.Resource{envoy.NewResource("bootstrap", b)}})
}
