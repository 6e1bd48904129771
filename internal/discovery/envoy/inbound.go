package envoy

import (
	"net"
	"strconv"
	"strings"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	originalsrc "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/original_src/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	networking "istio.io/api/networking/v1alpha3"

	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
)

// transparentMark is that of the proxy's packets to an application that sees its callers' addresses: capture knows them by it.
const transparentMark = 1337

// passthroughSource is the address that the proxy calls the application from: capture lets it pass.
const passthroughSource = "127.0.0.6"

// InboundSections are the resources of what a workload serves. Workloads that serve the same share them.
type InboundSections struct{ Clusters, Listeners *Section }

// Inbound makes the listener for captured inbound connections and its clusters.
func Inbound(config *mesh.Config, flavour mesh.Flavour, in *mesh.Inbound) InboundSections {
	from := inboundSide(config, flavour)
	made := func(name string, port mesh.InboundPort) *Resource {
		return inboundCluster(config, name, port, in.Transparent)
	}
	clusters := map[string]*Resource{InboundPassthroughCluster: made(InboundPassthroughCluster, mesh.InboundPort{})}
	listeners := map[string]*Resource{}
	out := &listener.Listener{
		Name: "virtualInbound", Address: address(wildcard, inboundPort), TrafficDirection: core.TrafficDirection_INBOUND,
		ListenerFilters: []*listener.ListenerFilter{originalDst(), tlsInspector(), httpInspector()},
		// A client that waits for the server's first bytes must not wait for ever.
		ListenerFiltersTimeout: detection(config), ContinueOnListenerFiltersTimeout: true,
		FilterChains: []*listener.FilterChain{{
			Name: "virtualInbound-blackhole", FilterChainMatch: &listener.FilterChainMatch{DestinationPort: u32(inboundPort)},
			Filters: []*listener.Filter{tcpTo(from, BlackHoleCluster)},
		}},
	}
	if in.Transparent {
		out.Transparent = boolean(true)
		out.ListenerFilters = append(out.ListenerFilters, listenerFilter("envoy.filters.listener.original_src", &originalsrc.OriginalSrc{Mark: transparentMark}))
	}
	for _, port := range in.Ports {
		name := "inbound|" + itoa(port.Port) + "||"
		clusters[name] = made(name, port)
		chains := inboundChains(from, in.Guard, port, name)
		if port.Bound {
			own := boundListener(config, port, chains)
			listeners[own.Name] = own
			continue
		}
		out.FilterChains = append(out.FilterChains, chains...)
	}
	rest := mesh.InboundPort{Mode: in.Mode}
	out.FilterChains = append(out.FilterChains, inboundChains(from, in.Guard, rest, InboundPassthroughCluster)...)
	listeners[out.Name] = NewResource(out.Name, out)
	return InboundSections{Clusters: EmptySection().Next(clusters), Listeners: EmptySection().Next(listeners)}
}

// boundListener is that of a port that callers reach without capture.
func boundListener(config *mesh.Config, port mesh.InboundPort, chains []*listener.FilterChain) *Resource {
	for _, chain := range chains {
		chain.FilterChainMatch.DestinationPort = nil
	}
	name := port.Bind + "_" + itoa(port.Port)
	return NewResource(name, &listener.Listener{
		Name: name, Address: address(port.Bind, port.Port), TrafficDirection: core.TrafficDirection_INBOUND, FilterChains: chains,
		ListenerFilters: []*listener.ListenerFilter{tlsInspector(), httpInspector()}, ListenerFiltersTimeout: detection(config), ContinueOnListenerFiltersTimeout: true,
	})
}

// inboundChains are those of a port (0 is all others): for each way in which a connection may come, by the mode, and for
// each protocol that may be inside.
func inboundChains(s side, guard *mesh.Guard, port mesh.InboundPort, target string) []*listener.FilterChain {
	http := func(m *listener.FilterChainMatch, secure bool) *listener.FilterChain {
		return inboundChain(s.config, port, m, secure, managerFilter(guarded(inboundManager(s, port, target, secure), httpGuards(s.config, guard))))
	}
	tcp := func(m *listener.FilterChainMatch, secure bool) *listener.FilterChain {
		return inboundChain(s.config, port, m, secure, append(tcpGuards(s.config, guard), tcpInto(s, target, port.Pool))...)
	}
	var chains []*listener.FilterChain
	if port.TLS != nil {
		return ingressChains(s, guard, port, target)
	}
	if port.Mode != mesh.Disable {
		switch {
		case port.Protocol.IsHTTP():
			chains = append(chains, http(&listener.FilterChainMatch{TransportProtocol: "tls", ApplicationProtocols: meshALPN(port.Mode)}, true))
		case port.Protocol == mesh.Auto:
			chains = append(chains, http(&listener.FilterChainMatch{TransportProtocol: "tls", ApplicationProtocols: alpnHTTPOnly}, true))
			others := &listener.FilterChainMatch{TransportProtocol: "tls", ApplicationProtocols: alpnTCP}
			if port.Mode == mesh.Strict {
				others.ApplicationProtocols = nil
			}
			chains = append(chains, tcp(others, true))
		default:
			chains = append(chains, tcp(&listener.FilterChainMatch{TransportProtocol: "tls", ApplicationProtocols: meshALPN(port.Mode)}, true))
		}
	}
	if port.Mode == mesh.Strict {
		return chains
	}
	switch {
	case port.Protocol.IsHTTP():
		chains = append(chains, http(&listener.FilterChainMatch{TransportProtocol: "raw_buffer"}, false))
	case port.Protocol == mesh.Auto:
		chains = append(chains, http(&listener.FilterChainMatch{TransportProtocol: "raw_buffer", ApplicationProtocols: []string{"http/1.1", "h2c"}}, false),
			tcp(&listener.FilterChainMatch{TransportProtocol: "raw_buffer"}, false),
			tcp(&listener.FilterChainMatch{TransportProtocol: "tls"}, false)) // the application's own TLS
	default:
		chains = append(chains, tcp(&listener.FilterChainMatch{}, false))
	}
	return chains
}

// ingressChains are those of a port whose TLS the Sidecar says how to end: the mesh's own, unless it is switched off, and, unless nothing
// else may come, what callers outside the mesh speak. HTTPS is HTTP inside.
func ingressChains(s side, guard *mesh.Guard, port mesh.InboundPort, target string) []*listener.FilterChain {
	chain := func(secure bool, protocols []string) *listener.FilterChain {
		filters := append(tcpGuards(s.config, guard), tcpInto(s, target, port.Pool))
		if port.Protocol == mesh.HTTPS {
			filters = []*listener.Filter{managerFilter(guarded(inboundManager(s, port, target, secure), httpGuards(s.config, guard)))}
		}
		return inboundChain(s.config, port, &listener.FilterChainMatch{TransportProtocol: "tls", ApplicationProtocols: protocols}, secure, filters...)
	}
	var chains []*listener.FilterChain
	if port.Mode != mesh.Disable {
		chains = append(chains, chain(true, meshALPN(port.Mode)))
	}
	if port.Mode != mesh.Strict {
		own := chain(false, nil)
		own.TransportSocket = downstreamTLS(s.config, port.TLS, port.Protocol == mesh.HTTPS)
		chains = append(chains, own)
	}
	return chains
}

// meshALPN tells the mesh's TLS from the application's own. Under STRICT there is no other.
func meshALPN(mode mesh.MTLSMode) []string {
	if mode == mesh.Strict {
		return nil
	}
	return alpnAll
}

func inboundChain(config *mesh.Config, port mesh.InboundPort, m *listener.FilterChainMatch, secure bool, filters ...*listener.Filter) *listener.FilterChain {
	out := &listener.FilterChain{Name: wildcard + "_" + itoa(port.Port), FilterChainMatch: m, Filters: filters}
	if port.Port != 0 {
		m.DestinationPort = u32(port.Port)
	} else {
		out.Name = "virtualInbound"
	}
	if secure {
		out.TransportSocket = inboundContext(config)
	}
	return out
}

func inboundManager(s side, port mesh.InboundPort, target string, secure bool) *hcm.HttpConnectionManager {
	m := manager(s, "inbound_"+wildcard+"_"+itoa(port.Port))
	m.ForwardClientCertDetails = hcm.HttpConnectionManager_APPEND_FORWARD
	if secure {
		m.SetCurrentClientCertDetails = &hcm.HttpConnectionManager_SetCurrentClientCertDetails{Subject: boolean(true), Dns: true, Uri: true}
	}
	name := "inbound|http|" + itoa(port.Number)
	return inline(withHeaders(m, s.config.Settings), &route.RouteConfiguration{
		Name: target, ValidateClusters: boolean(false),
		VirtualHosts: []*route.VirtualHost{{Name: name, Domains: []string{"*"}, Routes: []*route.Route{{
			Name: "default", Match: routeMatch(nil), Decorator: &route.Decorator{Operation: port.Service + ":" + itoa(port.Number) + "/*"},
			Action: &route.Route_Route{Route: &route.RouteAction{
				ClusterSpecifier: &route.RouteAction_Cluster{Cluster: target}, Timeout: durationpb.New(0),
				MaxGrpcTimeout: durationpb.New(0), RetryPolicy: inboundRetries(port.Protocol),
			}},
		}}}},
	})
}

// inboundRetries take up what an application never saw: it has closed an idle connection as a request was on its way. Clients of gRPC
// do that themselves.
func inboundRetries(protocol mesh.Protocol) *route.RetryPolicy {
	if protocol == mesh.GRPC {
		return nil
	}
	return &route.RetryPolicy{RetryOn: "reset-before-request", NumRetries: u32(2)}
}

// servedFor tells telemetry which service a port is of.
func servedFor(service string) *core.Metadata {
	if service == "" {
		return nil
	}
	return &core.Metadata{FilterMetadata: map[string]*structpb.Struct{"istio": {Fields: map[string]*structpb.Value{"service": structpb.NewStringValue(service)}}}}
}

// inboundCluster reaches the application where the connection was meant to go, or where the Sidecar says that it listens.
func inboundCluster(config *mesh.Config, name string, port mesh.InboundPort, transparent bool) *Resource {
	out := &cluster.Cluster{
		Name: name, ClusterDiscoveryType: &cluster.Cluster_Type{Type: cluster.Cluster_ORIGINAL_DST}, LbPolicy: cluster.Cluster_CLUSTER_PROVIDED,
		ConnectTimeout: millis(config.ConnectTimeoutMillis), Metadata: servedFor(port.Service),
	}
	if !transparent {
		out.UpstreamBindConfig = &core.BindConfig{SourceAddress: &core.SocketAddress{Address: passthroughSource, PortSpecifier: &core.SocketAddress_PortValue{PortValue: 0}}}
	}
	out.AltStatName = inboundStatName(config, port)
	if port.Endpoint == "" && config.InboundLocalhost && port.Port != 0 {
		port.Endpoint = net.JoinHostPort("127.0.0.1", itoa(port.Port))
	}
	if port.Endpoint != "" {
		out.ClusterDiscoveryType = &cluster.Cluster_Type{Type: cluster.Cluster_STATIC}
		out.LbPolicy, out.UpstreamBindConfig = cluster.Cluster_ROUND_ROBIN, nil
		out.LoadAssignment = &endpoint.ClusterLoadAssignment{ClusterName: name, Endpoints: []*endpoint.LocalityLbEndpoints{{LbEndpoints: []*endpoint.LbEndpoint{{
			HostIdentifier: &endpoint.LbEndpoint_Endpoint{Endpoint: &endpoint.Endpoint{Address: endpointAddress(port.Endpoint)}}}}}}}
	}
	policy := &networking.TrafficPolicy{ConnectionPool: port.Pool}
	pool(out, config, policy)
	inside := port.Protocol
	if port.TLS != nil && inside == mesh.HTTPS {
		inside = mesh.HTTP
	}
	protocol(out, config, mesh.Port{Protocol: inside}, policy)
	return NewResource(name, out)
}

// endpointAddress reads what a Sidecar calls defaultEndpoint; resolve has looked at it.
func endpointAddress(text string) *core.Address {
	if path, ok := strings.CutPrefix(text, "unix://"); ok {
		return &core.Address{Address: &core.Address_Pipe{Pipe: &core.Pipe{Path: path}}}
	}
	host, port, _ := net.SplitHostPort(text)
	number, _ := strconv.ParseUint(port, 10, 16)
	return address(host, uint32(number))
}
