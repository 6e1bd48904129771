package mesh

import (
	"slices"
	"strconv"

	networking "istio.io/api/networking/v1alpha3"
)

// Owner names the object that something came from.
type Owner struct{ Kind, Namespace, Name string }

// Destination is where a route sends a share of its requests.
type Destination struct {
	Host   string // full name
	Subset string
	Port   uint32 // 0 means the service's only port, or the listener's
	Weight uint32
	// Headers are changed on this share only.
	Headers *networking.Headers
}

// Route is one HTTP rule: whatever kind of object it came from, it says this.
type Route struct {
	Name           string
	Match          []*networking.HTTPMatchRequest // any of them; none matches all
	Destinations   []Destination
	Redirect       *networking.HTTPRedirect
	DirectResponse *networking.HTTPDirectResponse
	Rewrite        *networking.HTTPRewrite
	// TimeoutMillis of 0 means none.
	TimeoutMillis int64
	Retries       *networking.HTTPRetry
	Fault         *networking.HTTPFaultInjection
	Mirrors       []Mirror
	CORS          *networking.CorsPolicy
	Headers       *networking.Headers
}

// Mirror is a destination that gets a copy.
type Mirror struct {
	Destination Destination
	Percent     float64
}

// L4Route is one TCP or TLS rule.
type L4Route struct {
	SNIHosts     []string // TLS only
	Ports        []uint32 // none means all
	Subnets      []string
	Gateways     []string
	SourceLabels map[string]string
	SourceNS     string
	Destinations []Destination
}

// VirtualService says how requests for some hosts are routed.
type VirtualService struct {
	Owner
	Hosts    []string // full names and wildcards
	Gateways []string // "mesh" or namespace/name
	ExportTo []string
	Created  int64
	HTTP     []*Route
	TLS      []*L4Route
	TCP      []*L4Route
}

// EachDestination calls visit for every destination that a rule sends to.
func (v *VirtualService) EachDestination(visit func(Destination)) {
	for _, rule := range v.HTTP {
		for _, d := range rule.Destinations {
			visit(d)
		}
	}
	for _, rules := range [][]*L4Route{v.TLS, v.TCP} {
		for _, rule := range rules {
			for _, d := range rule.Destinations {
				visit(d)
			}
		}
	}
}

// OnMesh says whether sidecars follow it.
func (v *VirtualService) OnMesh() bool { return v.OnGateway("mesh") }

// OnGateway says whether the named gateway follows it; name is "mesh" or namespace/name.
func (v *VirtualService) OnGateway(name string) bool {
	return slices.Contains(v.Gateways, name)
}

// VisibleFrom says whether proxies of a namespace see it.
func (v *VirtualService) VisibleFrom(namespace string, config *Config) bool {
	return Exported(eitherList(v.ExportTo, config.ExportRoutes), v.Namespace, namespace)
}

// DestinationRule says how the endpoints of a host are reached.
type DestinationRule struct {
	Owner
	Host     string
	ExportTo []string
	Created  int64
	Policy   *networking.TrafficPolicy
	Subsets  []Subset
	Selector map[string]string
}

// PolicyAt is one of the policies in a rule, with the path that a user knows it by.
type PolicyAt struct {
	*networking.TrafficPolicy
	Field string
}

// Policies lists all that a rule has: its own, its subsets', and those of ports in either.
func (d *DestinationRule) Policies() []PolicyAt {
	var out []PolicyAt
	add := func(policy *networking.TrafficPolicy, field string) {
		if policy == nil {
			return
		}
		out = append(out, PolicyAt{policy, field})
		for i, p := range policy.PortLevelSettings {
			out = append(out, PolicyAt{&networking.TrafficPolicy{LoadBalancer: p.LoadBalancer, ConnectionPool: p.ConnectionPool, OutlierDetection: p.OutlierDetection, Tls: p.Tls},
				field + ".portLevelSettings[" + strconv.Itoa(i) + "]"})
		}
	}
	add(d.Policy, "spec.trafficPolicy")
	for i, s := range d.Subsets {
		add(s.Policy, "spec.subsets["+strconv.Itoa(i)+"].trafficPolicy")
	}
	return out
}

// Subset is a named part of a host's endpoints.
type Subset struct {
	Name   string
	Labels map[string]string
	Policy *networking.TrafficPolicy
}

// VisibleFrom says whether proxies of a namespace see it.
func (d *DestinationRule) VisibleFrom(namespace string, config *Config) bool {
	return Exported(eitherList(d.ExportTo, config.ExportRules), d.Namespace, namespace)
}

// Gateway opens ports of the gateway proxies that it selects.
type Gateway struct {
	Owner
	Selector map[string]string
	Created  int64
	Servers  []Server
}

// Server is one port of a Gateway.
type Server struct {
	Port     uint32
	PortName string
	Protocol Protocol
	Bind     string
	Hosts    []ServerHost
	TLS      *networking.ServerTLSSettings
	Name     string
}

// ClientAuthorityFile is the file with the authorities of clients' certificates; empty where a server names none.
func ClientAuthorityFile(settings *networking.ServerTLSSettings) string {
	for _, certificate := range settings.TlsCertificates {
		if settings.CaCertificates == "" && certificate.CaCertificates != "" {
			return certificate.CaCertificates
		}
	}
	return settings.CaCertificates
}

// LeadsThrough says whether a server leads the mesh's TLS on by server names alone.
func (s Server) LeadsThrough() bool {
	return s.TLS != nil && s.TLS.Mode == networking.ServerTLSSettings_AUTO_PASSTHROUGH
}

// LeadsThrough says whether one of the servers does.
func (g *Gateway) LeadsThrough() bool {
	return g != nil && slices.ContainsFunc(g.Servers, Server.LeadsThrough)
}

// ServerHost is a host that a server takes, from VirtualServices of a namespace ("*" is any).
type ServerHost struct{ Namespace, Host string }

// MTLSMode is what PeerAuthentication asks of a port.
type MTLSMode int

// The modes.
const (
	Unset MTLSMode = iota
	Disable
	Permissive
	Strict
)

// PeerAuthentication says which connections a workload accepts.
type PeerAuthentication struct {
	Owner
	Selector map[string]string
	Mode     MTLSMode
	Ports    map[uint32]MTLSMode
	Created  int64
}
