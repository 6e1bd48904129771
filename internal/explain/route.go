package explain

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	fault "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	rbac "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcp "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	xds "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Request is what somebody sends by way of a proxy.
type Request struct {
	// Address and Port are where the connection goes: for a sidecar the destination that was captured, for a gateway its
	// own port. An empty address fits the listeners of any.
	Address string
	Port    uint32
	// TLS says that the client speaks TLS, for ServerName.
	TLS        bool
	ServerName string

	Method, Scheme, Authority string
	// Path is with the query.
	Path string
	// Headers are by lower-case name.
	Headers map[string][]string
	// Claims says that the request's token has what routes may ask of it.
	Claims bool
}

func (r Request) header(name string) (string, bool) {
	switch name = strings.ToLower(name); name {
	case ":method":
		return r.Method, true
	case ":authority", "host":
		return r.Authority, true
	case ":scheme":
		return r.Scheme, true
	case ":path":
		return r.Path, true
	}
	values, ok := r.Headers[name]
	return strings.Join(values, ","), ok
}

// Answer is where a request goes, and why.
type Answer struct {
	Listener    string `json:"listener"`
	FilterChain string `json:"filterChain"`
	Table       string `json:"table,omitempty"`
	VirtualHost string `json:"virtualHost,omitempty"`
	Domain      string `json:"domain,omitempty"`
	Route       string `json:"route,omitempty"`
	Match       string `json:"match,omitempty"`
	// Owner is the object that made the route; empty for what the mesh does by itself.
	Owner string `json:"owner,omitempty"`
	// PassedOver are the routes before it, which do not take the request.
	PassedOver []string `json:"passedOver,omitempty"`
	// Status is what the proxy answers by itself, with Location for a redirect; 0 if it forwards.
	Status   uint32   `json:"status,omitempty"`
	Location string   `json:"location,omitempty"`
	Clusters []Choice `json:"clusters,omitempty"`
	// Notes are what else happens: timeouts, retries, faults, mirrors, rewrites, policies.
	Notes []string `json:"notes,omitempty"`
}

// Choice is a cluster that the request may go to.
type Choice struct {
	Name    string  `json:"name"`
	Percent float64 `json:"percent"`
	// Owner is the DestinationRule that shaped it.
	Owner  string `json:"owner,omitempty"`
	Policy string `json:"policy"`
	// Endpoints are ADDRESS:PORT with their health where that is not healthy; Missing says why there are none.
	Endpoints []string `json:"endpoints,omitempty"`
	Missing   string   `json:"missing,omitempty"`
}

// Route says where a request goes.
func (c *Config) Route(r Request) (*Answer, error) {
	l := c.listenerFor(r.Address, r.Port)
	if l == nil {
		return nil, fmt.Errorf("no listener takes port %d", r.Port)
	}
	at := l.GetAddress().GetSocketAddress()
	answer := &Answer{Listener: fmt.Sprintf("%s:%d", at.GetAddress(), at.GetPortValue())}
	if l.Name != "" {
		answer.Listener = l.Name + " (" + answer.Listener + ")"
	}
	via := connection{address: r.Address, port: r.Port, serverName: r.ServerName, transport: "raw_buffer", protocol: "http/1.1"}
	if r.TLS {
		via.transport, via.protocol = "tls", ""
	}
	chain := chainFor(l, via)
	if chain == nil {
		answer.FilterChain = "none fits: the connection is closed"
		return answer, nil
	}
	answer.FilterChain = Match(chain.FilterChainMatch)
	return answer, c.through(chain, r, answer)
}

// through follows the request into a filter chain.
func (c *Config) through(chain *listener.FilterChain, r Request, answer *Answer) error {
	for _, filter := range chain.Filters {
		if t := (&tcp.TcpProxy{}); filter.GetTypedConfig().MessageIs(t) {
			if err := filter.GetTypedConfig().UnmarshalTo(t); err != nil {
				return err
			}
			answer.Notes = append(answer.Notes, "the connection is forwarded as bytes: no HTTP rule applies")
			c.forward(t.GetCluster(), weightsOfTCP(t), r, answer)
			return nil
		}
		h := &hcm.HttpConnectionManager{}
		if !filter.GetTypedConfig().MessageIs(h) {
			continue
		}
		if err := filter.GetTypedConfig().UnmarshalTo(h); err != nil {
			return err
		}
		return c.http(h, r, answer)
	}
	return errors.New("the filter chain neither speaks HTTP nor forwards")
}

func (c *Config) http(h *hcm.HttpConnectionManager, r Request, answer *Answer) error {
	for _, filter := range h.HttpFilters {
		rules := &rbac.RBAC{}
		if filter.GetTypedConfig().MessageIs(rules) && filter.GetTypedConfig().UnmarshalTo(rules) == nil {
			for name := range rules.GetRules().GetPolicies() {
				answer.Notes = append(answer.Notes, fmt.Sprintf("policy %s (%s) is asked first", name, rules.GetRules().GetAction()))
			}
		}
	}
	slices.Sort(answer.Notes)
	if h.GetNormalizePath().GetValue() {
		r.Path = normalize(r.Path, h.MergeSlashes)
	}
	table := h.GetRouteConfig()
	if name := h.GetRds().GetRouteConfigName(); name != "" {
		if table = c.table(name); table == nil {
			answer.Table = name
			answer.Notes = append(answer.Notes, "the route table is not there: the request waits for it")
			return nil
		}
	}
	answer.Table = table.GetName()
	host, domain := virtualHost(table, r.Authority)
	if host == nil {
		answer.Status = 404
		answer.Notes = append(answer.Notes, "no virtual host is for "+r.Authority)
		return nil
	}
	answer.VirtualHost, answer.Domain = host.Name, domain
	for _, one := range host.Routes {
		if matches(one.Match, r) {
			c.follow(one, r, answer)
			return nil
		}
		answer.PassedOver = append(answer.PassedOver, strings.TrimSpace(one.Name+" "+RouteMatch(one.Match)))
	}
	answer.Status = 404
	answer.Notes = append(answer.Notes, "no route of the virtual host takes it")
	return nil
}

func (c *Config) table(name string) *route.RouteConfiguration {
	for _, table := range c.Routes {
		if table.Name == name {
			return table
		}
	}
	return nil
}

// follow says what a route does with the request.
func (c *Config) follow(one *route.Route, r Request, answer *Answer) {
	answer.Route, answer.Match, answer.Owner = one.Name, RouteMatch(one.Match), Owner(one.Metadata)
	answer.Notes = append(answer.Notes, faults(one)...)
	switch action := one.Action.(type) {
	case *route.Route_DirectResponse:
		answer.Status = action.DirectResponse.Status
	case *route.Route_Redirect:
		answer.Status, answer.Location = redirect(action.Redirect, r)
	case *route.Route_Route:
		answer.Notes = append(answer.Notes, actionNotes(action.Route)...)
		c.forward(action.Route.GetCluster(), weightsOf(action.Route), r, answer)
	}
}

// weights are the clusters of a weighted choice.
type weights []struct {
	name   string
	weight uint32
}

func weightsOf(a *route.RouteAction) weights {
	var out weights
	for _, w := range a.GetWeightedClusters().GetClusters() {
		out = append(out, struct {
			name   string
			weight uint32
		}{w.Name, w.Weight.GetValue()})
	}
	return out
}

func weightsOfTCP(t *tcp.TcpProxy) weights {
	var out weights
	for _, w := range t.GetWeightedClusters().GetClusters() {
		out = append(out, struct {
			name   string
			weight uint32
		}{w.Name, w.Weight})
	}
	return out
}

func (c *Config) forward(single string, several weights, r Request, answer *Answer) {
	if single != "" {
		answer.Clusters = []Choice{c.choice(single, 100, r)}
		return
	}
	var total uint32
	for _, w := range several {
		total += w.weight
	}
	for _, w := range several {
		if w.weight > 0 {
			answer.Clusters = append(answer.Clusters, c.choice(w.name, 100*float64(w.weight)/float64(total), r))
		}
	}
}

func (c *Config) choice(name string, percent float64, r Request) Choice {
	out := Choice{Name: name, Percent: percent}
	i := slices.IndexFunc(c.Clusters, func(cl *cluster.Cluster) bool { return cl.Name == name })
	if i < 0 {
		out.Missing = "the proxy has no such cluster: it answers 503"
		return out
	}
	found := c.Clusters[i]
	out.Owner, out.Policy = Owner(found.Metadata), found.LbPolicy.String()
	assignment := found.LoadAssignment
	for _, a := range c.Endpoints {
		if a.ClusterName == name || a.ClusterName == found.GetEdsClusterConfig().GetServiceName() {
			assignment = a
		}
	}
	if found.GetType() == cluster.Cluster_ORIGINAL_DST {
		out.Endpoints = []string{fmt.Sprintf("%s:%d, where the client meant", r.Address, r.Port)}
		return out
	}
	out.Endpoints = endpointsOf(assignment)
	if len(out.Endpoints) == 0 {
		out.Missing = "it has no endpoints: the proxy answers 503"
	}
	return out
}

func endpointsOf(assignment *endpoint.ClusterLoadAssignment) []string {
	var all []string
	for _, group := range assignment.GetEndpoints() {
		for _, e := range group.LbEndpoints {
			text := Address(e)
			if s := e.GetHealthStatus(); s != core.HealthStatus_UNKNOWN && s != core.HealthStatus_HEALTHY {
				text += " " + s.String()
			}
			all = append(all, text)
		}
	}
	return all
}

func faults(one *route.Route) []string {
	f := &fault.HTTPFault{}
	packed := one.TypedPerFilterConfig["envoy.filters.http.fault"]
	if !packed.MessageIs(f) || packed.UnmarshalTo(f) != nil {
		return nil
	}
	var notes []string
	if d := f.GetDelay(); d != nil {
		notes = append(notes, fmt.Sprintf("fault: %s are held for %s", share(d.Percentage), d.GetFixedDelay().AsDuration()))
	}
	if a := f.GetAbort(); a != nil {
		notes = append(notes, fmt.Sprintf("fault: %s are answered %d", share(a.Percentage), a.GetHttpStatus()))
	}
	return notes
}

func share(p *xds.FractionalPercent) string {
	per := map[xds.FractionalPercent_DenominatorType]float64{xds.FractionalPercent_HUNDRED: 1, xds.FractionalPercent_TEN_THOUSAND: 100, xds.FractionalPercent_MILLION: 10000}
	return fmt.Sprintf("%g %%", float64(p.GetNumerator())/per[p.GetDenominator()])
}

func actionNotes(a *route.RouteAction) []string {
	var notes []string
	if timeout := a.GetTimeout(); positive(timeout) {
		notes = append(notes, "timeout "+timeout.AsDuration().String())
	}
	if retry := a.GetRetryPolicy(); retry != nil {
		notes = append(notes, fmt.Sprintf("%d retries on %s", retry.GetNumRetries().GetValue(), retry.RetryOn))
	}
	for _, mirror := range a.GetRequestMirrorPolicies() {
		notes = append(notes, fmt.Sprintf("mirrored to %s, %s", mirror.Cluster, share(mirror.GetRuntimeFraction().GetDefaultValue())))
	}
	if a.GetPrefixRewrite() != "" {
		notes = append(notes, "the matched part of the path becomes "+a.GetPrefixRewrite())
	}
	if regex := a.GetRegexRewrite(); regex != nil {
		notes = append(notes, fmt.Sprintf("the path is rewritten: %s becomes %s", regex.GetPattern().GetRegex(), regex.Substitution))
	}
	if host := a.GetHostRewriteLiteral(); host != "" {
		notes = append(notes, "the authority becomes "+host)
	}
	return notes
}

func positive(d *durationpb.Duration) bool { return d != nil && d.AsDuration() > 0 }

func redirect(a *route.RedirectAction, r Request) (status uint32, location string) {
	codes := map[route.RedirectAction_RedirectResponseCode]uint32{route.RedirectAction_MOVED_PERMANENTLY: 301, route.RedirectAction_FOUND: 302,
		route.RedirectAction_SEE_OTHER: 303, route.RedirectAction_TEMPORARY_REDIRECT: 307, route.RedirectAction_PERMANENT_REDIRECT: 308}
	scheme, host, path := r.Scheme, r.Authority, r.Path
	if a.GetHttpsRedirect() {
		scheme = "https"
	} else if a.GetSchemeRedirect() != "" {
		scheme = a.GetSchemeRedirect()
	}
	if a.HostRedirect != "" {
		host = a.HostRedirect
	}
	if a.PortRedirect != 0 {
		host = fmt.Sprintf("%s:%d", withoutPort(host), a.PortRedirect)
	}
	_, query, hasQuery := strings.Cut(path, "?")
	if a.GetPathRedirect() != "" {
		if path = a.GetPathRedirect(); hasQuery && !strings.Contains(path, "?") {
			path += "?" + query
		}
	}
	if a.StripQuery {
		path, _, _ = strings.Cut(path, "?")
	}
	return codes[a.ResponseCode], scheme + "://" + host + path
}

// normalize takes the dot segments out of a path, and with merge its empty ones.
func normalize(target string, merge bool) string {
	path, query, hasQuery := strings.Cut(target, "?")
	var out []string
	segments := strings.Split(path, "/")
	for i, s := range segments {
		last := i == len(segments)-1
		switch {
		case s == ".":
			if last {
				out = append(out, "")
			}
		case s == "..":
			if len(out) > 1 {
				out = out[:len(out)-1]
			}
			if last {
				out = append(out, "")
			}
		case s == "" && merge && i > 0 && !last:
		default:
			out = append(out, s)
		}
	}
	path = strings.Join(out, "/")
	if hasQuery {
		path += "?" + query
	}
	return path
}
