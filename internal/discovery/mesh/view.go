package mesh

import (
	"fmt"
	"strconv"

	networking "istio.io/api/networking/v1alpha3"
)

// Outbound is all that decides what a scope's proxies do with one host. It is immutable, and shared by all proxies of
// the scope; a changed one is another pointer.
type Outbound struct {
	Host string
	// Service is nil for a host that only a VirtualService names.
	Service *Service
	// Whole is the service as the registry has it: Service may have fewer ports.
	Whole *Service
	// Domains are the names that callers in this scope can use, the full one first.
	Domains []string
	// Routes is the VirtualService that is bound to the host, or nil. Narrowed says that it is this scope's own: rules for other callers
	// are left out.
	Routes   *VirtualService
	Narrowed bool
	// Rule is the DestinationRule that applies, merged, or nil.
	Rule *DestinationRule
	// Place is where the callers run; nil where nothing depends on it.
	Place *Place
	// Edge says that it is for a gateway: what comes there has no original destination inside the mesh.
	Edge bool
	// Through says that the mesh's own TLS is led on as it is, by the server name that it asks for; it is for gateways.
	Through bool
	// Proxies are the HTTP proxies by which it is called; see Egress.
	Proxies []HTTPProxy
	// MTLS says that the service's workloads are expected to take mutual TLS.
	MTLS bool
}

// HTTPProxy is where an application calls its sidecar as an HTTP proxy.
type HTTPProxy struct {
	Bind string
	Port uint32
}

// InboundPort is one port that a workload serves.
type InboundPort struct {
	Port     uint32 // of the workload
	Protocol Protocol
	Mode     MTLSMode
	Service  string // host of the oldest service that it is part of
	Number   uint32 // of that service's port
	Name     string // of that service's port
	// Bind, Bound and Endpoint are a Sidecar's: where the port is opened if callers connect there themselves, and where the application
	// listens; see Ingress.
	Bind     string
	Bound    bool
	Endpoint string
	// Pool limits the connections to the application; nil is no limit.
	Pool *networking.ConnectionPoolSettings
	// TLS ends what is not the mesh's; see Ingress.
	TLS *networking.ServerTLSSettings
}

// Inbound is all that decides what a workload's proxy does with what arrives.
type Inbound struct {
	Ports []InboundPort
	Mode  MTLSMode // of ports in no service
	Guard *Guard
	// Transparent says that connections come in as they are (TPROXY), and that the application is to see their callers' addresses.
	Transparent bool
}

// Key is equal for equal Inbounds.
func (i *Inbound) Key() string {
	key := strconv.Itoa(int(i.Mode)) + "|" + strconv.FormatBool(i.Transparent) + "|" + i.Guard.Key()
	for _, p := range i.Ports {
		key += "|" + strconv.Itoa(int(p.Port)) + "," + string(p.Protocol) + "," + strconv.Itoa(int(p.Mode)) + "," + p.Service + "," + strconv.Itoa(int(p.Number)) +
			"," + p.Name + "," + p.Bind + "," + strconv.FormatBool(p.Bound) + "," + p.Endpoint + "," + fmt.Sprintf("%p,%p", p.Pool, p.TLS)
	}
	return key
}

// GatewayPort is one port that a gateway proxy opens, with all that is served there.
type GatewayPort struct {
	Port    uint32 // to listen on
	Bind    string
	Servers []GatewayServer
}

// GatewayServer is one server of a Gateway on a port, with the VirtualServices bound to it.
type GatewayServer struct {
	Server
	Gateway Owner
	// Routes are the VirtualServices, oldest first, with Hosts narrowed to what the server takes.
	Routes []*VirtualService
}

// ClusterName is Istio's name of an outbound cluster.
func ClusterName(host, subset string, port uint32) string {
	return "outbound|" + strconv.Itoa(int(port)) + "|" + subset + "|" + host
}

// SNIPattern matches what SNI returns, and no name of a cluster that speaks TLS itself.
const SNIPattern = `outbound_\.[0-9]+_\.[^|]*_\.[^|]+`

// SNI is the server name of an outbound cluster's mutual TLS.
func SNI(host, subset string, port uint32) string {
	return "outbound_." + strconv.Itoa(int(port)) + "_." + subset + "_." + host
}
