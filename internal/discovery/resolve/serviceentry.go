package resolve

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"sort"
	"strings"

	api "istio.io/api/networking/v1alpha3"
	networking "istio.io/client-go/pkg/apis/networking/v1"

	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
	"github.com/slipway-mesh/slipway/internal/discovery/world"
)

func (s *step) serviceEntry(namespace, name string, object *networking.ServiceEntry) {
	key := world.Key(namespace, name)
	hosts := map[string]bool{}
	if before, ok := s.entries.Get(key); ok {
		for _, host := range before.Spec.Hosts {
			hosts[host] = true
		}
	}
	s.entries = put(s.entries, key, object, object != nil)
	r := &report{kind: "ServiceEntry", namespace: namespace, name: name}
	if object != nil {
		if len(object.Spec.Hosts) == 0 {
			r.refuse("spec.hosts", "is required")
		}
		if len(object.Spec.Ports) == 0 {
			r.warn("spec.ports", ReasonMissing, "there are no ports, so nothing is reached by this entry")
		}
		for i, host := range object.Spec.Hosts {
			if !isEntryHost(host) {
				r.refuse(fmt.Sprintf("spec.hosts[%d]", i), "%q is no host", host)
				continue
			}
			hosts[host] = true
			convertEntry(host, object, r)
			s.entryEndpoints(host, object, r)
		}
	}
	for _, host := range sortedKeys(hosts) {
		if owner := s.claimHost(host, namespace); object != nil && owner != "" && owner != name {
			r.warn("spec.hosts", ReasonInvalid, "%s is defined by %s/%s, which is older and stands", host, namespace, owner)
		}
	}
	s.keepProblems(r)
}

// isEntryHost says whether a text can be the host of a ServiceEntry, which every host that there is cannot.
func isEntryHost(host string) bool { return host != "*" && hostPattern.MatchString(host) }

func isAddress(text string) bool {
	_, err := netip.ParseAddr(text)
	return err == nil
}

// claimHost gives a host of a namespace to the oldest entry there that names it, or to none, and returns that entry's name.
// A Kubernetes Service of this name stands before all.
func (s *step) claimHost(host, namespace string) string {
	key := world.Key(host, namespace)
	if service, ok := s.World.Services.Get(key); ok && service.Kubernetes {
		return ""
	}
	var owner *networking.ServiceEntry
	for _, entry := range world.Below(s.entries, namespace) {
		if slices.Contains(entry.Spec.Hosts, host) && isEntryHost(host) && (owner == nil || entry.CreationTimestamp.Before(&owner.CreationTimestamp)) {
			owner = entry
		}
	}
	s.dirty.Endpoint(host)
	selecting := world.Key(namespace, "entry", host)
	if owner == nil {
		s.dirty.Host(host)
		s.World.Services, _, _ = s.World.Services.Delete(key)
		s.World.Endpoints, _, _ = s.World.Endpoints.Delete(key)
		s.World.Selecting, _, _ = s.World.Selecting.Delete(selecting)
		return ""
	}
	quiet := &report{} // its own change has reported on it
	service := convertEntry(host, owner, quiet)
	service.ExportTo = s.exportOf(owner)
	endpoints := s.entryEndpoints(host, owner, quiet)
	service.Accounts = accountsOf(endpoints)
	if before, ok := s.World.Services.Get(key); ok && reflect.DeepEqual(before, service) {
		service = before // only its endpoints are others
	} else {
		s.dirty.Host(host)
	}
	s.World.Services, _, _ = s.World.Services.Insert(key, service)
	s.World.Selecting = put(s.World.Selecting, selecting, service, len(service.Selector) > 0)
	s.World.Endpoints, _, _ = s.World.Endpoints.Insert(key, endpoints)
	return owner.Name
}

func convertEntry(host string, object *networking.ServiceEntry, r *report) *mesh.Service {
	spec := &object.Spec
	out := &mesh.Service{
		Host: host, Name: object.Name, Namespace: object.Namespace, Addresses: spec.Addresses, Selector: spec.GetWorkloadSelector().GetLabels(),
		Names: spec.SubjectAltNames, External: spec.Location == api.ServiceEntry_MESH_EXTERNAL, Created: object.CreationTimestamp.Unix(),
	}
	for _, address := range object.Status.GetAddresses() {
		if address.Host == host && wantsAddress(object, host) {
			out.Allocated = append(out.Allocated, address.Value)
		}
	}
	switch spec.Resolution {
	case api.ServiceEntry_STATIC:
		out.Resolution = mesh.Static
	case api.ServiceEntry_DNS:
		out.Resolution = mesh.DNS
	case api.ServiceEntry_DNS_ROUND_ROBIN:
		out.Resolution = mesh.DNSRoundRobin
	case api.ServiceEntry_DYNAMIC_DNS:
		out.Resolution = mesh.DynamicDNS
		if !strings.HasPrefix(host, "*") {
			out.Resolution = mesh.Passthrough
			r.refuse("spec.resolution", "DYNAMIC_DNS is for wildcard hosts, and %s is none; use DNS", host)
		}
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
		if !hasPorts(port) {
			r.refuse(fmt.Sprintf("spec.ports[%d]", i), "number and targetPort must be between 1 and 65535")
			continue
		}
		if out.Resolution == mesh.DynamicDNS && !named(port, protocol, fmt.Sprintf("spec.ports[%d]", i), r) {
			continue
		}
		if protocol == mesh.UDP || slices.ContainsFunc(out.Ports, func(p mesh.Port) bool { return p.Number == port.Number }) {
			continue
		}
		out.Ports = append(out.Ports, mesh.Port{Number: port.Number, Name: port.Name, Protocol: protocol, TargetPort: port.TargetPort})
	}
	return out
}

// named says whether what comes to a port says which host it is for, as DYNAMIC_DNS needs.
func named(port *api.ServicePort, protocol mesh.Protocol, field string, r *report) bool {
	isTLS := protocol == mesh.HTTPS || protocol == mesh.TLS
	switch {
	case !isTLS && !protocol.IsHTTP():
		r.refuse(field+".protocol", "DYNAMIC_DNS needs connections that say which host they are for; use HTTP, HTTP2, GRPC, HTTPS or TLS, or resolution NONE")
		return false
	case !isTLS && port.TargetPort != 0 && port.TargetPort != port.Number:
		r.warn(field+".targetPort", ReasonUnsupported, "has no effect with DYNAMIC_DNS: requests go to the port that their host names, or else to 80, or to 443 where a DestinationRule originates TLS")
	}
	return true
}

func (s *step) entryEndpoints(host string, object *networking.ServiceEntry, r *report) *mesh.Endpoints {
	spec := &object.Spec
	out := &mesh.Endpoints{Host: host, ByPort: map[uint32][]mesh.Endpoint{}}
	if len(spec.WorkloadSelector.GetLabels()) > 0 {
		if len(spec.Endpoints) > 0 {
			r.refuse("spec.workloadSelector", "and endpoints cannot both be set; remove one of them")
		}
		s.selectEndpoints(object, out)
		return out
	}
	ports := slices.DeleteFunc(slices.Clone(spec.Ports), func(p *api.ServicePort) bool { return !hasPorts(p) })
	if spec.Resolution == api.ServiceEntry_DYNAMIC_DNS {
		return out // whatever endpoints it has
	}
	if len(spec.Endpoints) == 0 && spec.Resolution != api.ServiceEntry_STATIC && spec.Resolution != api.ServiceEntry_NONE {
		if strings.HasPrefix(host, "*") {
			return out // there is no such name
		}
		for _, port := range ports { // the host itself is what DNS resolves
			target := port.TargetPort
			if target == 0 {
				target = port.Number
			}
			out.ByPort[port.Number] = []mesh.Endpoint{{Address: host, Port: target, Healthy: true, Weight: 1}}
		}
		return out
	}
	for i, endpoint := range spec.Endpoints {
		byName := spec.Resolution == api.ServiceEntry_DNS || spec.Resolution == api.ServiceEntry_DNS_ROUND_ROBIN
		switch {
		case !isAddress(endpoint.Address) && !byName:
			r.refuse(fmt.Sprintf("spec.endpoints[%d].address", i), "%q is no IP address, and resolution is %s; use DNS", endpoint.Address, spec.Resolution)
			continue
		case !isAddress(endpoint.Address) && (!hostPattern.MatchString(endpoint.Address) || strings.HasPrefix(endpoint.Address, "*")):
			r.refuse(fmt.Sprintf("spec.endpoints[%d].address", i), "%q is neither an IP address nor a host", endpoint.Address)
			continue
		}
		for _, port := range ports {
			if made := s.entryEndpoint(object.Namespace, spec.Location == api.ServiceEntry_MESH_EXTERNAL, endpoint, port); made.Port <= 65535 {
				out.ByPort[port.Number] = append(out.ByPort[port.Number], made)
			} else {
				r.refuse(fmt.Sprintf("spec.endpoints[%d].ports", i), "%d is no port", made.Port)
			}
		}
	}
	for _, list := range out.ByPort {
		sort.SliceStable(list, func(i, j int) bool { return list[i].Address < list[j].Address })
	}
	return out
}

// selectEndpoints adds the Pods and WorkloadEntries that a ServiceEntry selects.
func (s *step) selectEndpoints(object *networking.ServiceEntry, out *mesh.Endpoints) {
	external := object.Spec.Location == api.ServiceEntry_MESH_EXTERNAL
	selector := object.Spec.WorkloadSelector.Labels
	for _, port := range object.Spec.Ports {
		if !hasPorts(port) {
			continue // resolve has told
		}
		var list []mesh.Endpoint
		for _, workload := range s.workloadsOf(object.Namespace, selector) {
			if made := s.entryEndpoint(workload.Namespace, external, &workload.Spec, port); reachable(made) {
				list = append(list, made)
			}
		}
		number := port.TargetPort
		if number == 0 {
			number = port.Number
		}
		for _, pod := range s.podsOf(object.Namespace, selector) {
			endpoint := s.podEndpoint(pod, number)
			endpoint.Address, endpoint.MTLS = pod.Status.PodIP, endpoint.MTLS && !external
			list = append(list, endpoint)
		}
		sort.SliceStable(list, func(i, j int) bool { return list[i].Address < list[j].Address })
		out.ByPort[port.Number] = list
	}
}

// hasPorts says whether the numbers of an entry's port can be ports; a target of 0 is the same as the number.
func hasPorts(port *api.ServicePort) bool { return isPort(port.Number) && port.TargetPort <= 65535 }

// reachable says whether an endpoint can be sent as one: those whose address is a name cannot.
func reachable(e mesh.Endpoint) bool { return isAddress(e.Address) && isPort(e.Port) }

func (s *step) entryEndpoint(namespace string, external bool, from *api.WorkloadEntry, port *api.ServicePort) mesh.Endpoint {
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
	out.Locality = mesh.ParseLocality(from.Locality, "/")
	if from.ServiceAccount != "" {
		out.Account = s.identity(namespace, from.ServiceAccount)
	}
	mode := from.Labels[labelTLSMode]
	out.MTLS = !external && (mode == "istio" || mode == "" && from.ServiceAccount != "")
	return out
}
