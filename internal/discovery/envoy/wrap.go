package envoy

import (
	"strconv"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	matcher "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
)

// Short forms of Envoy's wrapped values.

func u32(n uint32) *wrapperspb.UInt32Value { return wrapperspb.UInt32(n) }

func u64(n uint64) *wrapperspb.UInt64Value { return wrapperspb.UInt64(n) }

func boolean(b bool) *wrapperspb.BoolValue { return wrapperspb.Bool(b) }

func millis(n int64) *durationpb.Duration { return durationpb.New(time.Duration(n) * time.Millisecond) }

func ads() *core.ConfigSource {
	return &core.ConfigSource{
		ConfigSourceSpecifier: &core.ConfigSource_Ads{Ads: &core.AggregatedConfigSource{}},
		InitialFetchTimeout:   durationpb.New(0), ResourceApiVersion: core.ApiVersion_V3,
	}
}

func address(ip string, port uint32) *core.Address {
	return &core.Address{Address: &core.Address_SocketAddress{SocketAddress: &core.SocketAddress{
		Address: ip, PortSpecifier: &core.SocketAddress_PortValue{PortValue: port},
	}}}
}

func exact(text string) *matcher.StringMatcher {
	return &matcher.StringMatcher{MatchPattern: &matcher.StringMatcher_Exact{Exact: text}}
}

func prefix(text string) *matcher.StringMatcher {
	return &matcher.StringMatcher{MatchPattern: &matcher.StringMatcher_Prefix{Prefix: text}}
}

func regex(text string) *matcher.RegexMatcher { return &matcher.RegexMatcher{Regex: text} }

// ownerMetadata names the object that a resource came from, where Istio puts it.
func ownerMetadata(owner mesh.Owner, kind string) *core.Metadata {
	return &core.Metadata{FilterMetadata: map[string]*structpb.Struct{"istio": {Fields: map[string]*structpb.Value{
		"config": structpb.NewStringValue("/apis/networking.istio.io/v1/namespaces/" + owner.Namespace + "/" + kind + "/" + owner.Name),
	}}}}
}

func itoa(n uint32) string { return strconv.FormatUint(uint64(n), 10) }
