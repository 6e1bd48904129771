package xds

import (
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // registers the codec that Codec falls back to
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"github.com/slipway-mesh/slipway/internal/discovery/envoy"
)

// response is a delta response whose resources were marshalled before: all streams send the same bytes.
type response struct {
	head      *discovery.DeltaDiscoveryResponse // without resources
	resources []*envoy.Resource
}

// buffers puts the head before the resources. In protobuf the order of fields is free.
func (r *response) buffers() (mem.BufferSlice, error) {
	head, err := proto.Marshal(r.head)
	if err != nil {
		return nil, err
	}
	out := make(mem.BufferSlice, 0, len(r.resources)+1)
	out = append(out, mem.SliceBuffer(head))
	for _, one := range r.resources {
		out = append(out, one.Wire)
	}
	return out, nil
}

// Codec is gRPC's for protobuf; it sends responses without marshalling them again, and reads requests without making much of them. A
// server that offers this service must use it.
type Codec struct{}

// Name is that of the content type.
func (Codec) Name() string { return "proto" }

// Marshal writes a message.
func (Codec) Marshal(v any) (mem.BufferSlice, error) {
	if r, ok := v.(*response); ok {
		return r.buffers()
	}
	return encoding.GetCodecV2("proto").Marshal(v)
}

// Unmarshal reads a message.
func (Codec) Unmarshal(data mem.BufferSlice, v any) error {
	if r, ok := v.(*request); ok {
		return r.unmarshal(data.Materialize())
	}
	return encoding.GetCodecV2("proto").Unmarshal(data, v)
}
