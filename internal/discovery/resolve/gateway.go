package resolve

import (
	"fmt"
	"strings"

	networking "istio.io/client-go/pkg/apis/networking/v1"

	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
)

func (s *step) gateway(namespace, name string, object *networking.Gateway) {
	s.dirty.Gateways = true
	key := []byte(namespace + "/" + name)
	r := &report{kind: "Gateway", namespace: namespace, name: name}
	defer s.keepProblems(r)
	if object == nil {
		s.World.Gateways, _, _ = s.World.Gateways.Delete(key)
		return
	}
	converted := convertGateway(s.options.Domain, object, r)
	s.World.Gateways, _, _ = s.World.Gateways.Insert(key, converted)
}

func convertGateway(domain string, object *networking.Gateway, r *report) *mesh.Gateway {
	out := &mesh.Gateway{
		Owner:    mesh.Owner{Kind: r.kind, Namespace: object.Namespace, Name: object.Name},
		Selector: object.Spec.Selector, Created: object.CreationTimestamp.Unix(),
	}
	names := naming{domain, object.Namespace}
	for i, from := range object.Spec.Servers {
		field := fmt.Sprintf("spec.servers[%d]", i)
		if from.Port == nil || from.Port.Number == 0 || from.Port.Number > 65535 {
			r.refuse(field+".port.number", "must be between 1 and 65535")
			continue
		}
		protocol, ok := protocolNames[strings.ToLower(from.Port.Protocol)]
		if !ok {
			r.refuse(field+".port.protocol", "%q is not a protocol; use one of HTTP, HTTPS, HTTP2, GRPC, TCP, TLS", from.Port.Protocol)
			continue
		}
		if len(from.Hosts) == 0 {
			r.refuse(field+".hosts", "is required")
		}
		server := mesh.Server{Port: from.Port.Number, PortName: from.Port.Name, Protocol: protocol, Bind: from.Bind, TLS: from.Tls, Name: from.Name}
		for _, host := range from.Hosts {
			server.Hosts = append(server.Hosts, serverHost(names, host))
		}
		if (protocol == mesh.HTTPS || protocol == mesh.TLS) && from.Tls == nil {
			r.refuse(field+".tls", "is required for protocol %s", protocol)
			continue
		}
		if !protocol.IsHTTP() && protocol != mesh.TCP {
			r.warn(field+".port.protocol", ReasonUnsupported, "%s is not supported yet; the port stays closed", protocol)
			continue
		}
		out.Servers = append(out.Servers, server)
	}
	return out
}

// serverHost reads "host", "namespace/host", "./host" or "*/host".
func serverHost(names naming, text string) mesh.ServerHost {
	namespace, host, ok := strings.Cut(text, "/")
	if !ok {
		return mesh.ServerHost{Namespace: "*", Host: names.full(text)}
	}
	if namespace == "." {
		namespace = names.namespace
	}
	return mesh.ServerHost{Namespace: namespace, Host: names.full(host)}
}
