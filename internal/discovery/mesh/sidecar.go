package mesh

import (
	"slices"
	"strings"

	networking "istio.io/api/networking/v1alpha3"
)

// Sidecar narrows what the sidecars of some workloads can call, and says what they serve.
type Sidecar struct {
	Owner
	Selector map[string]string
	Created  int64
	// Egress are the ways out; none means that everything can be called.
	Egress []*Egress
	// Ingress are the ports that are served; none means those of the workload's services.
	Ingress []*Ingress
	// Policy is what happens to calls of hosts that are in no registry; nil is as the mesh says.
	Policy *OutsidePolicy
	// Pool limits the connections to the application.
	Pool *networking.ConnectionPoolSettings
}

// OutsidePolicy is what a Sidecar says of hosts in no registry.
type OutsidePolicy struct {
	AllowAny bool
	// Proxy is where such calls go instead of where they were meant to; its host is empty where they do go there.
	Proxy Destination
}

// Egress is one way out.
type Egress struct {
	Port  uint32 // 0 is all ports that no other way out names
	Bind  string // address to listen on; empty is as for other hosts
	Bound bool   // the application calls the address itself: nothing is captured
	Hosts []EgressHost
	// Proxy says that the application calls it as an HTTP proxy, for hosts of whatever port.
	Proxy bool
}

// EgressHost is a pattern of hosts that may be called.
type EgressHost struct {
	Namespace string // "*" is any
	Host      string // may begin with "*"
	Except    bool   // takes hosts out again
}

// Imports says whether the way out leads to a host that a namespace has.
func (e *Egress) Imports(namespace, host string) bool {
	matches := func(h EgressHost) bool {
		return (h.Namespace == "*" || h.Namespace == namespace) && HostCovers(h.Host, host)
	}
	return slices.ContainsFunc(e.Hosts, func(h EgressHost) bool { return !h.Except && matches(h) }) &&
		!slices.ContainsFunc(e.Hosts, func(h EgressHost) bool { return h.Except && matches(h) })
}

// ImportsRoutes says whether the way out follows a VirtualService: one of its hosts can be called by it. A pattern of either covers
// names of the other.
func (e *Egress) ImportsRoutes(v *VirtualService) bool {
	return slices.ContainsFunc(v.Hosts, func(host string) bool {
		return e.Imports(v.Namespace, host) || slices.ContainsFunc(e.Hosts, func(h EgressHost) bool {
			return !h.Except && (h.Namespace == "*" || h.Namespace == v.Namespace) && strings.HasPrefix(host, "*") && HostCovers(host, h.Host)
		})
	})
}

// WayTo returns the way out for a port: the one that names it, or the one that names none. An HTTP proxy's own port is none of a host's.
func (s *Sidecar) WayTo(port uint32) *Egress {
	var general *Egress
	for _, e := range s.Egress {
		if e.Proxy {
			continue
		}
		if e.Port == port {
			return e
		}
		if e.Port == 0 && general == nil {
			general = e
		}
	}
	return general
}

// Restricts says whether anything cannot be called.
func (s *Sidecar) Restricts() bool { return s != nil && len(s.Egress) > 0 }

// ImportsRoutes says whether any way out follows a VirtualService.
func (s *Sidecar) ImportsRoutes(v *VirtualService) bool {
	return slices.ContainsFunc(s.Egress, func(e *Egress) bool { return e.ImportsRoutes(v) })
}

// Ingress is one port that a workload serves.
type Ingress struct {
	Port     uint32
	Protocol Protocol
	Bind     string
	Bound    bool
	// Endpoint is where the application listens, ADDRESS:PORT or unix:///PATH; empty is where the caller meant.
	Endpoint string
	Pool     *networking.ConnectionPoolSettings
	// TLS ends what is not the mesh's; nil leaves it to the application.
	TLS *networking.ServerTLSSettings
}
