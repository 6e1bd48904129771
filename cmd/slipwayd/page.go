package main

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/slipway-mesh/slipway/internal/discovery"
	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
	"github.com/slipway-mesh/slipway/internal/discovery/page"
	"github.com/slipway-mesh/slipway/internal/discovery/world"
	"github.com/slipway-mesh/slipway/internal/discovery/xds"
	"github.com/slipway-mesh/slipway/internal/version"
)

// page shows a person what all replicas know.
func (p *plane) page() http.Handler {
	return page.Handler(page.Source{Revision: p.options.revision, Version: version.Version,
		State: p.pageState, Services: p.pageServices, Traffic: p.traffic.Look, Installations: p.pageInstallations})
}

// replicaPart is what a replica has, or why it cannot be asked.
type replicaPart struct {
	name string
	discovery.Part
	err error
}

// parts asks all replicas at once; this one is the first.
func (p *plane) parts(ctx context.Context) []replicaPart {
	others := p.others()
	out := make([]replicaPart, len(others)+1)
	var wait sync.WaitGroup
	for i, peer := range others {
		wait.Go(func() {
			part, err := askPeer[discovery.Part](ctx, p, peer, partPath)
			out[i+1] = replicaPart{peer.Name, part, err}
		})
	}
	out[0] = replicaPart{name: p.reporter.Instance, Part: p.engine.Part()}
	wait.Wait()
	return out
}

func (p *plane) pageState(ctx context.Context) page.State {
	var out page.State
	parts := p.parts(ctx)
	for _, part := range parts {
		replica := page.Replica{Name: part.name, Proxies: len(part.Proxies)}
		if part.err != nil {
			replica.Error = fmt.Sprintf("Its proxies are not shown: %v", part.err)
		}
		out.Replicas = append(out.Replicas, replica)
		for _, proxy := range part.Proxies {
			out.Proxies = append(out.Proxies, pageProxy(proxy, part.name))
		}
	}
	slices.SortFunc(out.Proxies, func(a, b page.Proxy) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	out.Objects = p.pageObjects(parts)
	return out
}

func pageProxy(r xds.ProxyReport, replica string) page.Proxy {
	out := page.Proxy{Name: r.ID, Version: cmp.Or(r.Version, r.Envoy), Replica: replica, Connected: r.Connected}
	if id := strings.Split(r.ID, "~"); len(id) == 4 { // KIND~ADDRESS~POD.NAMESPACE~DOMAIN
		out.Kind, out.Address = id[0], id[1]
		out.Name, out.Namespace, _ = strings.Cut(id[2], ".")
	}
	for _, kind := range xds.Columns {
		out.Types = append(out.Types, page.Standing{Type: kind, State: r.Standing(kind), Error: r.Types[kind].Error})
	}
	return out
}

// unshown are kinds of Kubernetes' own: they are among the objects only if something is wrong with one.
var unshown = map[string]bool{"Service": true, "Namespace": true, "ServiceAccount": true, "IngressClass": true}

func (p *plane) pageObjects(parts []replicaPart) []page.Object {
	objects := map[mesh.Owner]*page.Object{}
	object := func(kind, namespace, name string) *page.Object {
		key := mesh.Owner{Kind: kind, Namespace: namespace, Name: name}
		if objects[key] == nil {
			objects[key] = &page.Object{Kind: kind, Namespace: namespace, Name: name}
		}
		return objects[key]
	}
	for _, part := range parts {
		for _, one := range part.Objects {
			if !unshown[one.Kind] {
				o := object(one.Kind, one.Namespace, one.Name)
				o.Reached, o.Of = o.Reached+one.Reached, o.Of+one.Of
			}
		}
		for _, rejection := range part.Rejections {
			text := fmt.Sprintf("%s %s: %s", rejection.Type, rejection.Name, rejection.Error)
			// /apis/GROUP/VERSION/namespaces/NAMESPACE/KIND/NAME, in lower case with dashes
			if path := strings.Split(rejection.Owner, "/"); len(path) == 8 {
				for key, o := range objects {
					if key.Namespace == path[5] && key.Name == path[7] && strings.EqualFold(key.Kind, strings.ReplaceAll(path[6], "-", "")) {
						o.Rejections = append(o.Rejections, text)
					}
				}
			}
		}
	}
	for _, problem := range p.engine.Problems() {
		o := object(problem.Kind, problem.Namespace, problem.Name)
		o.Problems = append(o.Problems, page.Problem{Field: problem.Field, Reason: problem.Reason, Message: problem.Message, Refuse: problem.Refuse})
	}
	out := make([]page.Object, 0, len(objects))
	for _, o := range objects {
		out = append(out, *o)
	}
	slices.SortFunc(out, func(a, b page.Object) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return out
}

func (p *plane) pageServices() []page.Service {
	state := p.engine.State()
	if state == nil {
		return nil
	}
	var out []page.Service
	state.World.Services.Root().Walk(func(_ []byte, service *mesh.Service) bool {
		one := page.Service{Host: service.Host, Namespace: service.Namespace, External: service.External}
		endpoints := map[string]bool{}
		known, _ := state.World.Endpoints.Get(world.Key(service.Host, service.Namespace))
		for _, port := range service.Ports {
			one.Ports = append(one.Ports, strings.TrimSpace(fmt.Sprintf("%d %s", port.Number, port.Protocol)))
			if known != nil {
				for _, endpoint := range known.ByPort[port.Number] {
					endpoints[endpoint.Address] = true
				}
			}
		}
		one.Endpoints = len(endpoints)
		out = append(out, one)
		return false
	})
	return out
}

var istioOperators = schema.GroupVersionResource{Group: "install.istio.io", Version: "v1alpha1", Resource: "istiooperators"}

func (p *plane) pageInstallations(ctx context.Context) ([]page.Installation, error) {
	list, err := p.installed.Resource(istioOperators).List(ctx, metav1.ListOptions{})
	if apierrors.IsNotFound(err) { // installed without an operator
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("the IstioOperators cannot be read: %w", err)
	}
	var out []page.Installation
	for _, item := range list.Items {
		text := func(path ...string) string {
			value, _, _ := unstructured.NestedString(item.Object, path...)
			return value
		}
		one := page.Installation{Namespace: item.GetNamespace(), Name: item.GetName(), Profile: cmp.Or(text("spec", "profile"), "default"), Revision: cmp.Or(text("spec", "revision"), "default"),
			Status: cmp.Or(text("status", "status"), "NONE"), Message: text("status", "message")}
		components, _, _ := unstructured.NestedMap(item.Object, "status", "componentStatus")
		for name := range components {
			one.Components = append(one.Components, page.Component{Name: name, Status: text("status", "componentStatus", name, "status"), Message: text("status", "componentStatus", name, "error")})
		}
		slices.SortFunc(one.Components, func(a, b page.Component) int { return cmp.Compare(a.Name, b.Name) })
		out = append(out, one)
	}
	return out, nil
}
