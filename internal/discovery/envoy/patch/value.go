package patch

import (
	"fmt"

	bootstrap "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	networking "istio.io/api/networking/v1alpha3"
)

// empty makes the message that a patch's value is of.
func empty(to networking.EnvoyFilter_ApplyTo) proto.Message {
	switch to {
	case networking.EnvoyFilter_BOOTSTRAP:
		return &bootstrap.Bootstrap{}
	case networking.EnvoyFilter_CLUSTER:
		return &cluster.Cluster{}
	case networking.EnvoyFilter_EXTENSION_CONFIG:
		return &core.TypedExtensionConfig{}
	case networking.EnvoyFilter_LISTENER:
		return &listener.Listener{}
	case networking.EnvoyFilter_FILTER_CHAIN:
		return &listener.FilterChain{}
	case networking.EnvoyFilter_NETWORK_FILTER:
		return &listener.Filter{}
	case networking.EnvoyFilter_LISTENER_FILTER:
		return &listener.ListenerFilter{}
	case networking.EnvoyFilter_HTTP_FILTER:
		return &hcm.HttpFilter{}
	case networking.EnvoyFilter_ROUTE_CONFIGURATION:
		return &route.RouteConfiguration{}
	case networking.EnvoyFilter_VIRTUAL_HOST:
		return &route.VirtualHost{}
	case networking.EnvoyFilter_HTTP_ROUTE:
		return &route.Route{}
	}
	return nil
}

// read reads the value of a patch; nil for a removal. What Envoy's types do not have is left out, or with strict an error.
func read(p *networking.EnvoyFilter_EnvoyConfigObjectPatch, strict bool) (proto.Message, error) {
	if p.GetPatch().GetOperation() == networking.EnvoyFilter_Patch_REMOVE {
		return nil, nil
	}
	message := empty(p.GetApplyTo())
	if message == nil || p.GetPatch().GetValue() == nil {
		return nil, fmt.Errorf("there is nothing to put there")
	}
	text, err := protojson.Marshal(p.GetPatch().GetValue())
	if err != nil {
		return nil, err
	}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: !strict}).Unmarshal(text, message); err != nil {
		return nil, err
	}
	return message, complete(p, message)
}

// complete checks by Envoy's rules what a patch adds. What it merges need not be complete.
func complete(p *networking.EnvoyFilter_EnvoyConfigObjectPatch, message proto.Message) error {
	switch p.GetPatch().GetOperation() {
	case networking.EnvoyFilter_Patch_MERGE, networking.EnvoyFilter_Patch_MERGE_AND_REPLACE_LIST:
		return nil
	}
	if rules, ok := message.(interface{ ValidateAll() error }); ok {
		return rules.ValidateAll()
	}
	return nil
}

// Mistake is what is wrong with a patch.
type Mistake struct {
	Field   string
	Message string
	// Lost says that the patch is left out; otherwise only a part of it is.
	Lost bool
}

// Check says which values of patches Envoy's types do not have.
func Check(spec *networking.EnvoyFilter) []Mistake {
	var found []Mistake
	for i, p := range spec.GetConfigPatches() {
		if touched[p.GetApplyTo()] == nil || p.GetPatch().GetOperation() == networking.EnvoyFilter_Patch_REMOVE || p.GetPatch().GetValue() == nil {
			continue
		}
		if _, strict := read(p, true); strict != nil {
			_, lost := read(p, false)
			found = append(found, Mistake{fmt.Sprintf("spec.configPatches[%d].patch.value", i), fmt.Sprintf("is no %s: %v", p.GetApplyTo(), strict), lost != nil})
		}
	}
	return found
}
