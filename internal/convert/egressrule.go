package convert

import (
	"fmt"
	"net/netip"
	"strings"
)

// egressRule becomes a ServiceEntry. A port of protocol https meant that callers speak HTTP and the proxy TLS: that is a
// DestinationRule now.
func (c *conversion) egressRule(s source) {
	service := text(child(s.spec, "destination"), "service")
	if service == "" {
		c.note(s, "spec.destination.service", "is missing: the rule is not carried over")
		return
	}
	spec := Object{"location": "MESH_EXTERNAL", "resolution": "DNS", "hosts": []any{service}}
	_, cidr := netip.ParsePrefix(service)
	_, single := netip.ParseAddr(service)
	switch {
	case cidr == nil || single == nil:
		spec["hosts"], spec["addresses"], spec["resolution"] = []any{nameOf(service) + ".external"}, []any{service}, "NONE"
	case strings.HasPrefix(service, "*"):
		spec["resolution"] = "NONE"
	}
	var ports, origination []any
	for _, one := range list(s.spec, "ports") {
		port, _ := one.(Object)
		protocol := strings.ToUpper(text(port, "protocol"))
		if protocol == "HTTPS" {
			protocol = "HTTP"
			origination = append(origination, Object{"port": Object{"number": port["port"]}, "tls": Object{"mode": "SIMPLE"}})
		}
		ports = append(ports, Object{"number": port["port"], "name": fmt.Sprintf("%s-%v", strings.ToLower(protocol), port["port"]), "protocol": protocol})
	}
	spec["ports"] = ports
	c.made = append(c.made, object("ServiceEntry", s.namespace, s.name, spec))
	if origination != nil {
		c.made = append(c.made, object("DestinationRule", s.namespace, s.name, Object{"host": service, "trafficPolicy": Object{"portLevelSettings": origination}}))
	}
	if s.spec["useEgressProxy"] == true {
		c.note(s, "spec.useEgressProxy", "traffic goes through an egress gateway by a Gateway and a VirtualService: write them, or it leaves from the sidecar")
	}
}
