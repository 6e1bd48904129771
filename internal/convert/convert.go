// Package convert carries the first routing API over into today's: RouteRule, DestinationPolicy and EgressRule
// (config.istio.io/v1alpha2, Istio 0.2 to 0.7) and Ingress become VirtualService, DestinationRule, ServiceEntry and
// Gateway. Documents enter; documents leave, with a report of what could not be carried over. It knows no cluster.
package convert

import (
	"fmt"
	"sort"
	"strings"

	"sigs.k8s.io/yaml"
)

// Object is a Kubernetes object as plain maps.
type Object = map[string]any

// Note is what a person has to know of one object: what was not carried over, or only nearly.
type Note struct {
	// Object is such as RouteRule default/reviews, and Field the path that the note is about.
	Object, Field, Message string
}

// String is such as RouteRule default/reviews: spec.l4Fault: has no counterpart.
func (n Note) String() string { return n.Object + ": " + n.Field + ": " + n.Message }

// version is that of the kinds that come out.
const version = "networking.istio.io/v1"

// Convert converts the objects that it knows and passes the others on unchanged.
func Convert(objects []Object) ([]Object, []Note) {
	c := &conversion{hosts: map[key]*host{}}
	var out []Object
	for _, o := range objects {
		source := sourceOf(o)
		switch {
		case source.old() && source.kind == "RouteRule":
			c.routeRule(source)
		case source.old() && source.kind == "DestinationPolicy":
			c.destinationPolicy(source)
		case source.old() && source.kind == "EgressRule":
			c.egressRule(source)
		case source.kind == "Ingress":
			c.ingress(source)
		default:
			out = append(out, o)
		}
	}
	return append(out, c.finish()...), c.notes
}

// Parse reads a stream of YAML documents.
func Parse(text []byte) ([]Object, error) {
	var all []Object
	for i, document := range strings.Split("\n"+string(text), "\n---") {
		var o Object
		if err := yaml.Unmarshal([]byte(document), &o); err != nil {
			return nil, fmt.Errorf("document %d: %w", i+1, err)
		}
		if len(o) > 0 {
			all = append(all, o)
		}
	}
	return all, nil
}

// source is an object on its way in.
type source struct {
	group, kind, namespace, name string
	spec, annotations            Object
	precedence                   float64
}

func sourceOf(o Object) source {
	metadata := child(o, "metadata")
	group, _, _ := strings.Cut(text(o, "apiVersion"), "/")
	spec := child(o, "spec")
	precedence, _ := spec["precedence"].(float64)
	return source{group: group, kind: text(o, "kind"), namespace: text(metadata, "namespace"), name: text(metadata, "name"),
		spec: spec, annotations: child(metadata, "annotations"), precedence: precedence}
}

func (s source) old() bool { return s.group == "config.istio.io" }

func (s source) String() string {
	if s.namespace == "" {
		return s.kind + " " + s.name
	}
	return s.kind + " " + s.namespace + "/" + s.name
}

// key is a host as a namespace's rules name it.
type key struct{ namespace, name string }

// host gathers what is said of one.
type host struct {
	key
	rules    []rule
	subsets  map[string]map[string]any // labels by name
	policies map[string]Object         // traffic policies by subset; "" is the host's
}

type rule struct {
	from source
	http Object
}

type conversion struct {
	hosts map[key]*host
	made  []Object
	notes []Note
}

func (c *conversion) note(s source, field, format string, args ...any) {
	c.notes = append(c.notes, Note{s.String(), field, fmt.Sprintf(format, args...)})
}

func (c *conversion) host(namespace, name string) *host {
	k := key{namespace, name}
	if c.hosts[k] == nil {
		c.hosts[k] = &host{key: k, subsets: map[string]map[string]any{}, policies: map[string]Object{}}
	}
	return c.hosts[k]
}

// finish writes each host's VirtualService and DestinationRule, in the order of their names.
func (c *conversion) finish() []Object {
	keys := make([]key, 0, len(c.hosts))
	for k := range c.hosts {
		keys = append(keys, k)
	}
	sort.Slice(keys, func(i, j int) bool {
		if keys[i].namespace != keys[j].namespace {
			return keys[i].namespace < keys[j].namespace
		}
		return keys[i].name < keys[j].name
	})
	var out []Object
	for _, k := range keys {
		h := c.hosts[k]
		if len(h.rules) > 0 {
			out = append(out, c.virtualService(h))
		}
		if len(h.subsets)+len(h.policies) > 0 {
			out = append(out, destinationRule(h))
		}
	}
	return append(out, c.made...)
}

// virtualService has the rules in the order of their precedence, the highest first; names break ties.
func (c *conversion) virtualService(h *host) Object {
	sort.SliceStable(h.rules, func(i, j int) bool {
		a, b := h.rules[i].from, h.rules[j].from
		if a.precedence != b.precedence {
			return a.precedence > b.precedence
		}
		return a.name < b.name
	})
	var http []any
	for i, r := range h.rules {
		http = append(http, r.http)
		if _, conditional := r.http["match"]; !conditional && i+1 < len(h.rules) {
			c.note(h.rules[i+1].from, "spec.precedence", "it can never match: %s takes every request before it", r.from)
		}
	}
	return object("VirtualService", h.namespace, nameOf(h.name), Object{"hosts": []any{h.name}, "http": http})
}

func destinationRule(h *host) Object {
	spec := Object{"host": h.name}
	if policy := h.policies[""]; policy != nil {
		spec["trafficPolicy"] = policy
	}
	names := make([]string, 0, len(h.subsets))
	for name := range h.subsets {
		names = append(names, name)
	}
	sort.Strings(names)
	var subsets []any
	for _, name := range names {
		subset := Object{"name": name, "labels": h.subsets[name]}
		if policy := h.policies[name]; policy != nil {
			subset["trafficPolicy"] = policy
		}
		subsets = append(subsets, subset)
	}
	if subsets != nil {
		spec["subsets"] = subsets
	}
	return object("DestinationRule", h.namespace, nameOf(h.name), spec)
}

func object(kind, namespace, name string, spec Object) Object {
	metadata := Object{"name": name}
	if namespace != "" {
		metadata["namespace"] = namespace
	}
	return Object{"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}
}

// nameOf makes an object's name of a host.
func nameOf(host string) string {
	name := strings.NewReplacer("*", "wildcard", "/", "-", ":", "-").Replace(strings.ToLower(host))
	return strings.Trim(name, ".-")
}

func child(o Object, name string) Object {
	m, _ := o[name].(Object)
	return m
}

func list(o Object, name string) []any {
	l, _ := o[name].([]any)
	return l
}

func text(o Object, name string) string {
	s, _ := o[name].(string)
	return s
}
