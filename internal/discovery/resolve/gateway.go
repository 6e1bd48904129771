package resolve

import (
	"fmt"
	"strings"

	api "istio.io/api/networking/v1alpha3"
	networking "istio.io/client-go/pkg/apis/networking/v1"

	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
)

func (s *step) gateway(namespace, name string, object *networking.Gateway) {
	s.dirty.Gateways = true
	key := []byte(namespace + "/" + name)
	r := &report{kind: "Gateway", namespace: namespace, name: name}
	defer s.keepProblems(r)
	before, _ := s.World.Gateways.Get(key)
	s.dirty.Tests = s.dirty.Tests || before.LeadsThrough()
	if object == nil {
		s.World.Gateways, _, _ = s.World.Gateways.Delete(key)
		return
	}
	converted := convertGateway(s.options.Domain, object, r)
	s.dirty.Tests = s.dirty.Tests || converted.LeadsThrough()
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
		if from.Port == nil || !isPort(from.Port.Number) {
			r.refuse(field+".port.number", "must be between 1 and 65535")
			continue
		}
		protocol, ok := protocolNames[strings.ToLower(from.Port.Protocol)]
		if !ok {
			r.refuse(field+".port.protocol", "%q is not a protocol; use one of HTTP, HTTPS, HTTP2, GRPC, TCP, TLS", from.Port.Protocol)
			continue
		}
		if from.Bind != "" && !isAddress(from.Bind) {
			r.refuse(field+".bind", "%q is no IP address; sockets of other kinds are not supported", from.Bind)
			continue
		}
		if len(from.Hosts) == 0 {
			r.refuse(field+".hosts", "is required")
		}
		server := mesh.Server{Port: from.Port.Number, PortName: from.Port.Name, Protocol: protocol, Bind: from.Bind, TLS: from.Tls, Name: from.Name}
		for k, host := range from.Hosts {
			if !isHost(host[strings.LastIndex(host, "/")+1:]) {
				r.refuse(fmt.Sprintf("%s.hosts[%d]", field, k), "%q is no host", host)
				continue
			}
			server.Hosts = append(server.Hosts, serverHost(names, host))
		}
		if (protocol == mesh.HTTPS || protocol == mesh.TLS) && from.Tls == nil {
			r.refuse(field+".tls", "is required for protocol %s", protocol)
			continue
		}
		if !checkServerTLS(protocol, from.Tls, field+".tls", r) {
			continue
		}
		out.Servers = append(out.Servers, server)
	}
	return out
}

// checkServerTLS says whether a server's TLS can be carried out.
func checkServerTLS(protocol mesh.Protocol, tls *api.ServerTLSSettings, field string, r *report) bool {
	if tls == nil || protocol.IsHTTP() { // plain HTTP has httpsRedirect only
		return true
	}
	if protocol == mesh.TCP {
		r.refuse(field, "TCP has no TLS; use protocol TLS")
		return false
	}
	before := len(r.list)
	if tls.HttpsRedirect {
		r.refuse(field+".httpsRedirect", "is for a server of protocol HTTP")
	}
	files := tls.ServerCertificate != "" && tls.PrivateKey != "" || len(tls.TlsCertificates) > 0
	secret := tls.CredentialName != "" || len(tls.CredentialNames) > 0
	switch tls.Mode {
	case api.ServerTLSSettings_PASSTHROUGH, api.ServerTLSSettings_ISTIO_MUTUAL, api.ServerTLSSettings_AUTO_PASSTHROUGH:
	case api.ServerTLSSettings_SIMPLE, api.ServerTLSSettings_MUTUAL, api.ServerTLSSettings_OPTIONAL_MUTUAL:
		if !secret && !files {
			r.refuse(field, "needs credentialName, or serverCertificate and privateKey")
		}
		if tls.Mode != api.ServerTLSSettings_SIMPLE && !secret && mesh.ClientAuthorityFile(tls) == "" && tls.CaCertCredentialName == "" {
			r.refuse(field+".caCertificates", "is required for mode %s", tls.Mode)
		}
	}
	return len(r.list) == before
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
