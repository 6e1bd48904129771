package resolve

import (
	"maps"
	"reflect"
	"slices"
	"sort"

	api "istio.io/api/networking/v1alpha3"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
	"github.com/slipway-mesh/slipway/internal/discovery/world"
)

const (
	labelTLSMode = "security.istio.io/tlsMode"
)

func (s *step) endpointSlice(namespace, name string, object *discoveryv1.EndpointSlice) {
	if object == nil { // the service's name is in the key: look for the slice below the namespace
		s.slices.Root().WalkPrefix(append(world.Key(namespace), 0), func(_ []byte, slice *discoveryv1.EndpointSlice) bool {
			if slice.Name == name {
				object = slice
			}
			return object != nil
		})
		if object == nil {
			return
		}
		service := object.Labels[discoveryv1.LabelServiceName]
		s.slices, _, _ = s.slices.Delete(world.Key(namespace, service, name))
		s.stale[s.hostOf(namespace, service)] = staleService{namespace, service}
		return
	}
	service := object.Labels[discoveryv1.LabelServiceName]
	if service == "" {
		return
	}
	s.slices, _, _ = s.slices.Insert(world.Key(namespace, service, name), object)
	s.stale[s.hostOf(namespace, service)] = staleService{namespace, service}
}

func (s *step) pod(namespace, name string, object *corev1.Pod) {
	key := world.Key(namespace, name)
	before, _ := s.pods.Get(key)
	s.pods = put(s.pods, key, object, object != nil)
	var labelsBefore, labels map[string]string
	if before != nil {
		labelsBefore = notNil(before.Labels)
	}
	if object != nil {
		labels = notNil(object.Labels)
	}
	if before == nil || object == nil || !maps.Equal(labelsBefore, labels) || before.Status.PodIP != object.Status.PodIP {
		s.workloadChanged(namespace, labelsBefore, labels)
		return
	}
	if podReady(before) == podReady(object) {
		return
	}
	for _, service := range world.Below(s.World.Selecting, namespace) { // a Service's EndpointSlices tell who is ready
		if !service.Kubernetes && mesh.MatchesLabels(service.Selector, labels) {
			s.selectAnew(service)
		}
	}
}

func notNil(labels map[string]string) map[string]string {
	if labels == nil {
		return map[string]string{}
	}
	return labels
}

func (s *step) node(name string, object *corev1.Node) {
	var locality mesh.Locality
	if object != nil {
		locality = mesh.Locality{Region: object.Labels[mesh.LabelRegion], Zone: object.Labels[mesh.LabelZone], SubZone: object.Labels[mesh.LabelSubZone]}
	}
	before, _ := s.World.Nodes.Get([]byte(name))
	s.World.Nodes = put(s.World.Nodes, []byte(name), locality, object != nil)
	if before == locality {
		return
	}
	s.dirty.Tests = true // proxies there are elsewhere now
	s.allStale()
}

// refreshEndpoints computes the endpoints of all stale services. A service whose endpoints' identities changed is
// dirty itself: the identities stand in its cluster.
func (s *step) refreshEndpoints() {
	for entry := range s.staleEntries {
		s.claimHost(entry.host, entry.namespace)
	}
	for _, host := range sortedKeys(s.stale) {
		at := s.stale[host]
		key := world.Key(host, at.namespace)
		service, ok := s.World.Services.Get(key)
		if !ok || !service.Kubernetes {
			if _, had := s.World.Endpoints.Get(key); had && !ok {
				s.World.Endpoints, _, _ = s.World.Endpoints.Delete(key)
				s.dirty.Endpoint(host)
			}
			continue
		}
		endpoints := s.endpointsOf(service)
		if before, _ := s.World.Endpoints.Get(key); before == nil || !reflect.DeepEqual(before, endpoints) {
			s.World.Endpoints, _, _ = s.World.Endpoints.Insert(key, endpoints)
			s.dirty.Endpoint(host)
		}
		if accounts := accountsOf(endpoints); !slices.Equal(accounts, service.Accounts) {
			changed := *service
			changed.Accounts = accounts
			s.World.Services, _, _ = s.World.Services.Insert(key, &changed)
			s.World.Selecting = put(s.World.Selecting, world.Key(at.namespace, at.name), &changed, len(changed.Selector) > 0)
			s.dirty.Host(host)
		}
	}
}

func (s *step) endpointsOf(service *mesh.Service) *mesh.Endpoints {
	out := &mesh.Endpoints{Host: service.Host, ByPort: map[uint32][]mesh.Endpoint{}}
	object, _ := s.services.Get(world.Key(service.Namespace, service.Name))
	slices := world.Below(s.slices, service.Namespace, service.Name)
	numbers := portNumbers(object.Spec.Ports, slices)
	for _, slice := range slices {
		for _, port := range slice.Ports {
			if port.Port == nil {
				continue
			}
			number, ok := numbers(port)
			if !ok {
				continue
			}
			for i := range slice.Endpoints {
				out.ByPort[number] = append(out.ByPort[number], s.convertEndpoint(slice, &slice.Endpoints[i], uint32(*port.Port))...)
			}
		}
	}
	for _, workload := range s.workloadsOf(service.Namespace, service.Selector) {
		for _, port := range service.Ports {
			if made := s.entryEndpoint(workload.Namespace, false, &workload.Spec, &api.ServicePort{Name: port.Name, Number: port.Number, TargetPort: port.TargetPort}); reachable(made) {
				out.ByPort[port.Number] = append(out.ByPort[port.Number], made)
			}
		}
	}
	for _, list := range out.ByPort {
		sort.Slice(list, func(i, j int) bool {
			if list[i].Address != list[j].Address {
				return list[i].Address < list[j].Address
			}
			return list[i].Port < list[j].Port
		})
	}
	return out
}

// portNumbers says which port of a Service a slice's port is behind: the one of its name. When a Service's port is renamed its slices follow
// a moment later, and until then a port of the old name is known by where it leads, so that the Service does not lose its endpoints.
func portNumbers(ports []corev1.ServicePort, slices []*discoveryv1.EndpointSlice) func(discoveryv1.EndpointPort) (uint32, bool) {
	byName, followed := map[string]uint32{}, map[string]bool{}
	for _, port := range ports {
		byName[port.Name] = uint32(port.Port)
	}
	for _, slice := range slices {
		for _, port := range slice.Ports {
			followed[nameOf(port)] = true
		}
	}
	behind := map[int32]uint32{} // the ports that no slice has followed, by the workloads' port
	for _, port := range ports {
		if !followed[port.Name] && port.TargetPort.IntVal != 0 {
			behind[port.TargetPort.IntVal] = uint32(port.Port)
		}
	}
	return func(port discoveryv1.EndpointPort) (uint32, bool) {
		if number, ok := byName[nameOf(port)]; ok {
			return number, true
		}
		number, ok := behind[*port.Port]
		return number, ok
	}
}

func nameOf(port discoveryv1.EndpointPort) string {
	if port.Name == nil {
		return ""
	}
	return *port.Name
}

// convertEndpoint gives one endpoint an address; one that is not ready is left out, as kube-proxy leaves it.
func (s *step) convertEndpoint(slice *discoveryv1.EndpointSlice, from *discoveryv1.Endpoint, port uint32) []mesh.Endpoint {
	if from.Conditions.Ready != nil && !*from.Conditions.Ready {
		return nil
	}
	out := mesh.Endpoint{Port: port, Healthy: true, Weight: 1, Cluster: s.options.ClusterID}
	if from.NodeName != nil {
		out.Node = *from.NodeName
		out.Locality, _ = s.World.Nodes.Get([]byte(out.Node))
	}
	if from.TargetRef != nil && from.TargetRef.Kind == "Pod" {
		if pod, ok := s.pods.Get(world.Key(slice.Namespace, from.TargetRef.Name)); ok {
			s.describe(&out, pod)
		}
	}
	list := make([]mesh.Endpoint, 0, len(from.Addresses))
	for _, address := range from.Addresses {
		out.Address = address
		list = append(list, out)
	}
	return list
}

// identity is the SPIFFE identity of a service account.
func (s *step) identity(namespace, account string) string {
	if account == "" {
		account = "default"
	}
	return "spiffe://" + s.World.Config.TrustDomain + "/ns/" + namespace + "/sa/" + account
}

func accountsOf(endpoints *mesh.Endpoints) []string {
	set := map[string]bool{}
	for _, list := range endpoints.ByPort {
		for _, e := range list {
			if e.Account != "" {
				set[e.Account] = true
			}
		}
	}
	if len(set) == 0 {
		return nil
	}
	return sortedKeys(set)
}
