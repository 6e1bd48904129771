package resolve

import (
	"fmt"
	"net"
	"strconv"
	"strings"

	api "istio.io/api/networking/v1alpha3"
	networking "istio.io/client-go/pkg/apis/networking/v1"

	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
	"github.com/slipway-mesh/slipway/internal/discovery/world"
)

func (s *step) sidecar(namespace, name string, object *networking.Sidecar) {
	r := &report{kind: "Sidecar", namespace: namespace, name: name}
	defer s.keepProblems(r)
	key := world.Key(namespace, name)
	if object == nil {
		s.World.Sidecars, _, _ = s.World.Sidecars.Delete(key)
	} else {
		s.World.Sidecars, _, _ = s.World.Sidecars.Insert(key, s.convertSidecar(object, r))
	}
	s.dirty.Tests = true
	s.dirty.Sidecar(namespace, name)
	if namespace == s.World.Config.RootNamespace {
		namespace = "*"
	}
	s.dirty.Workloads(namespace)
}

func (s *step) convertSidecar(object *networking.Sidecar, r *report) *mesh.Sidecar {
	spec := &object.Spec
	out := &mesh.Sidecar{
		Owner:    mesh.Owner{Kind: r.kind, Namespace: object.Namespace, Name: object.Name},
		Selector: spec.GetWorkloadSelector().GetLabels(), Created: object.CreationTimestamp.Unix(), Pool: soundPool(spec.InboundConnectionPool, "spec.inboundConnectionPool", r),
	}
	names := naming{s.options.Domain, object.Namespace}
	ports := map[uint32]bool{}
	for i, from := range spec.Egress {
		field := fmt.Sprintf("spec.egress[%d]", i)
		egress := convertEgress(names, from, field, r)
		if ports[egress.Port] {
			r.refuse(field+".port", "another egress is for the same port; the first counts")
			continue
		}
		ports[egress.Port] = true
		out.Egress = append(out.Egress, egress)
	}
	for i, from := range spec.Ingress {
		if ingress := convertIngress(from, fmt.Sprintf("spec.ingress[%d]", i), r); ingress != nil {
			out.Ingress = append(out.Ingress, ingress)
		}
	}
	if policy := spec.OutboundTrafficPolicy; policy != nil {
		out.Policy = &mesh.OutsidePolicy{AllowAny: policy.Mode != api.OutboundTrafficPolicy_REGISTRY_ONLY}
		if proxy := policy.EgressProxy; proxy != nil {
			out.Policy.Proxy = convertDestination(names, proxy, 0, nil, "spec.outboundTrafficPolicy.egressProxy", r)
		}
	}
	return out
}

func convertEgress(names naming, from *api.IstioEgressListener, field string, r *report) *mesh.Egress {
	out := &mesh.Egress{Port: from.GetPort().GetNumber(), Bind: from.Bind, Proxy: from.GetPort().GetProtocol() == "HTTP_PROXY"}
	out.Bound = out.Proxy || from.CaptureMode == api.CaptureMode_NONE
	if out.Bind != "" {
		if !isAddress(out.Bind) {
			r.refuse(field+".bind", "%q is no IP address", out.Bind)
			out.Bind = ""
		} else if out.Port == 0 {
			r.refuse(field+".bind", "needs a port")
			out.Bind = ""
		}
	}
	if out.Bound && out.Bind == "" {
		out.Bind = "127.0.0.1"
	}
	if len(from.Hosts) == 0 {
		r.refuse(field+".hosts", "is required; */* is every host")
	}
	for i, text := range from.Hosts {
		namespace, host, ok := strings.Cut(text, "/")
		if !ok {
			r.refuse(fmt.Sprintf("%s.hosts[%d]", field, i), "%q is not NAMESPACE/HOST", text)
			continue
		}
		pattern := mesh.EgressHost{Namespace: namespace, Host: names.full(host)}
		if rest, except := strings.CutPrefix(namespace, "~"); except && rest != "" {
			pattern.Namespace, pattern.Except = rest, true
		} else if namespace == "~" {
			continue // no host at all
		}
		if pattern.Namespace == "." {
			pattern.Namespace = names.namespace
		}
		out.Hosts = append(out.Hosts, pattern)
	}
	return out
}

// convertIngress returns nil for a port that cannot be served.
func convertIngress(from *api.IstioIngressListener, field string, r *report) *mesh.Ingress {
	number := from.GetPort().GetNumber()
	if !isPort(number) {
		r.refuse(field+".port.number", "must be between 1 and 65535")
		return nil
	}
	protocol, ok := protocolNames[strings.ToLower(from.Port.Protocol)]
	if !ok && from.Port.Protocol != "" {
		r.refuse(field+".port.protocol", "%q is not a protocol; use one of HTTP, HTTPS, HTTP2, GRPC, TCP, TLS", from.Port.Protocol)
		return nil
	}
	if from.Tls != nil && !checkIngressTLS(protocol, from.Tls, field+".tls", r) {
		return nil
	}
	if from.Bind != "" && !isAddress(from.Bind) {
		r.refuse(field+".bind", "%q is no IP address", from.Bind)
		return nil
	}
	out := &mesh.Ingress{Port: number, Protocol: protocol, Bind: from.Bind, Bound: from.CaptureMode == api.CaptureMode_NONE, Pool: soundPool(from.ConnectionPool, field+".connectionPool", r), TLS: from.Tls}
	if from.DefaultEndpoint == "" || strings.HasPrefix(from.DefaultEndpoint, "unix://") {
		out.Endpoint = from.DefaultEndpoint
		return out
	}
	address, port, err := net.SplitHostPort(from.DefaultEndpoint)
	if _, notNumber := strconv.ParseUint(port, 10, 16); err != nil || notNumber != nil {
		r.refuse(field+".defaultEndpoint", "%q is neither ADDRESS:PORT nor unix:///PATH", from.DefaultEndpoint)
		return nil
	}
	switch address {
	case "127.0.0.1", "::1", "0.0.0.0", "::":
		out.Endpoint = net.JoinHostPort(address, port)
	default:
		r.refuse(field+".defaultEndpoint", "%q is not an address of the workload; use 127.0.0.1, [::1], or 0.0.0.0 for the pod's own", address)
		return nil
	}
	return out
}

// checkIngressTLS says whether the TLS of a port that a Sidecar serves can be carried out: it ends here, for callers that are not of the mesh.
func checkIngressTLS(protocol mesh.Protocol, tls *api.ServerTLSSettings, field string, r *report) bool {
	if protocol != mesh.HTTPS && protocol != mesh.TLS {
		r.refuse(field, "is for a port of protocol HTTPS or TLS")
		return false
	}
	switch tls.Mode {
	case api.ServerTLSSettings_SIMPLE, api.ServerTLSSettings_MUTUAL, api.ServerTLSSettings_OPTIONAL_MUTUAL:
		return checkServerTLS(protocol, tls, field, r)
	}
	r.refuse(field+".mode", "%s is not for a sidecar; use SIMPLE or MUTUAL, since the mesh's own TLS is as PeerAuthentication says", tls.Mode)
	return false
}
