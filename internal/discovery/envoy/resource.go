// Package envoy turns the mesh's decisions into Envoy resources. It is pure: the same decision makes the same bytes on
// every replica. Envoy types begin here; it must not know the World, a client or a stream.
package envoy

import (
	"crypto/sha256"
	"encoding/hex"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// The type URLs of the resources that are served.
const (
	ClusterType     = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
	EndpointType    = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
	ListenerType    = "type.googleapis.com/envoy.config.listener.v3.Listener"
	RouteType       = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
	VirtualHostType = "type.googleapis.com/envoy.config.route.v3.VirtualHost"
	// BootstrapType is of what a proxy starts with. Agents ask for it that are told to.
	BootstrapType = "type.googleapis.com/envoy.config.bootstrap.v3.Bootstrap"
	// ExtensionType is of filters' configurations that stand by themselves, as EnvoyFilters add them.
	ExtensionType = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig"
)

// Resource is one resource, marshalled once. Its version is the hash of its bytes, so that equal content has an equal
// version on every replica.
type Resource struct {
	Name    string
	Version string
	Body    *anypb.Any
	// Patched is the path of the EnvoyFilter that changed it last; empty if none did.
	Patched string
	// Wire is the resource as it stands in a delta response, its tag before it. Body's value is a part of these bytes.
	Wire mem.Buffer
}

// NewResource marshals a message. Marshalling fails only for invalid UTF-8, which resolve does not let through.
func NewResource(name string, message proto.Message) *Resource {
	return seal(name, pack(message))
}

func seal(name string, body *anypb.Any) *Resource {
	sum := sha256.Sum256(body.Value)
	r := &Resource{Name: name, Version: hex.EncodeToString(sum[:8])}
	wire, value := deltaResource(r, body)
	r.Wire, r.Body = mem.SliceBuffer(wire), &anypb.Any{TypeUrl: body.TypeUrl, Value: value}
	return r
}

// deltaResource writes field "resources" of a DeltaDiscoveryResponse, and says which part of it is the body's value.
// https://github.com/envoyproxy/envoy/blob/main/api/envoy/service/discovery/v3/discovery.proto
func deltaResource(r *Resource, body *anypb.Any) (wire, value []byte) {
	const resources, version, resource, name = 2, 1, 2, 3 // fields of DeltaDiscoveryResponse, and of its Resource
	const typeURL, contents = 1, 2                        // of Any
	str := func(field protowire.Number, text string) int {
		return protowire.SizeTag(field) + protowire.SizeBytes(len(text))
	}
	packed := str(typeURL, body.TypeUrl) + protowire.SizeTag(contents) + protowire.SizeBytes(len(body.Value))
	size := str(version, r.Version) + protowire.SizeTag(resource) + protowire.SizeBytes(packed) + str(name, r.Name)
	wire = make([]byte, 0, protowire.SizeTag(resources)+protowire.SizeBytes(size))
	wire = protowire.AppendVarint(protowire.AppendTag(wire, resources, protowire.BytesType), uint64(size))
	wire = protowire.AppendString(protowire.AppendTag(wire, version, protowire.BytesType), r.Version)
	wire = protowire.AppendString(protowire.AppendTag(wire, name, protowire.BytesType), r.Name)
	wire = protowire.AppendVarint(protowire.AppendTag(wire, resource, protowire.BytesType), uint64(packed))
	wire = protowire.AppendString(protowire.AppendTag(wire, typeURL, protowire.BytesType), body.TypeUrl)
	wire = protowire.AppendBytes(protowire.AppendTag(wire, contents, protowire.BytesType), body.Value)
	return wire, wire[len(wire)-len(body.Value):]
}

// pack is anypb.New with a fixed order of map entries.
func pack(message proto.Message) *anypb.Any {
	value, err := proto.MarshalOptions{Deterministic: true}.Marshal(message)
	if err != nil {
		panic("marshal " + string(message.ProtoReflect().Descriptor().FullName()) + ": " + err.Error())
	}
	return &anypb.Any{TypeUrl: "type.googleapis.com/" + string(message.ProtoReflect().Descriptor().FullName()), Value: value}
}
