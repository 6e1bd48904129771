package discovery

import (
	"fmt"
	"slices"
	"strings"

	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
	"github.com/slipway-mesh/slipway/internal/discovery/resolve"
	"github.com/slipway-mesh/slipway/internal/discovery/scope"
	"github.com/slipway-mesh/slipway/internal/discovery/world"
)

// Description is what a mesh's configuration means for a workload, or for a service.
type Description struct {
	// Sidecar, Filters and Policies are the objects that are for the workload, with what they do; NAMESPACE/NAME each.
	Sidecar  string   `json:"sidecar,omitempty"`
	Filters  []string `json:"envoyFilters,omitempty"`
	Policies []string `json:"policies,omitempty"`
	// Services are those that the workload is part of, or the one that was asked for.
	Services []ServiceDescription `json:"services"`
	// Problems are those of the objects that are named.
	Problems []resolve.Problem `json:"problems,omitempty"`

	named map[mesh.Owner]bool
}

// ServiceDescription is a service as callers of its own namespace see it.
type ServiceDescription struct {
	Host  string            `json:"host"`
	Ports []PortDescription `json:"ports"`
	// Rule is the DestinationRule; Subsets are its, and Matching those whose labels the workload has.
	Rule     string   `json:"destinationRule,omitempty"`
	Subsets  []string `json:"subsets,omitempty"`
	Matching []string `json:"matchingSubsets,omitempty"`
	// Routes are the VirtualServices that send to it, each with where it is followed.
	Routes []string `json:"virtualServices,omitempty"`
}

// PortDescription is one port of a service, and which connections are taken there.
type PortDescription struct {
	Number   uint32 `json:"port"`
	Name     string `json:"name,omitempty"`
	Protocol string `json:"protocol"`
	Target   uint32 `json:"targetPort,omitempty"`
	MTLS     string `json:"mtls"`
}

var modeNames = map[mesh.MTLSMode]string{mesh.Disable: "DISABLE", mesh.Permissive: "PERMISSIVE", mesh.Strict: "STRICT"}

var actionNames = map[mesh.Action]string{mesh.Custom: "CUSTOM", mesh.Audit: "AUDIT", mesh.Deny: "DENY", mesh.Allow: "ALLOW"}

// DescribeWorkload tells of the workload with the labels.
func DescribeWorkload(state *resolve.State, namespace string, labels map[string]string) *Description {
	w, d := state.World, &Description{named: map[mesh.Owner]bool{}}
	proxy := &mesh.Proxy{Kind: mesh.SidecarProxy, Namespace: namespace, Labels: labels}
	if sidecar := w.Sidecar(namespace, labels); sidecar != nil {
		d.Sidecar = d.name(sidecar.Owner)
	}
	for _, filter := range scope.Filters(w, proxy) {
		d.Filters = append(d.Filters, d.name(filter.Owner))
	}
	d.guard(w, namespace, labels)
	for _, service := range world.Below(w.Selecting, namespace) {
		if mesh.MatchesLabels(service.Selector, labels) {
			d.service(w, service, labels)
		}
	}
	d.findProblems(state)
	return d
}

// DescribeService tells of a service; nil if it is not there.
func DescribeService(state *resolve.State, namespace, host string) *Description {
	service := state.World.Service(host, namespace, nil)
	if service == nil {
		return nil
	}
	d := &Description{named: map[mesh.Owner]bool{}}
	d.service(state.World, service, nil)
	d.findProblems(state)
	return d
}

// name notes that an object is named.
func (d *Description) name(owner mesh.Owner) string {
	d.named[owner] = true
	return owner.Namespace + "/" + owner.Name
}

func (d *Description) guard(w *world.World, namespace string, labels map[string]string) {
	guard := w.Guard(namespace, labels)
	if guard == nil {
		return
	}
	for _, rule := range guard.Authentication {
		d.Policies = append(d.Policies, "RequestAuthentication "+d.name(rule.Owner))
	}
	for _, policy := range guard.Authorization {
		line := fmt.Sprintf("AuthorizationPolicy %s (%s)", d.name(policy.Owner), actionNames[policy.Action])
		if policy.DryRun {
			line = strings.TrimSuffix(line, ")") + ", dry run)"
		}
		d.Policies = append(d.Policies, line)
	}
}

func (d *Description) service(w *world.World, service *mesh.Service, labels map[string]string) {
	out := ServiceDescription{Host: service.Host}
	d.named[mesh.Owner{Kind: "Service", Namespace: service.Namespace, Name: service.Name}] = true
	for _, port := range service.Ports {
		protocol := string(port.Protocol)
		if port.Protocol == mesh.Auto {
			protocol = "found out by the proxy"
		}
		out.Ports = append(out.Ports, PortDescription{port.Number, port.Name, protocol, port.TargetPort, modeNames[w.MTLSMode(service.Namespace, labels, port.TargetPort)]})
	}
	if rule := w.Rule(service.Host, service.Namespace, service.Namespace, func(*mesh.DestinationRule) bool { return false }); rule != nil {
		out.Rule = d.name(rule.Owner)
		for _, subset := range rule.Subsets {
			out.Subsets = append(out.Subsets, subset.Name)
			if labels != nil && mesh.MatchesLabels(subset.Labels, labels) {
				out.Matching = append(out.Matching, subset.Name)
			}
		}
	}
	seen := map[mesh.Owner]bool{}
	routes := world.Below(w.Leading, service.Host)
	if own := w.MeshRoutes(service.Host, service.Namespace, nil); own != nil {
		routes = append(routes, own)
	}
	for _, v := range routes {
		if !seen[v.Owner] {
			seen[v.Owner] = true
			out.Routes = append(out.Routes, fmt.Sprintf("%s (%s)", d.name(v.Owner), strings.Join(v.Gateways, ", ")))
		}
	}
	slices.Sort(out.Routes)
	d.Services = append(d.Services, out)
}

// findProblems keeps the problems of what is named.
func (d *Description) findProblems(state *resolve.State) {
	for _, p := range append(state.Problems(), state.Analyze()...) {
		if d.named[mesh.Owner{Kind: p.Kind, Namespace: p.Namespace, Name: p.Name}] {
			d.Problems = append(d.Problems, p)
		}
	}
}
