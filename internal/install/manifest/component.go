package manifest

import (
	"fmt"

	"github.com/slipway-mesh/slipway/api/v1alpha1"
)

// kind is a sort of component: where its chart and its values are, and which rendered objects its settings are for.
type kind struct {
	name      string // as in status.componentStatus and the label operator.istio.io/component
	chart     string // folder below charts/
	root      string // path in values that the chart reads for this component
	container string // the container that k8s.resources, k8s.env and the like are for
	workload  string // kind of the workload, "" for none
}

var (
	kindBase    = kind{name: "Base", chart: "base"}
	kindPilot   = kind{name: "Pilot", chart: "istiod", root: "pilot", container: "discovery", workload: "Deployment"}
	kindIngress = kind{name: "IngressGateways", chart: "ingress", root: "gateways.istio-ingressgateway", container: "istio-proxy", workload: "Deployment"}
	kindEgress  = kind{name: "EgressGateways", chart: "egress", root: "gateways.istio-egressgateway", container: "istio-proxy", workload: "Deployment"}
)

// after maps each kind to those that must be ready before it.
var after = map[string][]string{
	kindPilot.name:   {kindBase.name},
	kindIngress.name: {kindPilot.name},
	kindEgress.name:  {kindPilot.name},
}

// After returns the names of the components that must be ready before the named one is applied.
func After(component string) []string { return after[component] }

// component is one thing to render.
type component struct {
	kind
	instance  string // the name of its workload
	enabled   bool
	namespace string
	hub, tag  string
	label     map[string]string
	k8s       *v1alpha1.KubernetesResourcesSpec
	path      string // in the spec, for errors
}

// componentsOf lists the components of a spec, those that are off included, in the order of their installation.
func componentsOf(spec *v1alpha1.IstioOperatorSpec, namespace string) ([]component, error) {
	all := spec.Components
	if all == nil {
		all = &v1alpha1.ComponentsSpec{}
	}
	for _, missing := range []struct {
		path string
		spec *v1alpha1.ComponentSpec
		what string
	}{
		{"spec.components.cni", all.Cni, "the CNI plugin"},
		{"spec.components.ztunnel", all.Ztunnel, "ztunnel"},
		{"spec.components.istiodRemote", all.IstiodRemote, "a remote control plane"},
	} {
		if missing.spec != nil && missing.spec.Enabled != nil && *missing.spec.Enabled {
			return nil, &Error{Path: missing.path + ".enabled", Err: fmt.Errorf("%s is not part of Slipway yet%s; set it to false", missing.what, because(spec))}
		}
	}
	istiod := "istiod"
	if revision := spec.RevisionName(); revision != "" {
		istiod += "-" + revision
	}
	list := []component{
		newComponent(kindBase, "base", namespace, all.Base, "spec.components.base"),
		newComponent(kindPilot, istiod, namespace, all.Pilot, "spec.components.pilot"),
	}
	for _, group := range []struct {
		kind
		gateways []v1alpha1.GatewaySpec
		path     string
	}{{kindIngress, all.IngressGateways, "ingressGateways"}, {kindEgress, all.EgressGateways, "egressGateways"}} {
		for i := range group.gateways {
			gateway := &group.gateways[i]
			path := fmt.Sprintf("spec.components.%s.[name:%s]", group.path, gateway.Name)
			c := newComponent(group.kind, gateway.Name, namespace, &gateway.ComponentSpec, path)
			c.label = gateway.Label
			list = append(list, c)
		}
	}
	if base := list[0]; base.k8s != nil && !onlyOverlays(base.k8s) {
		return nil, &Error{Path: "spec.components.base.k8s", Err: fmt.Errorf("base has no workload; only overlays can be set")}
	}
	return list, nil
}

// because names the profile where it may be that which asks for a component.
func because(spec *v1alpha1.IstioOperatorSpec) string {
	if spec.Profile == "" {
		return ""
	}
	return fmt.Sprintf(" (the profile is %s)", spec.Profile)
}

func newComponent(k kind, instance, namespace string, spec *v1alpha1.ComponentSpec, path string) component {
	c := component{kind: k, instance: instance, namespace: namespace, path: path}
	if spec == nil {
		return c
	}
	c.enabled = spec.Enabled != nil && *spec.Enabled
	if spec.Namespace != "" {
		c.namespace = spec.Namespace
	}
	c.hub = spec.Hub
	if spec.Tag != nil {
		c.tag = spec.Tag.String()
	}
	c.k8s = spec.K8s
	return c
}

func onlyOverlays(k8s *v1alpha1.KubernetesResourcesSpec) bool {
	rest := *k8s
	rest.Overlays = nil
	m, err := toMap(&rest)
	return err == nil && len(m) == 0
}
