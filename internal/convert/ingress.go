package convert

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

const (
	classAnnotation = "kubernetes.io/ingress.class"
	// ingressSelector is the label of the ingress gateway that Ingresses were served by.
	ingressSelector = "ingressgateway"
)

// ingress becomes a Gateway, and a VirtualService for each of its hosts. One of another class is none of ours.
func (c *conversion) ingress(s source) {
	class := text(s.annotations, classAnnotation)
	if class == "" {
		class = text(s.spec, "ingressClassName")
	}
	if class != "" && class != "istio" {
		c.note(s, classAnnotation, "it is of class %s, and not Istio's: left out", class)
		return
	}
	for _, name := range slices.Sorted(maps.Keys(s.annotations)) {
		if name != classAnnotation && strings.Contains(name, "ingress") {
			c.note(s, "metadata.annotations."+name, "has no counterpart and is left out")
		}
	}
	paths := map[string][]any{}
	var hosts []string
	for _, one := range list(s.spec, "rules") {
		rule, _ := one.(Object)
		host := text(rule, "host")
		if host == "" {
			host = "*"
		}
		if _, seen := paths[host]; !seen {
			hosts = append(hosts, host)
		}
		for _, path := range list(child(rule, "http"), "paths") {
			paths[host] = append(paths[host], c.ingressRoute(s, path.(Object)))
		}
	}
	backend := child(s.spec, "defaultBackend")
	if backend == nil {
		backend = child(s.spec, "backend")
	}
	if backend != nil {
		if _, seen := paths["*"]; !seen {
			hosts = append(hosts, "*")
		}
		paths["*"] = append(paths["*"], Object{"route": []any{Object{"destination": c.backend(s, backend)}}})
	}
	c.made = append(c.made, object("Gateway", s.namespace, s.name, Object{"selector": Object{"istio": ingressSelector}, "servers": c.servers(s, hosts)}))
	for _, host := range hosts {
		name := s.name
		if len(hosts) > 1 {
			name += "-" + nameOf(host)
		}
		c.made = append(c.made, object("VirtualService", s.namespace, name, Object{"hosts": []any{host}, "gateways": []any{s.name}, "http": paths[host]}))
	}
}

// servers: plain HTTP for all hosts, and TLS for those that have a secret.
func (c *conversion) servers(s source, hosts []string) []any {
	all := make([]any, 0, len(hosts))
	for _, host := range hosts {
		all = append(all, host)
	}
	servers := []any{Object{"port": Object{"number": float64(80), "name": "http", "protocol": "HTTP"}, "hosts": all}}
	for i, one := range list(s.spec, "tls") {
		entry, _ := one.(Object)
		secured := list(entry, "hosts")
		if len(secured) == 0 {
			secured = []any{"*"}
		}
		servers = append(servers, Object{"port": Object{"number": float64(443), "name": fmt.Sprintf("https-%d", i), "protocol": "HTTPS"}, "hosts": secured,
			"tls": Object{"mode": "SIMPLE", "credentialName": text(entry, "secretName")}})
		c.note(s, fmt.Sprintf("spec.tls[%d].secretName", i), "the Secret %s must be in the namespace of the ingress gateway", text(entry, "secretName"))
	}
	return servers
}

// ingressRoute is a path. The first Ingress API had regular expressions, of which /x/.* is a prefix; today's has types.
func (c *conversion) ingressRoute(s source, path Object) Object {
	route := Object{"route": []any{Object{"destination": c.backend(s, child(path, "backend"))}}}
	text, kind := text(path, "path"), text(path, "pathType")
	switch {
	case text == "" || text == "/" && kind != "Exact" || text == "/.*":
		return route
	case kind == "Exact":
		route["match"] = []any{Object{"uri": Object{"exact": text}}}
	case kind == "Prefix":
		bare := strings.TrimSuffix(text, "/")
		route["match"] = []any{Object{"uri": Object{"exact": bare}}, Object{"uri": Object{"prefix": bare + "/"}}}
	case strings.HasSuffix(text, ".*") && !strings.ContainsAny(strings.TrimSuffix(text, ".*"), `*+?()[]{}|\^$`):
		route["match"] = []any{Object{"uri": Object{"prefix": strings.TrimSuffix(text, ".*")}}}
	case strings.ContainsAny(text, `*+?()[]{}|\^$`):
		route["match"] = []any{Object{"uri": Object{"regex": text}}}
	default:
		route["match"] = []any{Object{"uri": Object{"exact": text}}}
	}
	return route
}

// backend is a destination, in either form of the Ingress API.
func (c *conversion) backend(s source, backend Object) Object {
	name, port := text(backend, "serviceName"), backend["servicePort"]
	if service := child(backend, "service"); service != nil {
		name, port = text(service, "name"), child(service, "port")["number"]
		if port == nil {
			port = child(service, "port")["name"]
		}
	}
	out := Object{"host": name}
	switch number := port.(type) {
	case float64:
		out["port"] = Object{"number": number}
	case string:
		c.note(s, "backend of "+name, "port %q is named: a route needs its number, and goes to the Service's only port without one", number)
	}
	return out
}
