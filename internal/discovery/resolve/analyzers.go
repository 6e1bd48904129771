package resolve

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	api "istio.io/api/networking/v1alpha3"
	telemetryapi "istio.io/api/telemetry/v1alpha1"
	networking "istio.io/client-go/pkg/apis/networking/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
	"github.com/slipway-mesh/slipway/internal/discovery/world"
)

// What follows looks at objects of one kind among each other, or at what they select, as Istio's analyzers do.
// https://istio.io/latest/docs/reference/config/analysis/

// selecting is an object that speaks of workloads by their labels.
type selecting struct {
	mesh.Owner
	selector map[string]string
	field    string
}

func (s *State) analyzeSelectors(r *report) {
	var all []selecting
	s.World.AuthorizationPolicies.Root().Walk(func(_ []byte, p *mesh.AuthorizationPolicy) bool {
		all = append(all, selecting{p.Owner, p.Selector, "spec.selector"})
		return false
	})
	s.World.RequestAuthentications.Root().Walk(func(_ []byte, p *mesh.RequestAuthentication) bool {
		all = append(all, selecting{p.Owner, p.Selector, "spec.selector"})
		return false
	})
	s.World.PeerAuthentications.Root().Walk(func(_ []byte, p *mesh.PeerAuthentication) bool {
		all = append(all, selecting{p.Owner, p.Selector, "spec.selector"})
		return false
	})
	s.World.Telemetries.Root().Walk(func(_ []byte, t *mesh.Telemetry) bool {
		all = append(all, selecting{t.Owner, t.Selector, "spec.selector"})
		return false
	})
	s.World.Sidecars.Root().Walk(func(_ []byte, o *mesh.Sidecar) bool {
		all = append(all, selecting{o.Owner, o.Selector, "spec.workloadSelector"})
		return false
	})
	for i, one := range all {
		if len(one.selector) > 0 && len(s.selected(one)) == 0 {
			r.about(one.Owner)
			r.warn(one.field, ReasonNobody, "selects no workload")
		}
		if one.Kind != "Sidecar" && one.Kind != "Telemetry" {
			continue
		}
		for _, other := range all[:i] {
			if other.Kind != one.Kind || other.Namespace != one.Namespace {
				continue
			}
			r.about(one.Owner)
			switch {
			case len(one.selector) == 0 && len(other.selector) == 0 && one.Kind == "Telemetry":
				r.warn(one.field, ReasonTelemetries, "is empty as that of Telemetry %s is; only the older of both counts", other.Name)
			case len(one.selector) > 0 && len(other.selector) > 0:
				if pod := s.selectedByBoth(one, other); pod != "" {
					r.warn(one.field, selectorReasons[one.Kind], "selects Pod %s, as %s %s does; only the older of both counts there", pod, other.Kind, other.Name)
				}
			}
		}
	}
}

var selectorReasons = map[string]string{"Sidecar": ReasonSidecarSelectors, "Telemetry": ReasonTelemetrySelectors}

// about makes what is told next be of an object.
func (r *report) about(o mesh.Owner) { r.kind, r.namespace, r.name = o.Kind, o.Namespace, o.Name }

// selected lists the Pods that an object speaks of. One of the root namespace speaks of all namespaces' where it is a policy.
func (s *State) selected(one selecting) []string {
	var pods []string
	visit := func(_ []byte, pod *corev1.Pod) bool {
		if mesh.MatchesLabels(one.selector, pod.Labels) {
			pods = append(pods, pod.Namespace+"/"+pod.Name)
		}
		return false
	}
	if one.Namespace == s.World.Config.RootNamespace {
		s.pods.Root().Walk(visit)
	} else {
		s.pods.Root().WalkPrefix(append(world.Key(one.Namespace), 0), visit)
	}
	return pods
}

func (s *State) selectedByBoth(a, b selecting) string {
	second := s.selected(b)
	for _, pod := range s.selected(a) {
		if slices.Contains(second, pod) {
			return pod
		}
	}
	return ""
}

// analyzeHosts tells of VirtualServices of one host of which sidecars follow one only.
func (s *State) analyzeHosts(r *report) {
	first := map[string]*mesh.VirtualService{}
	seen := map[mesh.Owner]bool{}
	s.virtual.Root().Walk(func(_ []byte, v *mesh.VirtualService) bool {
		if !v.OnMesh() || seen[v.Owner] {
			return false
		}
		seen[v.Owner] = true
		for i, host := range v.Hosts {
			other := first[host]
			if other == nil {
				first[host] = v
				continue
			}
			if v.VisibleFrom(other.Namespace, s.World.Config) || other.VisibleFrom(v.Namespace, s.World.Config) {
				r.about(v.Owner)
				r.warn(fmt.Sprintf("spec.hosts[%d]", i), ReasonMeshHosts, "%s is a host of VirtualService %s/%s as well; sidecars follow the older of both only", host, other.Namespace, other.Name)
			}
		}
		return false
	})
}

// analyzeServers tells of Gateways of the same proxies that want the same, and of ports that the proxies' Services do not have.
func (s *State) analyzeServers(r *report) {
	type place struct {
		selector, hosts string
		port            uint32
	}
	hosts, certificates := map[place]mesh.Owner{}, map[[2]string]mesh.Owner{}
	s.World.Gateways.Root().Walk(func(_ []byte, g *mesh.Gateway) bool {
		if g.Kind != "Gateway" {
			return false
		}
		r.about(g.Owner)
		selector := fmt.Sprint(g.Selector)
		for i, server := range g.Servers {
			field := fmt.Sprintf("spec.servers[%d]", i)
			at := place{selector, fmt.Sprint(server.Hosts), server.Port}
			if other, there := hosts[at]; there && other != g.Owner {
				r.warn(field, ReasonGateways, "Gateway %s/%s has the same hosts on the same port of the same proxies; the older of both counts", other.Namespace, other.Name)
			} else {
				hosts[at] = g.Owner
			}
			if name := server.TLS.GetCredentialName(); name != "" {
				if other, there := certificates[[2]string{selector, name}]; there && other != g.Owner {
					r.warn(field+".tls.credentialName", ReasonCertificate, "%s is the certificate of Gateway %s/%s as well: browsers use one connection for the hosts of both, and are answered 404 for one of them", name, other.Namespace, other.Name)
				} else {
					certificates[[2]string{selector, name}] = g.Owner
				}
			}
			if !s.servesPort(g, server.Port) {
				r.warn(field+".port.number", ReasonServicePort, "no Service of the proxies that are selected has the port %d, so that nothing comes there from outside", server.Port)
			}
		}
		return false
	})
}

// servesPort says whether some Service leads to a port of a Gateway's proxies; true where there is no Service or no proxy.
func (s *State) servesPort(g *mesh.Gateway, port uint32) bool {
	found, has := false, false
	s.pods.Root().Walk(func(_ []byte, pod *corev1.Pod) bool {
		if !mesh.MatchesLabels(g.Selector, pod.Labels) {
			return false
		}
		for _, service := range world.Below(s.World.Selecting, pod.Namespace) {
			if service.Kubernetes && mesh.MatchesLabels(service.Selector, pod.Labels) {
				found = true
				has = has || slices.ContainsFunc(service.Ports, func(p mesh.Port) bool { return p.Number == port || p.TargetPort == port })
			}
		}
		return has
	})
	return has || !found
}

// analyzeSecurity tells of rules that speak plain text to who takes mutual TLS only.
func (s *State) analyzeSecurity(r *report) {
	s.World.Rules.Root().Walk(func(_ []byte, rule *mesh.DestinationRule) bool {
		service := s.known(rule.Host, rule.Namespace)
		if service == nil || service.External || s.World.MTLSMode(service.Namespace, nil, 0) != mesh.Strict {
			return false
		}
		for _, policy := range rule.Policies() {
			if tls := policy.Tls; tls != nil && tls.Mode != api.ClientTLSSettings_ISTIO_MUTUAL {
				r.about(rule.Owner)
				r.warn(policy.Field+".tls.mode", ReasonConflict, "%s is not what the workloads of %s take: PeerAuthentication is STRICT there; use ISTIO_MUTUAL, or leave tls out", tls.Mode, rule.Host)
			}
		}
		return false
	})
}

// analyzeEntries tells of ServiceEntries whose connections nothing tells from others'.
func (s *State) analyzeEntries(r *report) {
	s.entries.Root().Walk(func(_ []byte, entry *networking.ServiceEntry) bool {
		if len(entry.Spec.Addresses) > 0 || len(entry.Status.GetAddresses()) > 0 {
			return false
		}
		for i, port := range entry.Spec.Ports {
			if protocol, known := protocolNames[strings.ToLower(port.Protocol)]; known && protocol == mesh.TCP {
				r.kind, r.namespace, r.name = "ServiceEntry", entry.Namespace, entry.Name
				r.warn(fmt.Sprintf("spec.ports[%d]", i), ReasonAddresses, "speaks TCP, of which only the address tells where it goes, and the entry has no addresses: all connections to port %d are taken for it", port.Number)
			}
		}
		return false
	})
}

// analyzeShared tells of Services that lead to one port of a workload with different protocols: only one can be right.
func (s *State) analyzeShared(r *report) {
	type port struct {
		pod    string
		number uint32
	}
	first := map[port]*mesh.Service{}
	protocols := map[port]mesh.Protocol{}
	told := map[string]bool{}
	s.World.Selecting.Root().Walk(func(_ []byte, service *mesh.Service) bool {
		if !service.Kubernetes {
			return false
		}
		for _, pod := range s.selected(selecting{mesh.Owner{Namespace: service.Namespace}, service.Selector, ""}) {
			if !strings.HasPrefix(pod, service.Namespace+"/") {
				continue
			}
			for i, p := range service.Ports {
				at := port{pod, p.TargetPort}
				other := first[at]
				if p.TargetPort == 0 || other == nil {
					first[at], protocols[at] = service, p.Protocol
					continue
				}
				if key := service.Host + other.Host; protocols[at] != p.Protocol && other != service && !told[key] {
					told[key] = true
					r.kind, r.namespace, r.name = "Service", service.Namespace, service.Name
					r.warn(fmt.Sprintf("spec.ports[%d]", i), ReasonShared, "leads to port %d of Pod %s with another protocol than Service %s; the older of both counts", p.TargetPort, pod, other.Name)
				}
			}
		}
		return false
	})
}

// analyzePatches tells of EnvoyFilters whose patches depend on what others leave them, or have no effect.
func (s *State) analyzePatches(r *report) {
	s.World.EnvoyFilters.Root().Walk(func(_ []byte, filter *mesh.EnvoyFilter) bool {
		r.about(filter.Owner)
		for i, p := range filter.Patches {
			field := fmt.Sprintf("spec.configPatches[%d].patch.operation", i)
			to := p.GetApplyTo()
			table := to == api.EnvoyFilter_ROUTE_CONFIGURATION || to == api.EnvoyFilter_HTTP_ROUTE
			switch op := p.GetPatch().GetOperation(); {
			case op == api.EnvoyFilter_Patch_REPLACE && to != api.EnvoyFilter_HTTP_FILTER && to != api.EnvoyFilter_NETWORK_FILTER:
				r.warn(field, ReasonPatch, "REPLACE is for HTTP_FILTER and NETWORK_FILTER, and has no effect on %s", to)
			case op == api.EnvoyFilter_Patch_ADD && table:
				r.warn(field, ReasonPatch, "ADD has no effect on %s; use MERGE, or INSERT_FIRST for routes", to)
			case op == api.EnvoyFilter_Patch_REMOVE && to == api.EnvoyFilter_ROUTE_CONFIGURATION:
				r.warn(field, ReasonPatch, "REMOVE has no effect on %s", to)
			case filter.Priority == 0 && (op == api.EnvoyFilter_Patch_INSERT_BEFORE || op == api.EnvoyFilter_Patch_INSERT_AFTER || op == api.EnvoyFilter_Patch_INSERT_FIRST):
				r.warn(field, ReasonRelative, "%s depends on what other EnvoyFilters have done before; say by priority which come first", op)
			}
		}
		return false
	})
}

// analyzeClaims tells of rules by tokens' claims at gateways that look at no tokens.
func (s *State) analyzeClaims(object *networking.VirtualService, r *report) {
	const claim = "@request.auth.claims"
	for i, rule := range object.Spec.Http {
		for k, match := range rule.Match {
			for _, headers := range []map[string]*api.StringMatch{match.Headers, match.WithoutHeaders} {
				for _, name := range slices.Sorted(maps.Keys(headers)) {
					if strings.HasPrefix(name, claim) && !s.looksAtTokens(object) {
						r.warn(fmt.Sprintf("spec.http[%d].match[%d].headers", i, k), ReasonClaims, "%s is a token's claim, and no RequestAuthentication is for the proxies of its gateways", name)
					}
				}
			}
		}
	}
}

// looksAtTokens says whether a RequestAuthentication is for the proxies of some gateway that an object names.
func (s *State) looksAtTokens(object *networking.VirtualService) bool {
	found := false
	for _, name := range gatewayNames(object.Spec.Gateways, object.Namespace) {
		gateway, ok := s.World.Gateways.Get([]byte(name))
		if !ok {
			continue
		}
		s.World.RequestAuthentications.Root().Walk(func(_ []byte, p *mesh.RequestAuthentication) bool {
			found = found || len(p.Selector) == 0 || maps.Equal(p.Selector, gateway.Selector) || mesh.MatchesLabels(p.Selector, gateway.Selector)
			return found
		})
	}
	return found
}

// analyzeTelemetry tells of providers that MeshConfig does not have, or not for what they are named for.
func (s *State) analyzeTelemetry(r *report) {
	s.World.Telemetries.Root().Walk(func(_ []byte, t *mesh.Telemetry) bool {
		r.about(t.Owner)
		check := func(refs []*telemetryapi.ProviderRef, field string, fits func(name string) bool) {
			for i, ref := range refs {
				at := fmt.Sprintf("%s.providers[%d].name", field, i)
				if s.World.Config.Observers.Providers[ref.Name] == nil {
					r.warn(at, ReasonProvider, "MeshConfig has no extension provider %q", ref.Name)
				} else if !fits(ref.Name) {
					r.warn(at, ReasonProvider, "the extension provider %q is not for this, or of a kind that is not supported", ref.Name)
				}
			}
		}
		providers := s.World.Config.Observers.Providers
		for i, log := range t.Spec.AccessLogging {
			check(log.Providers, fmt.Sprintf("spec.accessLogging[%d]", i), func(name string) bool {
				return providers[name].GetEnvoyFileAccessLog() != nil || mesh.LogService(providers[name]) != nil
			})
		}
		for i, trace := range t.Spec.Tracing {
			check(trace.Providers, fmt.Sprintf("spec.tracing[%d]", i), func(name string) bool { return mesh.TraceService(providers[name]) != nil })
		}
		return false
	})
}
