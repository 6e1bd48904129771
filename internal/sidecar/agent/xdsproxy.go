package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"os"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"

	"github.com/slipway-mesh/slipway/internal/sidecar/dns"
)

// bufferSize is of each connection's buffers, in bytes: an agent is in every pod, and has little to say.
const bufferSize = 8 << 10

// serveXDS carries each of Envoy's streams to the control plane over a connection of its own, byte for byte: the agent reads nothing
// of it but the names that it asks for itself, and says what it knows of the workload. When either side ends, so does the other, and Envoy starts anew.
func serveXDS(ctx context.Context, s *secrets, names *dns.Server, h *healthState) error {
	o := s.options
	listener, err := listenUnix(o.xdsSocket())
	if err != nil {
		return err
	}
	if o.NoEnvoy { // applications may be of any user
		if err := os.Chmod(o.xdsSocket(), 0o666); err != nil { //nolint:gosec // the folder is this pod's alone
			return err
		}
	}
	server := grpc.NewServer(grpc.ForceServerCodecV2(rawCodec{}), grpc.MaxRecvMsgSize(math.MaxInt32), grpc.ReadBufferSize(bufferSize), grpc.WriteBufferSize(bufferSize),
		grpc.UnknownServiceHandler(func(_ any, downstream grpc.ServerStream) error { return carry(s, names, h, downstream) }))
	return serveUntil(ctx, server, listener)
}

func serveUntil(ctx context.Context, server *grpc.Server, listener net.Listener) error {
	stop := context.AfterFunc(ctx, server.Stop)
	defer stop()
	if err := server.Serve(listener); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return err
	}
	return nil
}

func listenUnix(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	return net.Listen("unix", path)
}

func carry(s *secrets, names *dns.Server, h *healthState, downstream grpc.ServerStream) error {
	o := s.options
	method, ok := grpc.MethodFromServerStream(downstream)
	if !ok {
		return errors.New("the stream has no method")
	}
	connection, err := s.dial(o.Discovery, grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rawCodec{}), grpc.MaxCallRecvMsgSize(math.MaxInt32)))
	if err != nil {
		slog.Warn("xDS: cannot connect", "address", o.Discovery, "error", err)
		return err
	}
	defer func() { _ = connection.Close() }()
	ctx := metadata.AppendToOutgoingContext(downstream.Context(), "ClusterID", o.Environment["ISTIO_META_CLUSTER_ID"])
	upstream, err := connection.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
	if err != nil {
		slog.Warn("xDS: cannot connect", "address", o.Discovery, "error", err)
		return err
	}
	tapped := &tappedStream{ctx: upstream.Context(), ownStream: ownStream{upstream: upstream}}
	if strings.HasSuffix(method, "/DeltaAggregatedResources") {
		tapped.health, tapped.roots.secrets = h, s
		if names != nil {
			tapped.table = names.Table
		}
	}
	defer h.leave(&tapped.ownStream)
	ended := make(chan error, 2)
	go func() { ended <- pump(downstream, tapped) }()
	go func() { ended <- pump(tapped, downstream) }()
	if err := <-ended; err != nil && !errors.Is(err, io.EOF) {
		slog.Warn("xDS: stream ended", "error", err)
		return err
	}
	return nil
}

type stream interface {
	SendMsg(any) error
	RecvMsg(any) error
}

func pump(from, to stream) error {
	for {
		var message raw
		if err := from.RecvMsg(&message); err != nil {
			return err
		}
		if err := to.SendMsg(&message); err != nil {
			return err
		}
	}
}

// raw is a message that nobody has read.
type raw struct{ bytes []byte }

// rawCodec passes messages on as they are.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	message, ok := v.(*raw)
	if !ok {
		return nil, fmt.Errorf("cannot send a %T", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(message.bytes)}, nil
}

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	message, ok := v.(*raw)
	if !ok {
		return fmt.Errorf("cannot receive a %T", v)
	}
	message.bytes = data.Materialize()
	return nil
}
