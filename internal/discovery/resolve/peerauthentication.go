package resolve

import (
	api "istio.io/api/security/v1beta1"
	security "istio.io/client-go/pkg/apis/security/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
	"github.com/slipway-mesh/slipway/internal/discovery/world"
)

var mtlsModes = map[api.PeerAuthentication_MutualTLS_Mode]mesh.MTLSMode{
	api.PeerAuthentication_MutualTLS_DISABLE: mesh.Disable, api.PeerAuthentication_MutualTLS_PERMISSIVE: mesh.Permissive,
	api.PeerAuthentication_MutualTLS_STRICT: mesh.Strict,
}

func (s *step) peerAuthentication(namespace, name string, object *security.PeerAuthentication) {
	key := world.Key(namespace, name)
	r := &report{kind: "PeerAuthentication", namespace: namespace, name: name}
	defer s.keepProblems(r)
	disabled := s.someDisabled()
	if object == nil {
		s.World.PeerAuthentications, _, _ = s.World.PeerAuthentications.Delete(key)
	} else {
		converted := &mesh.PeerAuthentication{
			Owner: mesh.Owner{Kind: r.kind, Namespace: namespace, Name: name}, Selector: object.Spec.GetSelector().GetMatchLabels(),
			Mode: mtlsModes[object.Spec.GetMtls().GetMode()], Ports: map[uint32]mesh.MTLSMode{}, Created: object.CreationTimestamp.Unix(),
		}
		for port, mtls := range object.Spec.PortLevelMtls {
			converted.Ports[port] = mtlsModes[mtls.GetMode()]
		}
		if len(converted.Ports) > 0 && len(converted.Selector) == 0 {
			r.warn("spec.portLevelMtls", ReasonInvalid, "has no effect without a selector")
		}
		s.World.PeerAuthentications, _, _ = s.World.PeerAuthentications.Insert(key, converted)
	}
	if namespace == s.World.Config.RootNamespace {
		s.dirty.Workloads("*")
	} else {
		s.dirty.Workloads(namespace)
	}
	if disabled || s.someDisabled() {
		s.offersChanged(namespace)
	}
}

// someDisabled says whether mutual TLS is off anywhere. Where it is not, callers do the same whatever the modes are: which of the
// others a workload has is its own proxy's affair.
func (s *step) someDisabled() bool {
	found := false
	s.World.PeerAuthentications.Root().Walk(func(_ []byte, p *mesh.PeerAuthentication) bool {
		found = p.Mode == mesh.Disable
		for _, mode := range p.Ports {
			found = found || mode == mesh.Disable
		}
		return found
	})
	return found
}

// offersChanged marks what callers of a namespace's services do: whether endpoints are offered mutual TLS may be another now. The
// root namespace bears upon all.
func (s *step) offersChanged(namespace string) {
	s.World.Selecting.Root().Walk(func(_ []byte, service *mesh.Service) bool {
		if !service.Kubernetes && (namespace == s.World.Config.RootNamespace || service.Namespace == namespace) {
			s.selectAnew(service)
		}
		return false
	})
	s.services.Root().Walk(func(_ []byte, service *corev1.Service) bool {
		if namespace == s.World.Config.RootNamespace || service.Namespace == namespace {
			host := s.hostOf(service.Namespace, service.Name)
			s.stale[host] = staleService{service.Namespace, service.Name}
			s.dirty.Host(host)
		}
		return false
	})
}
