package resolve

import (
	"fmt"
	"net/netip"
	"sort"
	"strings"

	api "istio.io/api/networking/v1alpha3"
	networking "istio.io/client-go/pkg/apis/networking/v1"

	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
	"github.com/slipway-mesh/slipway/internal/discovery/world"
)

func (s *step) serviceEntry(namespace, name string, object *networking.ServiceEntry) {
	key := world.Key(namespace, name)
	if before, ok := s.entries.Get(key); ok {
		for _, host := range before.Spec.Hosts {
			s.forgetEntry(host, namespace, name)
		}
		s.entries, _, _ = s.entries.Delete(key)
	}
	r := &report{kind: "ServiceEntry", namespace: namespace, name: name}
	defer s.keepProblems(r)
	if object == nil {
		return
	}
	if len(object.Spec.Hosts) == 0 {
		r.refuse("spec.hosts", "is required")
	}
	if len(object.Spec.Ports) == 0 {
		r.warn("spec.ports", ReasonMissing, "there are no ports, so nothing is reached by this entry")
	}
	s.entries, _, _ = s.entries.Insert(key, object)
	for _, host := range object.Spec.Hosts {
		service := convertEntry(host, object, r)
		there := world.Key(host, namespace)
		if other, ok := s.World.Services.Get(there); ok && (other.Kubernetes || other.Created < service.Created || other.Created == service.Created && other.Name < name) {
			r.warn("spec.hosts", ReasonInvalid, "%s is defined by %s/%s already, which stands", host, other.Namespace, other.Name)
			continue
		}
		endpoints := s.entryEndpoints(host, object, r)
		service.Accounts = accountsOf(endpoints)
		s.World.Services, _, _ = s.World.Services.Insert(there, service)
		s.World.Endpoints, _, _ = s.World.Endpoints.Insert([]byte(host), endpoints)
		s.dirty.Host(host)
		s.dirty.Endpoint(host)
	}
}

// forgetEntry removes what an entry made of a host, and lets another entry of the namespace have it.
func (s *step) forgetEntry(host, namespace, name string) {
	key := world.Key(host, namespace)
	service, ok := s.World.Services.Get(key)
	if !ok || service.Kubernetes || service.Name != name {
		return
	}
	s.World.Services, _, _ = s.World.Services.Delete(key)
	s.World.Endpoints, _, _ = s.World.Endpoints.Delete([]byte(host))
	s.dirty.Host(host)
	s.dirty.Endpoint(host)
}

func convertEntry(host string, object *networking.ServiceEntry, r *report) *mesh.Service {
	spec := &object.Spec
	out := &mesh.Service{
		Host: host, Name: object.Name, Namespace: object.Namespace, Addresses: spec.Addresses, ExportTo: spec.ExportTo,
		External: spec.Location == api.ServiceEntry_MESH_EXTERNAL, Created: object.CreationTimestamp.Unix(),
	}
	switch spec.Resolution {
	case api.ServiceEntry_STATIC:
		out.Resolution = mesh.Static
	case api.ServiceEntry_DNS:
		out.Resolution = mesh.DNS
	case api.ServiceEntry_DNS_ROUND_ROBIN:
		out.Resolution = mesh.DNSRoundRobin
	default:
		out.Resolution = mesh.Passthrough
	}
	if strings.HasPrefix(host, "*") && (out.Resolution == mesh.DNS || out.Resolution == mesh.DNSRoundRobin) && len(spec.Endpoints) == 0 {
		r.refuse("spec.hosts", "%s is a wildcard, which DNS cannot resolve; name endpoints, or use resolution NONE", host)
	}
	for i, port := range spec.Ports {
		protocol, ok := protocolNames[strings.ToLower(port.Protocol)]
		if !ok && port.Protocol != "" {
			r.refuse(fmt.Sprintf("spec.ports[%d].protocol", i), "%q is not a protocol; use one of HTTP, HTTPS, HTTP2, GRPC, TCP, TLS", port.Protocol)
		}
		if protocol == mesh.UDP {
			continue
		}
		out.Ports = append(out.Ports, mesh.Port{Number: port.Number, Name: port.Name, Protocol: protocol, TargetPort: port.TargetPort})
	}
	return out
}

func (s *step) entryEndpoints(host string, object *networking.ServiceEntry, r *report) *mesh.Endpoints {
	spec := &object.Spec
	out := &mesh.Endpoints{Host: host, ByPort: map[uint32][]mesh.Endpoint{}}
	if spec.WorkloadSelector != nil {
		r.warn("spec.workloadSelector", ReasonUnsupported, "is not supported yet; name endpoints")
	}
	if len(spec.Endpoints) == 0 && spec.Resolution != api.ServiceEntry_STATIC && spec.Resolution != api.ServiceEntry_NONE {
		for _, port := range spec.Ports { // the host itself is what DNS resolves
			target := port.TargetPort
			if target == 0 {
				target = port.Number
			}
			out.ByPort[port.Number] = []mesh.Endpoint{{Address: host, Port: target, Healthy: true, Weight: 1}}
		}
		return out
	}
	for i, endpoint := range spec.Endpoints {
		if _, err := netip.ParseAddr(endpoint.Address); err != nil && spec.Resolution == api.ServiceEntry_STATIC {
			r.refuse(fmt.Sprintf("spec.endpoints[%d].address", i), "%q is no IP address, and resolution is STATIC; use DNS", endpoint.Address)
			continue
		}
		for _, port := range spec.Ports {
			out.ByPort[port.Number] = append(out.ByPort[port.Number], s.entryEndpoint(object, endpoint, port))
		}
	}
	for _, list := range out.ByPort {
		sort.SliceStable(list, func(i, j int) bool { return list[i].Address < list[j].Address })
	}
	return out
}

func (s *step) entryEndpoint(object *networking.ServiceEntry, from *api.WorkloadEntry, port *api.ServicePort) mesh.Endpoint {
	number := from.Ports[port.Name]
	if number == 0 {
		number = port.TargetPort
	}
	if number == 0 {
		number = port.Number
	}
	weight := from.Weight
	if weight == 0 {
		weight = 1
	}
	out := mesh.Endpoint{Address: from.Address, Port: number, Healthy: true, Weight: weight, Labels: from.Labels, Network: from.Network, Cluster: s.options.ClusterID}
	parts := strings.SplitN(from.Locality+"//", "/", 3)
	out.Locality = mesh.Locality{Region: parts[0], Zone: parts[1], SubZone: strings.TrimSuffix(parts[2], "//")}
	out.Locality.SubZone = strings.Trim(out.Locality.SubZone, "/")
	if from.ServiceAccount != "" {
		out.Account = s.identity(object.Namespace, from.ServiceAccount)
	}
	mode := from.Labels[labelTLSMode]
	external := object.Spec.Location == api.ServiceEntry_MESH_EXTERNAL
	out.MTLS = !external && (mode == "istio" || mode == "" && from.ServiceAccount != "")
	return out
}
