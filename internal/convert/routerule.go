package convert

import (
	"maps"
	"slices"
	"strings"
)

// routeRule adds a rule to its destination's host.
func (c *conversion) routeRule(s source) {
	destination := child(s.spec, "destination")
	h := c.host(s.namespace, c.serviceHost(s, "spec.destination", destination))
	http := Object{}
	if match := c.match(s); match != nil {
		http["match"] = []any{match}
	} else if child(child(s.spec, "match"), "tcp") != nil {
		return // noted; without its condition it would take everything
	}
	c.action(s, http)
	for old, next := range map[string]string{"rewrite": "rewrite", "redirect": "redirect", "corsPolicy": "corsPolicy"} {
		if value := child(s.spec, old); value != nil {
			http[next] = maps.Clone(value)
		}
	}
	if timeout := child(child(s.spec, "httpReqTimeout"), "simpleTimeout"); timeout != nil {
		http["timeout"] = timeout["timeout"]
		c.lost(s, "spec.httpReqTimeout.simpleTimeout", timeout, "overrideHeaderName")
	}
	if retry := child(child(s.spec, "httpReqRetries"), "simpleRetry"); retry != nil {
		retries := Object{"attempts": retry["attempts"]}
		if per := retry["perTryTimeout"]; per != nil {
			retries["perTryTimeout"] = per
		}
		http["retries"] = retries
		c.lost(s, "spec.httpReqRetries.simpleRetry", retry, "overrideHeaderName")
	}
	if fault := c.fault(s); len(fault) > 0 {
		http["fault"] = fault
	}
	if mirror := child(s.spec, "mirror"); mirror != nil {
		http["mirror"] = c.target(s, "spec.mirror", mirror, child(mirror, "labels"))
	}
	if headers := child(s.spec, "appendHeaders"); headers != nil {
		http["headers"] = Object{"request": Object{"add": maps.Clone(headers)}}
	}
	c.lost(s, "spec", s.spec, "l4Fault", "httpReqTimeout.custom", "httpReqRetries.custom")
	if s.spec["websocketUpgrade"] == true {
		c.note(s, "spec.websocketUpgrade", "is not needed any more: upgrades to websockets are always let through")
	}
	h.rules = append(h.rules, rule{from: s, http: http})
}

// action is where the rule leads: its routes, or its destination itself. A redirect leads nowhere.
func (c *conversion) action(s source, http Object) {
	if child(s.spec, "redirect") != nil {
		return
	}
	routes := list(s.spec, "route")
	if len(routes) == 0 {
		destination := child(s.spec, "destination")
		http["route"] = []any{Object{"destination": c.target(s, "spec.destination", destination, child(destination, "labels"))}}
		return
	}
	var out []any
	for _, one := range routes {
		route, _ := one.(Object)
		to, field := child(route, "destination"), "spec.route.destination"
		labels := child(route, "labels")
		if to == nil {
			to, field = child(s.spec, "destination"), "spec.destination"
		} else if labels == nil {
			labels = child(to, "labels")
		}
		entry := Object{"destination": c.target(s, field, to, labels)}
		if weight, ok := route["weight"]; ok && len(routes) > 1 {
			entry["weight"] = weight
		}
		out = append(out, entry)
	}
	http["route"] = out
}

// target is a destination, with the subset that its labels need.
func (c *conversion) target(s source, field string, service, labels Object) Object {
	name := c.serviceHost(s, field, service)
	out := Object{"host": name}
	if len(labels) > 0 {
		subset := subsetName(labels)
		c.host(s.namespace, name).subsets[subset] = labels
		out["subset"] = subset
	}
	return out
}

// subsetName is the version where that is all that the labels say; otherwise all values, in the order of their names.
func subsetName(labels Object) string {
	if version, ok := labels["version"].(string); ok && len(labels) == 1 {
		return version
	}
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(labels)) {
		parts = append(parts, text(labels, name))
	}
	return strings.Join(parts, "-")
}

// serviceHost is the host of an IstioService: its service as it is, or its name with namespace and domain.
func (c *conversion) serviceHost(s source, field string, service Object) string {
	if host := text(service, "service"); host != "" {
		return host
	}
	name, namespace, domain := text(service, "name"), text(service, "namespace"), text(service, "domain")
	switch {
	case name == "":
		c.note(s, field, "names no service")
		return "unknown"
	case domain != "":
		if namespace == "" {
			namespace = s.namespace
		}
		return strings.Join([]string{name, namespace, domain}, ".")
	case namespace != "" && namespace != s.namespace:
		return name + "." + namespace
	}
	return name
}

// pseudo are the headers of the old API that are fields of their own now.
var pseudo = map[string]string{"uri": "uri", "scheme": "scheme", "method": "method", "authority": "authority"}

// match is the rule's condition; nil for none.
func (c *conversion) match(s source) Object {
	old := child(s.spec, "match")
	out := Object{}
	headers := Object{}
	for name, value := range child(child(old, "request"), "headers") {
		if field, ok := pseudo[name]; ok {
			out[field] = value
		} else {
			headers[strings.ToLower(name)] = value
		}
	}
	if len(headers) > 0 {
		out["headers"] = headers
	}
	if from := child(old, "source"); from != nil {
		labels := Object{}
		maps.Copy(labels, child(from, "labels"))
		if name := text(from, "name"); name != "" {
			if _, there := labels["app"]; !there {
				labels["app"] = name
			}
			c.note(s, "spec.match.source.name", "callers are told by labels only: app=%s stands for it; check that the pods have that label", name)
		}
		if namespace := text(from, "namespace"); namespace != "" {
			out["sourceNamespace"] = namespace
		}
		if len(labels) > 0 {
			out["sourceLabels"] = labels
		}
	}
	for _, protocol := range []string{"tcp", "udp"} {
		if old[protocol] != nil {
			c.note(s, "spec.match."+protocol, "conditions on connections belong to tcp routes: the rule is not carried over")
		}
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

func (c *conversion) fault(s source) Object {
	old, out := child(s.spec, "httpFault"), Object{}
	if delay := child(old, "delay"); delay != nil {
		d := Object{"percentage": Object{"value": percent(delay)}}
		if fixed := delay["fixedDelay"]; fixed != nil {
			d["fixedDelay"] = fixed
			out["delay"] = d
		}
		c.lost(s, "spec.httpFault.delay", delay, "exponentialDelay", "overrideHeaderName")
	}
	if abort := child(old, "abort"); abort != nil {
		a := Object{"percentage": Object{"value": percent(abort)}}
		switch {
		case abort["httpStatus"] != nil:
			a["httpStatus"] = abort["httpStatus"]
			out["abort"] = a
		case abort["grpcStatus"] != nil:
			a["grpcStatus"] = abort["grpcStatus"]
			out["abort"] = a
		}
		c.lost(s, "spec.httpFault.abort", abort, "http2Error", "overrideHeaderName")
	}
	return out
}

// percent is 100 where none is said.
func percent(o Object) any {
	if p, ok := o["percent"]; ok {
		return p
	}
	return float64(100)
}

// lost notes the fields that have no counterpart, of those that are there.
func (c *conversion) lost(s source, path string, o Object, fields ...string) {
	for _, field := range fields {
		at := o
		names := strings.Split(field, ".")
		for _, name := range names[:len(names)-1] {
			at = child(at, name)
		}
		if at[names[len(names)-1]] != nil {
			c.note(s, path+"."+field, "has no counterpart and is left out")
		}
	}
}
