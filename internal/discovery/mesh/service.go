// Package mesh is the vocabulary of the control plane: services, endpoints, routes, policies, proxies. It holds types
// and what follows from them alone. It must not know Kubernetes or Envoy.
package mesh

import (
	"slices"
	"strings"
)

// Protocol is what a port speaks.
type Protocol string

// The protocols that make a difference. Auto means that the proxy finds out.
const (
	Auto    Protocol = ""
	HTTP    Protocol = "HTTP"
	HTTP2   Protocol = "HTTP2"
	GRPC    Protocol = "GRPC"
	GRPCWeb Protocol = "GRPC-Web"
	HTTPS   Protocol = "HTTPS"
	TLS     Protocol = "TLS"
	TCP     Protocol = "TCP"
	UDP     Protocol = "UDP"
)

// IsHTTP says that requests can be seen.
func (p Protocol) IsHTTP() bool { return p == HTTP || p == HTTP2 || p == GRPC || p == GRPCWeb }

// IsHTTP2 says that the upstream is spoken to in HTTP/2.
func (p Protocol) IsHTTP2() bool { return p == HTTP2 || p == GRPC || p == GRPCWeb }

// Resolution is how the endpoints of a service are found.
type Resolution int

// The resolutions.
const (
	// Static endpoints are known here and sent to the proxies.
	Static Resolution = iota
	// DNS endpoints are found by the proxy, all addresses of a name.
	DNS
	// DNSRoundRobin is DNS with one address at a time.
	DNSRoundRobin
	// DynamicDNS is whatever host is called, found by the proxy.
	DynamicDNS
	// Passthrough goes where the caller meant to go.
	Passthrough
)

// ByProxy says that proxies ask DNS themselves.
func (r Resolution) ByProxy() bool { return r == DNS || r == DNSRoundRobin || r == DynamicDNS }

// Port is one port of a service.
type Port struct {
	Number   uint32
	Name     string
	Protocol Protocol
	// TargetPort is the port of the endpoints where it is one number for all; otherwise 0.
	TargetPort uint32
	// Bind is an address of the caller on which the port is opened for its calls; empty is as the service has it. Bound says that
	// callers connect there themselves.
	Bind  string
	Bound bool
	// Hidden says that it is called by way of an HTTP proxy only.
	Hidden bool
}

// Service is something that can be called by a host name.
type Service struct {
	Host      string // the full name, such as reviews.default.svc.cluster.local
	Name      string // of the object
	Namespace string
	// Kubernetes says that it is a Kubernetes Service and has short names.
	Kubernetes bool
	Addresses  []string // virtual IPs and, for a ServiceEntry, CIDRs; none for a headless service
	Ports      []Port
	Resolution Resolution
	Headless   bool
	External   bool // outside the mesh: no mesh mTLS
	// Near are the labels by which near endpoints come first, as trafficDistribution asks; none says that all are equal.
	Near []string
	// Names are the certificate names of an external server, where no rule says.
	Names []string
	// ExportTo lists the namespaces that see it; "*" is all, none is all as well.
	ExportTo []string
	// Created is in seconds since 1970: older objects win.
	Created  int64
	Selector map[string]string
	// Accounts are the SPIFFE identities that its endpoints may have, sorted.
	Accounts []string
	// Allocated are addresses of the mesh's own, for callers whose DNS is captured, where it has no others.
	Allocated []string
}

// PortByNumber finds a port.
func (s *Service) PortByNumber(number uint32) (Port, bool) {
	for _, port := range s.Ports {
		if port.Number == number {
			return port, true
		}
	}
	return Port{}, false
}

// VisibleFrom says whether proxies of a namespace see it.
func (s *Service) VisibleFrom(namespace string, config *Config) bool {
	return Exported(eitherList(s.ExportTo, config.ExportServices), s.Namespace, namespace)
}

func eitherList(own, general []string) []string {
	if len(own) > 0 {
		return own
	}
	return general
}

// Exported says whether an object of namespace own with this exportTo list is seen from another namespace.
func Exported(exportTo []string, own, from string) bool {
	if len(exportTo) == 0 {
		return true
	}
	return slices.ContainsFunc(exportTo, func(to string) bool {
		return to == "*" || to == from || to == "." && own == from
	})
}

// Endpoint is one address behind a service port.
type Endpoint struct {
	Address string
	Port    uint32
	// MTLS says that a sidecar or gateway of the mesh answers there, and takes mutual TLS.
	MTLS     bool
	Healthy  bool
	Weight   uint32
	Labels   map[string]string
	Account  string // SPIFFE identity
	Locality Locality
	Network  string
	Cluster  string
	Node     string
	Workload string // name of the pod or WorkloadEntry
}

// Locality is where an endpoint or a proxy runs.
type Locality struct{ Region, Zone, SubZone string }

// Endpoints are those of one service, by service port number, in a fixed order.
type Endpoints struct {
	Host   string
	ByPort map[uint32][]Endpoint
}

// MatchesLabels says whether labels have all that the selector asks for.
func MatchesLabels(selector, labels map[string]string) bool {
	for name, value := range selector {
		if labels[name] != value {
			return false
		}
	}
	return true
}

// HostCovers says whether a host pattern, which may begin with "*.", or be "*", covers a host or a narrower pattern.
func HostCovers(pattern, host string) bool {
	if pattern == host || pattern == "*" {
		return true
	}
	suffix, ok := strings.CutPrefix(pattern, "*")
	return ok && strings.HasSuffix(host, suffix) && len(host) > len(suffix)
}

// Wildcards returns the patterns that cover a host, the host itself first, most specific first, "*" last.
func Wildcards(host string) []string {
	patterns := []string{host}
	rest := strings.TrimPrefix(host, "*.")
	if rest == host {
		_, rest, _ = strings.Cut(host, ".")
	} else {
		_, rest, _ = strings.Cut(rest, ".")
	}
	for rest != "" {
		patterns = append(patterns, "*."+rest)
		_, rest, _ = strings.Cut(rest, ".")
	}
	if host != "*" {
		patterns = append(patterns, "*")
	}
	return patterns
}
