package envoy

import (
	"strings"

	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
)

// tableHost says that a host stands in a route table, for a port and by some names.
type tableHost struct {
	table   string
	port    mesh.Port
	domains []string
}

// webTable is where hosts that are in no registry are served: what a client sends to port 80 can be for any host.
const webTable = "80"

// tablesOf lists where a host stands: once for each of its ports that speaks HTTP. One whose protocol is found out stands in its own table,
// and in that of its port as well: connections that were open when the port changed, and callers that go by another address, are there.
func tablesOf(o *mesh.Outbound) []tableHost {
	var out []tableHost
	if o.Service == nil {
		if o.Routes == nil || len(o.Routes.HTTP) == 0 {
			return nil
		}
		web := mesh.Port{Number: 80}
		if len(o.Proxies) > 0 {
			out = append(out, tableHost{proxyTable, web, proxyDomains(o, web.Number)})
		}
		return append(out, tableHost{webTable, web, o.Domains})
	}
	for _, port := range o.Service.Ports {
		if len(o.Proxies) > 0 && port.Protocol.IsHTTP() {
			out = append(out, tableHost{proxyTable, port, proxyDomains(o, port.Number)})
		}
		switch {
		case port.Hidden:
		case port.Protocol.IsHTTP():
			out = append(out, tableHost{itoa(port.Number), port, o.Domains})
		case port.Protocol == mesh.Auto && len(o.Service.Addresses) > 0:
			out = append(out, tableHost{sniffedTable(o.Host, port.Number), port, []string{"*"}}, tableHost{itoa(port.Number), port, o.Domains})
		}
	}
	return out
}

// proxyTable is where applications call hosts of every port by way of an HTTP proxy: the port that they name tells hosts apart.
const proxyTable = "http_proxy"

// proxyDomains are a host's names with its port, and without for the one that is not named.
func proxyDomains(o *mesh.Outbound, port uint32) []string {
	var out []string
	for _, domain := range o.Domains {
		if port == 80 {
			out = append(out, domain)
		}
		out = append(out, domain+":"+itoa(port))
	}
	return out
}

// sniffedTable names the table of a listener that is one service's alone.
func sniffedTable(host string, port uint32) string { return host + ":" + itoa(port) }

func virtualHost(o *mesh.Outbound, port mesh.Port, domains []string, c routeContext) *route.VirtualHost {
	c.port = port.Number
	out := &route.VirtualHost{Name: o.Host + ":" + itoa(port.Number), Domains: domains, IncludeRequestAttemptCount: !c.config.Settings.OfRoutes().Uncounted}
	if o.Routes != nil {
		out.Routes = routesOf(o.Routes, c)
	}
	if (o.Routes == nil || len(o.Routes.HTTP) == 0) && o.Service != nil {
		plain := &mesh.Route{Name: "default", Destinations: []mesh.Destination{{Host: o.Host, Port: port.Number}}}
		out.Routes = []*route.Route{{
			Name: "default", Match: routeMatch(nil), Decorator: &route.Decorator{Operation: operation(plain, c)},
			Action: &route.Route_Route{Route: action(plain, c)},
		}}
	}
	return out
}

// catchAlls are the names that catchAll's may have.
var catchAlls = []string{"allow_any", "allow_any_dynamic_dns", "block_all"}

// catchAll takes what no virtual host does: it goes where the caller meant, or nowhere.
func catchAll(config *mesh.Config) *route.VirtualHost {
	name, target := "allow_any", outside(config)
	if target == BlackHoleCluster {
		return &route.VirtualHost{Name: "block_all", Domains: []string{"*"}, Routes: []*route.Route{{
			Name: "block_all", Match: routeMatch(nil), Action: &route.Route_DirectResponse{DirectResponse: &route.DirectResponseAction{Status: 502}},
		}}}
	}
	if target == PassthroughCluster && config.ResolveOutside {
		name, target = "allow_any_dynamic_dns", AllowAnyDynamicDNSCluster
	}
	return &route.VirtualHost{Name: name, Domains: []string{"*"}, Routes: []*route.Route{{
		Name: name, Match: routeMatch(nil), Action: &route.Route_Route{Route: &route.RouteAction{
			ClusterSpecifier: &route.RouteAction_Cluster{Cluster: target}, Timeout: durationpb.New(0),
			MaxGrpcTimeout: durationpb.New(0),
		}},
	}}}
}

// tableResource is a virtual host as a resource. Removal over VHDS works only where its name is the resource's, so the
// table's name is put before it here, and nowhere else.
func tableResource(table string, host *route.VirtualHost) *Resource {
	host.Name = table + "/" + host.Name
	return NewResource(host.Name, host)
}

// TableOf is the table in the name of a virtual host's resource.
func TableOf(resource string) string {
	table, _, _ := strings.Cut(resource, "/")
	return table
}

// vhdsTable is a route table whose virtual hosts come one by one.
func vhdsTable(name string) *Resource {
	return NewResource(name, &route.RouteConfiguration{
		Name: name, ValidateClusters: boolean(false), IgnorePortInHostMatching: name != proxyTable,
		Vhds: &route.Vhds{ConfigSource: ads()},
	})
}

// WholeTable is a route table with all its virtual hosts in it, made of their bytes.
func WholeTable(name string, hosts []*Resource) *Resource {
	const virtualHostsField = 2 // of RouteConfiguration
	body := pack(&route.RouteConfiguration{Name: name, ValidateClusters: boolean(false), IgnorePortInHostMatching: name != proxyTable})
	value := body.Value
	for _, host := range hosts {
		value = protowire.AppendTag(value, virtualHostsField, protowire.BytesType)
		value = protowire.AppendBytes(value, withName(host.Body.Value, strings.TrimPrefix(host.Name, name+"/")))
	}
	return seal(name, &anypb.Any{TypeUrl: RouteType, Value: value})
}

// withName gives a marshalled virtual host another name, which is its first field.
func withName(host []byte, name string) []byte {
	_, _, tag := protowire.ConsumeTag(host)
	_, text := protowire.ConsumeBytes(host[tag:])
	out := protowire.AppendTag(nil, 1, protowire.BytesType)
	out = protowire.AppendString(out, name)
	return append(out, host[tag+text:]...)
}
