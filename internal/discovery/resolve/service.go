package resolve

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
	"github.com/slipway-mesh/slipway/internal/discovery/world"
)

// exportAnnotation limits which namespaces see a Service.
const exportAnnotation = "networking.istio.io/exportTo"

// hostOf is the full name of a Kubernetes Service.
func (s *step) hostOf(namespace, name string) string {
	return name + "." + namespace + ".svc." + s.options.Domain
}

func (s *step) service(namespace, name string, object *corev1.Service) {
	host := s.hostOf(namespace, name)
	key := world.Key(namespace, name)
	exists := object != nil && object.Spec.Type != corev1.ServiceTypeExternalName
	s.alias(namespace, name, object)
	s.services = put(s.services, key, object, exists)
	s.ingressesOf(namespace)
	s.dirty.Host(host)
	s.dirty.Workloads(namespace)
	if !exists {
		if before, ok := s.World.Services.Get(world.Key(host, namespace)); ok && before.Kubernetes {
			s.countNear(before, -1)
		}
		s.World.Services, _, _ = s.World.Services.Delete(world.Key(host, namespace))
		s.World.Selecting, _, _ = s.World.Selecting.Delete(key)
		s.World.Endpoints, _, _ = s.World.Endpoints.Delete(world.Key(host, namespace))
		s.claimHost(host, namespace) // a ServiceEntry may have waited behind it
		return
	}
	converted := s.convertService(host, object)
	if before, ok := s.World.Services.Get(world.Key(host, namespace)); ok {
		converted.Accounts = before.Accounts
		s.countNear(before, -1)
	}
	s.countNear(converted, 1)
	s.World.Services, _, _ = s.World.Services.Insert(world.Key(host, namespace), converted)
	s.World.Selecting = put(s.World.Selecting, key, converted, len(converted.Selector) > 0)
	s.stale[host] = staleService{namespace, name}
	if name == s.World.Config.IngressService {
		s.dirty.Gateways = true
	}
}

// countNear keeps what a service asks about where its callers run.
func (s *step) countNear(service *mesh.Service, by int) {
	for _, label := range service.Near {
		s.countPlace(label, by)
	}
}

func (s *step) convertService(host string, object *corev1.Service) *mesh.Service {
	out := &mesh.Service{
		Host: host, Name: object.Name, Namespace: object.Namespace, Kubernetes: true,
		Created: object.CreationTimestamp.Unix(), Selector: object.Spec.Selector,
		ExportTo: splitList(object.Annotations[exportAnnotation]),
	}
	out.Near = nearFirst(object)
	if object.Spec.ClusterIP == corev1.ClusterIPNone {
		out.Headless = true
	} else {
		for _, ip := range object.Spec.ClusterIPs {
			if ip != "" && ip != corev1.ClusterIPNone {
				out.Addresses = append(out.Addresses, ip)
			}
		}
		if len(out.Addresses) == 0 && object.Spec.ClusterIP != "" {
			out.Addresses = []string{object.Spec.ClusterIP}
		}
	}
	for _, port := range object.Spec.Ports {
		converted := mesh.Port{Number: uint32(port.Port), Name: port.Name, Protocol: protocolOf(port)}
		if port.TargetPort.Type == intstr.Int {
			converted.TargetPort = uint32(port.TargetPort.IntVal)
			if converted.TargetPort == 0 {
				converted.TargetPort = converted.Number
			}
		}
		if converted.Protocol != mesh.UDP {
			out.Ports = append(out.Ports, converted)
		}
	}
	return out
}

// alias keeps what a Service of type ExternalName is another name of.
func (s *step) alias(namespace, name string, object *corev1.Service) {
	key, host := world.Key(namespace, name), s.hostOf(namespace, name)
	if before, ok := s.aliased.Get(key); ok {
		s.markAliased(before)
		s.World.Aliases, _, _ = s.World.Aliases.Delete(world.Key(before, host))
		s.aliased, _, _ = s.aliased.Delete(key)
	}
	if object == nil || object.Spec.Type != corev1.ServiceTypeExternalName || object.Spec.ExternalName == "" {
		return
	}
	target := strings.TrimSuffix(object.Spec.ExternalName, ".")
	s.aliased, _, _ = s.aliased.Insert(key, target)
	s.World.Aliases, _, _ = s.World.Aliases.Insert(world.Key(target, host), world.Alias{Host: host, Name: name, Namespace: namespace})
	s.markAliased(target)
}

// markAliased marks a host, and those that it is itself an alias of.
func (s *step) markAliased(host string) {
	for seen := map[string]bool{}; host != "" && !seen[host]; {
		seen[host] = true
		s.dirty.Host(host)
		name, rest, _ := strings.Cut(host, ".")
		namespace, _, _ := strings.Cut(rest, ".")
		host, _ = s.aliased.Get(world.Key(namespace, name))
	}
}

// trafficDistribution is what a Service's spec of that name, or the annotation of before it, asks to look at.
var trafficDistribution = map[string][]string{
	"PreferClose":    {mesh.LabelNetwork, mesh.LabelRegion, mesh.LabelZone, mesh.LabelSubZone},
	"PreferSameZone": {mesh.LabelNetwork, mesh.LabelRegion, mesh.LabelZone},
	"PreferSameNode": {mesh.LabelNetwork, mesh.LabelRegion, mesh.LabelZone, mesh.LabelSubZone, mesh.LabelHostname},
}

// distributionAnnotation is where Istio's documents put it before Kubernetes had the field.
const distributionAnnotation = "networking.istio.io/traffic-distribution"

func nearFirst(object *corev1.Service) []string {
	wish := object.Annotations[distributionAnnotation]
	if object.Spec.TrafficDistribution != nil {
		wish = *object.Spec.TrafficDistribution
	}
	return trafficDistribution[wish]
}

func splitList(text string) []string {
	var list []string
	for _, item := range strings.Split(text, ",") {
		if item = strings.TrimSpace(item); item != "" {
			list = append(list, item)
		}
	}
	return list
}

// appProtocols are the values of appProtocol that differ from a port name's prefix.
var appProtocols = map[string]mesh.Protocol{
	"kubernetes.io/h2c": mesh.HTTP2, "kubernetes.io/ws": mesh.HTTP, "kubernetes.io/wss": mesh.HTTPS,
}

// protocolOf: appProtocol, then the port name's part before a dash, then well-known ports that speak first on the
// server's side and so cannot be sniffed; else the proxy finds out.
// https://istio.io/latest/docs/ops/configuration/traffic-management/protocol-selection/
func protocolOf(port corev1.ServicePort) mesh.Protocol {
	if port.Protocol == corev1.ProtocolUDP {
		return mesh.UDP
	}
	if port.AppProtocol != nil {
		if p, ok := appProtocols[strings.ToLower(*port.AppProtocol)]; ok {
			return p
		}
		return namedProtocol(*port.AppProtocol)
	}
	if p := namedProtocol(port.Name); p != mesh.Auto {
		return p
	}
	switch port.Port {
	case 25, 53, 3306, 27017:
		return mesh.TCP
	}
	return mesh.Auto
}

// protocolNames maps the names that ports and ServiceEntries use. Mongo, Redis and MySQL are TCP to us.
var protocolNames = map[string]mesh.Protocol{
	"http": mesh.HTTP, "http2": mesh.HTTP2, "grpc": mesh.GRPC, "grpc-web": mesh.GRPCWeb, "https": mesh.HTTPS, "tls": mesh.TLS,
	"tcp": mesh.TCP, "udp": mesh.UDP, "mongo": mesh.TCP, "redis": mesh.TCP, "mysql": mesh.TCP,
}

func namedProtocol(name string) mesh.Protocol {
	name = strings.ToLower(name)
	if name == "grpc-web" || strings.HasPrefix(name, "grpc-web-") {
		return mesh.GRPCWeb
	}
	prefix, _, _ := strings.Cut(name, "-")
	return protocolNames[prefix]
}
