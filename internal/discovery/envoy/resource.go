// Package envoy turns the mesh's decisions into Envoy resources. It is pure: the same decision makes the same bytes on
// every replica. Envoy types begin here; it must not know the World, a client or a stream.
package envoy

import (
	"crypto/sha256"
	"encoding/hex"

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
)

// Resource is one resource, marshalled once. Its version is the hash of its bytes, so that equal content has an equal
// version on every replica.
type Resource struct {
	Name    string
	Version string
	Body    *anypb.Any
}

// NewResource marshals a message. Marshalling fails only for invalid UTF-8, which resolve does not let through.
func NewResource(name string, message proto.Message) *Resource {
	return seal(name, pack(message))
}

func seal(name string, body *anypb.Any) *Resource {
	sum := sha256.Sum256(body.Value)
	return &Resource{Name: name, Version: hex.EncodeToString(sum[:8]), Body: body}
}

// pack is anypb.New with a fixed order of map entries.
func pack(message proto.Message) *anypb.Any {
	value, err := proto.MarshalOptions{Deterministic: true}.Marshal(message)
	if err != nil {
		panic("marshal " + string(message.ProtoReflect().Descriptor().FullName()) + ": " + err.Error())
	}
	return &anypb.Any{TypeUrl: "type.googleapis.com/" + string(message.ProtoReflect().Descriptor().FullName()), Value: value}
}
