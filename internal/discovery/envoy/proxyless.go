package envoy

import (
	"net"
	"slices"
	"strconv"
	"strings"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	fault "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tls "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/types/known/anypb"
	networking "istio.io/api/networking/v1alpha3"

	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
)

// Proxyless is what gRPC applications are sent that are clients of xDS themselves: each resource is asked for by its name. gRPC takes less
// than Envoy does, and refuses what it does not know.
// https://grpc.github.io/grpc/core/md_doc_grpc_xds_features.html
type Proxyless struct {
	Config    *mesh.Config
	Namespace string // of the callers
	Lookup    Lookup
}

// Find makes the resource of a name, nil where nothing is so called. hosts are those that it was made of, and those that would have been
// asked first.
func (p Proxyless) Find(typeURL, name string) (found *Resource, hosts []string) {
	if typeURL == ListenerType {
		return p.listener(name)
	}
	direction, rest, _ := strings.Cut(name, "|")
	parts := strings.SplitN(rest, "|", 3)
	if direction != "outbound" || len(parts) != 3 {
		return nil, nil
	}
	number, _ := strconv.ParseUint(parts[0], 10, 16)
	subset, host := parts[1], parts[2]
	o := p.outbound(host)
	if o == nil {
		return nil, []string{host}
	}
	port, served := portOf(o, uint32(number))
	switch {
	case !served:
		return nil, []string{host}
	case typeURL == RouteType:
		return p.table(name, o, port)
	case o.Service == nil, o.Service.Resolution == mesh.DynamicDNS: // gRPC looks up no host but the one that it was given
		return nil, []string{host}
	case typeURL == ClusterType:
		return p.cluster(name, o, port, subset), []string{host}
	case typeURL == EndpointType:
		return p.endpoints(name, o, port, subset), []string{host}
	}
	return nil, nil
}

// outbound is a host as a caller sees it that has no original destination: single pods of a headless service are endpoints.
func (p Proxyless) outbound(host string) *mesh.Outbound {
	o := p.Lookup.Outbound(host)
	if o == nil {
		return nil
	}
	own := *o
	own.Edge = true
	return &own
}

func portOf(o *mesh.Outbound, number uint32) (mesh.Port, bool) {
	if o.Service == nil { // a host that only a VirtualService names is there on every port
		return mesh.Port{Number: number, Protocol: mesh.GRPC}, o.Routes != nil
	}
	return o.Service.PortByNumber(number)
}

// listener is what a client asks for first: NAME:PORT, as its target says. It leads to the routes of that port.
func (p Proxyless) listener(name string) (*Resource, []string) {
	host, text, err := net.SplitHostPort(name)
	number, notNumber := strconv.ParseUint(text, 10, 16)
	if err != nil || notNumber != nil {
		return nil, nil
	}
	candidates := []string{host, host + "." + p.Namespace + ".svc." + p.Config.Domain, host + ".svc." + p.Config.Domain, host + "." + p.Config.Domain}
	for _, candidate := range candidates {
		o := p.outbound(candidate)
		if o == nil || !slices.Contains(o.Domains, host) {
			continue
		}
		port, served := portOf(o, uint32(number))
		if !served {
			break
		}
		m := rds(&hcm.HttpConnectionManager{HttpFilters: []*hcm.HttpFilter{httpFilter(faultName, &fault.HTTPFault{}), routerFilter()}}, mesh.ClusterName(o.Host, "", port.Number))
		return NewResource(name, &listener.Listener{Name: name, ApiListener: &listener.ApiListener{ApiListener: pack(m)}}), candidates
	}
	return nil, candidates
}

const faultName = "envoy.filters.http.fault"

// table has the routes of one port of a host, whatever name the client calls it by.
func (p Proxyless) table(name string, o *mesh.Outbound, port mesh.Port) (*Resource, []string) {
	hosts := []string{o.Host}
	if o.Routes != nil {
		o.Routes.EachDestination(func(d mesh.Destination) { hosts = append(hosts, d.Host) })
	}
	host := virtualHost(o, port, []string{"*"}, routeContext{config: p.Config, lookup: p.Lookup})
	var routes []*route.Route
	for _, r := range host.Routes {
		routes = append(routes, spelledOut(r)...)
	}
	host.Routes = routes
	return NewResource(name, &route.RouteConfiguration{Name: name, VirtualHosts: []*route.VirtualHost{host}}), hosts
}

// spelledOut says a route as gRPC understands it: several, where it knows no shorter way, or none where it can never be taken.
func spelledOut(r *route.Route) []*route.Route {
	for _, claim := range r.Match.DynamicMetadata {
		if !claim.Invert {
			return nil // nobody has looked at a token
		}
	}
	r.Match.DynamicMetadata = nil
	filters := r.TypedPerFilterConfig
	r.TypedPerFilterConfig = map[string]*anypb.Any{}
	if f, ok := filters[faultName]; ok {
		r.TypedPerFilterConfig[faultName] = f
	}
	if action := r.GetRoute(); action.GetTimeout().AsDuration() > 0 {
		action.MaxStreamDuration = &route.RouteAction_MaxStreamDuration{MaxStreamDuration: action.Timeout}
	}
	out := []*route.Route{r}
	for i, h := range r.Match.Headers {
		if h.TreatMissingHeaderAsEmpty { // to gRPC a header that is missing has no value, not even one that differs
			out = append(out, withHeader(out, i, &route.HeaderMatcher{Name: h.Name, InvertMatch: true, HeaderMatchSpecifier: &route.HeaderMatcher_PresentMatch{PresentMatch: true}})...)
		}
	}
	return out
}

// withHeader copies routes with another condition in a condition's place.
func withHeader(routes []*route.Route, at int, other *route.HeaderMatcher) []*route.Route {
	var out []*route.Route
	for _, r := range routes {
		headers := slices.Clone(r.Match.Headers)
		headers[at] = other
		out = append(out, &route.Route{Name: r.Name, Action: r.Action, Metadata: r.Metadata, TypedPerFilterConfig: r.TypedPerFilterConfig,
			Match: &route.RouteMatch{PathSpecifier: r.Match.PathSpecifier, CaseSensitive: r.Match.CaseSensitive, Headers: headers, QueryParameters: r.Match.QueryParameters}})
	}
	return out
}

func subsetNamed(o *mesh.Outbound, name string) (mesh.Subset, bool) {
	for _, subset := range subsetsOf(o) {
		if subset.Name == name {
			return subset, true
		}
	}
	return mesh.Subset{}, false
}

// cluster is nil where the rule asks for TLS with certificates that a gRPC application does not have: better no connection than one in
// plain text.
func (p Proxyless) cluster(name string, o *mesh.Outbound, port mesh.Port, named string) *Resource {
	subset, known := subsetNamed(o, named)
	if !known {
		return nil
	}
	policy := policyFor(p.Config, o.Rule, port.Number, subset)
	c := &cluster.Cluster{Name: name, ConnectTimeout: millis(p.Config.ConnectTimeoutMillis)}
	assigned := loadAssignment(name, p.Lookup.Endpoints(o.Host), port.Number, subset, false, nearnessOf(p.Config, o, policy))
	if !discover(c, p.Config, o, func() *endpoint.ClusterLoadAssignment { return assigned }) {
		return nil
	}
	if c.GetType() == cluster.Cluster_STRICT_DNS {
		c.ClusterDiscoveryType = &cluster.Cluster_Type{Type: cluster.Cluster_LOGICAL_DNS}
		first := &endpoint.LocalityLbEndpoints{LbEndpoints: assigned.Endpoints[0].LbEndpoints[:1]}
		c.LoadAssignment = &endpoint.ClusterLoadAssignment{ClusterName: name, Endpoints: []*endpoint.LocalityLbEndpoints{first}}
	}
	balanceCalls(c, policy.GetLoadBalancer())
	pool(c, p.Config, policy)
	detectOutliers(c, policy.GetOutlierDetection())
	switch mode := policy.GetTls().GetMode(); {
	case policy.GetTls() == nil && o.MTLS && allMutual(assigned), policy.GetTls() != nil && mode == networking.ClientTLSSettings_ISTIO_MUTUAL:
		c.TransportSocket = tlsTransport(&tls.UpstreamTlsContext{CommonTlsContext: providerContext(peerSANs(p.Config, o.Service)), Sni: mesh.SNI(o.Host, subset.Name, port.Number)})
	case policy.GetTls() != nil && mode != networking.ClientTLSSettings_DISABLE:
		return nil
	}
	return NewResource(name, c)
}

// balanceCalls picks of the policies that every gRPC has the one that comes nearest.
func balanceCalls(c *cluster.Cluster, settings *networking.LoadBalancerSettings) {
	c.LbPolicy = cluster.Cluster_ROUND_ROBIN
	if hash := settings.GetConsistentHash(); hash != nil {
		balanceByHash(c, hash)
		if c.LbPolicy == cluster.Cluster_MAGLEV {
			c.LbPolicy, c.LbConfig = cluster.Cluster_RING_HASH, nil
		}
	}
}

// allMutual says whether all endpoints take mutual TLS: a gRPC client makes no difference between those of a cluster.
func allMutual(assigned *endpoint.ClusterLoadAssignment) bool {
	count := 0
	for _, group := range assigned.Endpoints {
		for _, e := range group.LbEndpoints {
			if count++; e.Metadata == nil {
				return false
			}
		}
	}
	return count > 0
}

func (p Proxyless) endpoints(name string, o *mesh.Outbound, port mesh.Port, named string) *Resource {
	subset, known := subsetNamed(o, named)
	if !known {
		return nil
	}
	policy := policyFor(p.Config, o.Rule, port.Number, subset)
	return NewResource(name, loadAssignment(name, p.Lookup.Endpoints(o.Host), port.Number, subset, true, nearnessOf(p.Config, o, policy)))
}

// providerContext takes certificates from the provider that the bootstrap of gRPC applications has in a mesh, and takes peers of some names;
// none are all that the mesh's root has signed.
func providerContext(names []*tls.SubjectAltNameMatcher) *tls.CommonTlsContext {
	validation := &tls.CertificateValidationContext{CaCertificateProviderInstance: &tls.CertificateProviderPluginInstance{InstanceName: "default", CertificateName: "ROOTCA"}}
	for _, name := range names {
		validation.MatchSubjectAltNames = append(validation.MatchSubjectAltNames, name.Matcher) // gRPC reads no other
	}
	return &tls.CommonTlsContext{
		TlsCertificateProviderInstance: &tls.CertificateProviderPluginInstance{InstanceName: "default", CertificateName: "default"},
		ValidationContextType:          &tls.CommonTlsContext_ValidationContext{ValidationContext: validation},
	}
}

// ServerPrefix begins the name by which a gRPC server asks for its listener; the address that it listens on follows.
const ServerPrefix = "xds.istio.io/grpc/lds/inbound/"

// ProxylessServer is the listener of a gRPC server; nil for a name that is none. tlsMode says that callers expect mutual TLS there: gRPC
// serves either that or plain text, and not both.
func ProxylessServer(config *mesh.Config, in *mesh.Inbound, tlsMode bool, name string) *Resource {
	host, text, err := net.SplitHostPort(strings.TrimPrefix(name, ServerPrefix))
	number, notNumber := strconv.ParseUint(text, 10, 16)
	if err != nil || notNumber != nil || !strings.HasPrefix(name, ServerPrefix) {
		return nil
	}
	mode := in.Mode
	for _, port := range in.Ports {
		if port.Port == uint32(number) {
			mode = port.Mode
		}
	}
	m := inline(&hcm.HttpConnectionManager{HttpFilters: append(callGuards(config, in.Guard), routerFilter())}, &route.RouteConfiguration{
		Name: "inbound|" + text + "||", VirtualHosts: []*route.VirtualHost{{Name: "inbound|http|" + text, Domains: []string{"*"}, Routes: []*route.Route{{
			Match: routeMatch(nil), Action: &route.Route_NonForwardingAction{NonForwardingAction: &route.NonForwardingAction{}}}}}}})
	chain := &listener.FilterChain{Name: "inbound-" + text, Filters: []*listener.Filter{managerFilter(m)}}
	if mode == mesh.Strict || mode != mesh.Disable && tlsMode {
		chain.TransportSocket = &core.TransportSocket{Name: tlsSocket, ConfigType: &core.TransportSocket_TypedConfig{
			TypedConfig: pack(&tls.DownstreamTlsContext{CommonTlsContext: providerContext(nil), RequireClientCertificate: boolean(true)})}}
	}
	return NewResource(name, &listener.Listener{Name: name, Address: address(host, uint32(number)), FilterChains: []*listener.FilterChain{chain}})
}
