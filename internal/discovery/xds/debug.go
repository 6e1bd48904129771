package xds

import (
	"context"
	"net"
	"strings"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	csds "github.com/envoyproxy/go-control-plane/envoy/service/status/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Tools ask for a type of their own over ADS, as istioctl does for its proxy-status.
const (
	debugPrefix = "istio.io/debug/"
	syncType    = debugPrefix + "syncz"
)

// answerDebug answers one question and ends: it is a tool that asks, and no proxy.
func (e *endpoint) answerDebug(ctx context.Context, request *discovery.DiscoveryRequest, send func(*discovery.DiscoveryResponse) error) error {
	caller, err := e.mayDebug(ctx)
	if err != nil {
		return err
	}
	switch request.TypeUrl {
	case syncType:
	case dumpType:
		return e.answerDump(request, caller, send)
	default:
		return status.Errorf(codes.Unimplemented, "%s is not answered here; %s and %s are", request.TypeUrl, syncType, dumpType)
	}
	out := &discovery.DiscoveryResponse{TypeUrl: syncType, Nonce: "1", ControlPlane: controlPlane}
	for _, report := range e.Report() {
		packed, err := anypb.New(clientConfig(report))
		if err != nil {
			return status.Error(codes.Internal, err.Error())
		}
		out.Resources = append(out.Resources, packed)
	}
	return send(out)
}

// mayDebug lets in who has an identity, and, without one, who comes through a forwarded port.
func (e *endpoint) mayDebug(ctx context.Context) (*Identity, error) {
	if identity, err := e.authenticator.Authenticate(ctx); err == nil && identity != nil {
		return identity, nil
	}
	if p, ok := peer.FromContext(ctx); ok {
		if at, ok := p.Addr.(*net.TCPAddr); ok && at.IP.IsLoopback() {
			return nil, nil
		}
	}
	return nil, status.Error(codes.PermissionDenied, "debug questions are answered to a token, or through a forwarded port")
}

// clientConfig says how a proxy stands, in the words of Envoy's client status service.
func clientConfig(report ProxyReport) *csds.ClientConfig {
	parts := strings.Split(report.ID, "~")
	metadata, _ := structpb.NewStruct(map[string]any{"ISTIO_VERSION": report.Version, "CLUSTER_ID": "Kubernetes"})
	if len(parts) == 4 {
		name, namespace, _ := strings.Cut(parts[2], ".")
		metadata.Fields["NAME"], metadata.Fields["NAMESPACE"] = structpb.NewStringValue(name), structpb.NewStringValue(namespace)
	}
	out := &csds.ClientConfig{Node: &core.Node{Id: report.ID, Metadata: metadata}}
	for i, short := range shortNames {
		if i == hostIndex {
			continue // part of the route tables, for who knows Envoy's own types only
		}
		entry := &csds.ClientConfig_GenericXdsConfig{TypeUrl: typeURLs[i], ConfigStatus: csds.ConfigStatus_NOT_SENT}
		if t, sent := report.Types[short]; sent {
			entry.ConfigStatus, entry.LastUpdated = csds.ConfigStatus_SYNCED, timestamppb.New(t.At)
			switch {
			case t.Error != "":
				entry.ConfigStatus = csds.ConfigStatus_ERROR
			case t.Sent != t.Acknowledged:
				entry.ConfigStatus = csds.ConfigStatus_STALE
			}
		}
		out.GenericXdsConfigs = append(out.GenericXdsConfigs, entry)
	}
	return out
}
