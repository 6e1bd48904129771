package cli

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"sort"
	"strings"
	"text/tabwriter"
	"time"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/slipway-mesh/slipway/internal/explain"
)

// printRows prints a table; its rows are sorted.
func printRows(out io.Writer, header string, rows []string) error {
	sort.Strings(rows)
	table := tabwriter.NewWriter(out, 0, 8, 3, ' ', 0)
	fmt.Fprintln(table, header)
	for _, row := range rows {
		fmt.Fprintln(table, row)
	}
	return table.Flush()
}

// asJSON are messages for programs, with Envoy's own field names.
func asJSON[M proto.Message](messages []M, keep func(M) bool) (any, error) {
	out := []json.RawMessage{}
	for _, message := range messages {
		if !keep(message) {
			continue
		}
		text, err := protojson.Marshal(message)
		if err != nil {
			return nil, err
		}
		out = append(out, text)
	}
	return out, nil
}

func is(want, got string) bool { return want == "" || want == got }

func clusterFlags(command *cobra.Command, f *proxyFilter) {
	flags := command.Flags()
	flags.StringVar(&f.fqdn, "fqdn", "", "only of hosts with this in their name")
	flags.StringVar(&f.direction, "direction", "", "only inbound or outbound")
	flags.StringVar(&f.subset, "subset", "", "only of this subset")
	flags.IntVar(&f.port, "port", 0, "only of this port")
}

func (f proxyFilter) ofCluster(c *cluster.Cluster) bool {
	name := explain.ParseCluster(c.Name)
	return strings.Contains(name.Host, f.fqdn) && is(f.direction, name.Direction) && is(f.subset, name.Subset) && (f.port == 0 || fmt.Sprint(f.port) == name.Port)
}

func clusterRows(config *explain.Config, f proxyFilter) []string {
	var rows []string
	for _, c := range config.Clusters {
		if !f.ofCluster(c) {
			continue
		}
		name, kind := explain.ParseCluster(c.Name), c.GetType().String()
		if c.GetClusterType() != nil {
			kind = c.GetClusterType().GetName()
		}
		rule := strings.TrimPrefix(explain.Owner(c.Metadata), "destination-rule ")
		rows = append(rows, strings.Join([]string{name.Host, dash(name.Port), dash(name.Subset), dash(name.Direction), kind, rule}, "\t"))
	}
	return rows
}

func clusterValues(config *explain.Config, f proxyFilter) (any, error) {
	return asJSON(config.Clusters, f.ofCluster)
}

func dash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

func listenerFlags(command *cobra.Command, f *proxyFilter) {
	flags := command.Flags()
	flags.StringVar(&f.address, "address", "", "only on this address")
	flags.StringVar(&f.kind, "type", "", "only HTTP or TCP")
	flags.IntVar(&f.port, "port", 0, "only on this port")
}

func (f proxyFilter) ofListener(l *listener.Listener) bool {
	at := l.GetAddress().GetSocketAddress()
	return is(f.address, at.GetAddress()) && (f.port == 0 || uint32(f.port) == at.GetPortValue()) //nolint:gosec // a port
}

func listenerRows(config *explain.Config, f proxyFilter) []string {
	var rows []string
	for _, l := range config.Listeners {
		if !f.ofListener(l) {
			continue
		}
		at := l.GetAddress().GetSocketAddress()
		chains := l.FilterChains
		if l.DefaultFilterChain != nil {
			chains = append(chains[:len(chains):len(chains)], l.DefaultFilterChain)
		}
		for _, chain := range chains {
			kind, where := explain.Destination(chain)
			if is(strings.ToUpper(f.kind), kind) {
				rows = append(rows, fmt.Sprintf("%s\t%d\t%s\t%s", at.GetAddress(), at.GetPortValue(), explain.Match(chain.FilterChainMatch), where))
			}
		}
	}
	return rows
}

func listenerValues(config *explain.Config, f proxyFilter) (any, error) {
	return asJSON(config.Listeners, f.ofListener)
}

func routeFlags(command *cobra.Command, f *proxyFilter) {
	command.Flags().StringVar(&f.name, "name", "", "only the route table of this name")
}

func routeRows(config *explain.Config, f proxyFilter) []string {
	var rows []string
	for _, table := range config.Routes {
		if !is(f.name, table.Name) {
			continue
		}
		for _, host := range table.VirtualHosts {
			domains := strings.Join(host.Domains[:min(len(host.Domains), 2)], ", ")
			if more := len(host.Domains) - 2; more > 0 {
				domains += fmt.Sprintf(" + %d more...", more)
			}
			for _, r := range host.Routes {
				owner := strings.TrimPrefix(explain.Owner(r.Metadata), "virtual-service ")
				rows = append(rows, strings.Join([]string{table.Name, host.Name, domains, explain.RouteMatch(r.Match), owner}, "\t"))
			}
		}
	}
	return rows
}

func routeValues(config *explain.Config, f proxyFilter) (any, error) {
	return asJSON(config.Routes, func(r *route.RouteConfiguration) bool { return is(f.name, r.Name) })
}

func endpointFlags(command *cobra.Command, f *proxyFilter) {
	flags := command.Flags()
	flags.StringVar(&f.cluster, "cluster", "", "only of this cluster")
	flags.StringVar(&f.address, "address", "", "only at this address")
	flags.StringVar(&f.status, "status", "", "only healthy or unhealthy")
	flags.IntVar(&f.port, "port", 0, "only on this port")
}

func endpointRows(config *explain.Config, f proxyFilter) []string {
	var rows []string
	for _, assignment := range config.Endpoints {
		if !is(f.cluster, assignment.ClusterName) {
			continue
		}
		for _, group := range assignment.Endpoints {
			for _, e := range group.LbEndpoints {
				status := "HEALTHY"
				if s := e.GetHealthStatus(); s != core.HealthStatus_UNKNOWN && s != core.HealthStatus_HEALTHY {
					status = s.String()
				}
				at := e.GetEndpoint().GetAddress().GetSocketAddress()
				wanted := f.status == "" || strings.EqualFold(f.status, "healthy") == (status == "HEALTHY")
				if wanted && is(f.address, at.GetAddress()) && (f.port == 0 || uint32(f.port) == at.GetPortValue()) { //nolint:gosec // a port
					rows = append(rows, fmt.Sprintf("%s\t%s\t%s\t%s", explain.Address(e), status, dash(explain.Locality(group)), assignment.ClusterName))
				}
			}
		}
	}
	return rows
}

func endpointValues(config *explain.Config, f proxyFilter) (any, error) {
	return asJSON(config.Endpoints, func(a *endpoint.ClusterLoadAssignment) bool { return is(f.cluster, a.ClusterName) })
}

func secretRows(config *explain.Config, _ proxyFilter) []string {
	var rows []string
	for _, s := range config.Secrets {
		kind, text := "Cert Chain", s.Chain
		if len(s.Chain) == 0 {
			kind, text = "CA", s.Trusted
		}
		for rest := text; ; {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				break
			}
			certificate, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				continue
			}
			now := time.Now()
			valid := now.After(certificate.NotBefore) && now.Before(certificate.NotAfter)
			rows = append(rows, fmt.Sprintf("%s\t%s\t%s\t%v\t%x\t%s\t%s", s.Name, kind, s.State, valid, certificate.SerialNumber,
				certificate.NotAfter.UTC().Format(time.RFC3339), certificate.NotBefore.UTC().Format(time.RFC3339)))
		}
		if len(bytes.TrimSpace(text)) == 0 {
			rows = append(rows, fmt.Sprintf("%s\t%s\t%s\tfalse\t-\t-\t-", s.Name, kind, s.State))
		}
	}
	return rows
}

func secretValues(config *explain.Config, _ proxyFilter) (any, error) { return config.Secrets, nil }

func bootstrapValues(config *explain.Config, _ proxyFilter) (any, error) {
	return config.Bootstrap, nil
}
