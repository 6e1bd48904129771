package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"
)

// bootstrapType is of what the control plane makes of a bootstrap.
const bootstrapType = "type.googleapis.com/envoy.config.bootstrap.v3.Bootstrap"

// patchedBootstrap shows the control plane the bootstrap, and writes what EnvoyFilters make of it where Envoy reads it. It tries again
// until the context ends: without the control plane a proxy would not be ready either.
func (s *secrets) patchedBootstrap(ctx context.Context, own string) (file string, err error) {
	const between = time.Second
	for {
		if file, err = s.askBootstrap(ctx, own); err == nil || ctx.Err() != nil {
			return file, err
		}
		slog.Warn("bootstrap: the control plane does not say what EnvoyFilters make of it; trying again", "error", err)
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(between):
		}
	}
}

func (s *secrets) askBootstrap(ctx context.Context, own string) (file string, err error) {
	const patience = 10 * time.Second
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	node, err := s.options.node(own)
	if err != nil {
		return "", err
	}
	connection, err := s.dial(s.options.Discovery)
	if err != nil {
		return "", err
	}
	defer func() { _ = connection.Close() }()
	stream, err := discovery.NewAggregatedDiscoveryServiceClient(connection).DeltaAggregatedResources(ctx)
	if err != nil {
		return "", err
	}
	if err := stream.Send(&discovery.DeltaDiscoveryRequest{Node: node, TypeUrl: bootstrapType}); err != nil {
		return "", err
	}
	response, err := stream.Recv()
	if err != nil {
		return "", err
	}
	if len(response.Resources) != 1 || response.TypeUrl != bootstrapType {
		return "", fmt.Errorf("it answers with %d resources of type %s", len(response.Resources), response.TypeUrl)
	}
	file = filepath.Join(s.options.ConfigDir, "envoy-rev.pb") // by its ending Envoy knows that it is not text
	return file, os.WriteFile(file, response.Resources[0].GetResource().GetValue(), 0o600)
}

// node says who asks, and with what it would start.
func (o Options) node(bootstrapFile string) (*core.Node, error) {
	text, err := os.ReadFile(bootstrapFile)
	if err != nil {
		return nil, err
	}
	b := o.bootstrap()
	b.Metadata["BOOTSTRAP"] = string(text)
	metadata, err := json.Marshal(b.Metadata)
	if err != nil {
		return nil, err
	}
	out := &core.Node{Id: b.NodeID(), Cluster: b.Service, Metadata: &structpb.Struct{}}
	if err := protojson.Unmarshal(metadata, out.Metadata); err != nil {
		return nil, errors.Join(errors.New("the node's metadata"), err)
	}
	return out, nil
}
