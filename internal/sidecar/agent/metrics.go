package agent

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/slipway-mesh/slipway/internal/identity"
)

// Envoy counts requests and connections by one tag; see internal/discovery/envoy/telemetry.go. Istio's names and labels are made of it
// here, when somebody reads, so that they cost the requests nothing.
// https://istio.io/latest/docs/reference/config/metrics/

// countedPrefix begins the names that Envoy gives to what it counts for the mesh.
const countedPrefix = "envoy_slipway_"

const unknown = "unknown"

// self is this end of all connections.
type self struct {
	identity.Workload
	namespace, principal, cluster string
}

func (o Options) self() self {
	out := self{Workload: o.workload(), namespace: o.Environment["POD_NAMESPACE"], principal: o.ID.String(), cluster: o.Environment["ISTIO_META_CLUSTER_ID"]}
	if out.cluster == "" {
		out.cluster = "Kubernetes"
	}
	return out
}

// party is one end of a connection in labels.
type party struct{ workload, namespace, principal, service, revision, app, version, cluster string }

func (s self) party() party {
	return partyOf(s.Workload, s.namespace, s.principal, s.cluster)
}

func partyOf(w identity.Workload, namespace, principal, cluster string) party {
	first := func(a, b string) string {
		if a != "" {
			return a
		}
		return orUnknown(b)
	}
	return party{workload: orUnknown(w.Name), namespace: orUnknown(namespace), principal: orUnknown(principal), service: orUnknown(w.Service), revision: orUnknown(w.Revision),
		app: first(w.App, w.Service), version: first(w.Version, w.Revision), cluster: orUnknown(cluster)}
}

func orUnknown(text string) string {
	if text == "" || text == "-" {
		return unknown
	}
	return text
}

// peer is the other end, as its certificate tells. Certificates of the mesh are all of this cluster.
func (s self) peer(tags map[string]string) party {
	w, known := identity.ParseWorkload(tags["peer"])
	namespace, cluster := "", ""
	if parts := strings.Split(tags["identity"], "/"); len(parts) == 7 { // spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT
		namespace = parts[4]
	}
	if known {
		cluster = s.cluster
	}
	return partyOf(w, namespace, tags["identity"], cluster)
}

// called is what a request or connection was for: a host, its name and its namespace.
func called(tags map[string]string) (host, name, namespace string) {
	host = tags["target"]
	if tags["reporter"] == "source" { // it is a cluster
		parts := strings.SplitN(host, "|", 4)
		if len(parts) < 4 { // PassthroughCluster and such
			return unknown, host, unknown
		}
		host = parts[3]
	}
	if host == "" || host == "-" {
		return unknown, unknown, unknown
	}
	if name, rest, ok := strings.Cut(host, "."); ok {
		if namespace, domain, ok := strings.Cut(rest, "."); ok && strings.HasPrefix(domain, "svc.") {
			return host, name, namespace
		}
	}
	return host, host, unknown
}

// labels are Istio's for one series of Envoy's, in Istio's order.
func (s self) labels(tags map[string]string) string {
	source, destination := s.party(), s.peer(tags)
	if tags["reporter"] == "destination" {
		source, destination = destination, source
	}
	host, name, namespace := called(tags)
	if destination.namespace == unknown {
		destination.namespace = namespace
	}
	security := unknown
	if tags["reporter"] == "destination" {
		security = "none"
		if orUnknown(tags["identity"]) != unknown {
			security = "mutual_tls"
		}
	}
	protocol := "tcp"
	if tags["code"] != "" {
		protocol = "http"
		if orUnknown(tags["grpc"]) != unknown {
			protocol = "grpc"
		}
	}
	pairs := []string{
		"reporter", tags["reporter"],
		"source_workload", source.workload, "source_canonical_service", source.service, "source_canonical_revision", source.revision, "source_workload_namespace", source.namespace,
		"source_principal", source.principal, "source_app", source.app, "source_version", source.version, "source_cluster", source.cluster,
		"destination_workload", destination.workload, "destination_workload_namespace", destination.namespace, "destination_principal", destination.principal,
		"destination_app", destination.app, "destination_version", destination.version, "destination_service", host,
		"destination_canonical_service", destination.service, "destination_canonical_revision", destination.revision, "destination_service_name", name,
		"destination_service_namespace", namespace, "destination_cluster", destination.cluster, "request_protocol", protocol,
	}
	if protocol != "tcp" {
		grpc := tags["grpc"]
		if grpc == "-" {
			grpc = ""
		}
		pairs = append(pairs, "response_code", tags["code"], "grpc_response_status", grpc)
	}
	pairs = relabel(append(pairs, "response_flags", tags["flags"], "connection_security_policy", security), tags)
	if bound, ok := tags["le"]; ok {
		pairs = append(pairs, "le", bound)
	}
	var out strings.Builder
	for i := 0; i < len(pairs); i += 2 {
		if i > 0 {
			out.WriteByte(',')
		}
		out.WriteString(pairs[i] + "=" + strconv.Quote(pairs[i+1]))
	}
	return out.String()
}

// The tags of labels that a Telemetry sets, each its own, and of those that it takes away.
const setTag, dropTag = "set_", "drop"

// relabel sets labels and takes them away, as a Telemetry says. What a call has nothing of is unknown.
func relabel(pairs []string, tags map[string]string) []string {
	var set []string
	for tag := range tags {
		if name, ok := strings.CutPrefix(tag, setTag); ok {
			set = append(set, name)
		}
	}
	slices.Sort(set)
	for _, name := range set {
		value := orUnknown(tags[setTag+name])
		if at := labelAt(pairs, name); at >= 0 {
			pairs[at+1] = value
		} else {
			pairs = append(pairs, name, value)
		}
	}
	dropped, some := tags[dropTag]
	if !some {
		return pairs
	}
	for name := range strings.SplitSeq(dropped, ",") {
		if at := labelAt(pairs, name); at >= 0 {
			pairs = slices.Delete(pairs, at, at+2)
		}
	}
	return pairs
}

// labelAt is where a label's name is in pairs of names and values; -1 is nowhere.
func labelAt(pairs []string, name string) int {
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i] == name {
			return i
		}
	}
	return -1
}

// series is one line of a metric.
type series struct {
	name, labels string
	order        int
}

// maxSeries is how long a line of metrics may be, in bytes.
const maxSeries = 1 << 20

// eachLine hands on the lines of a text as they come: metrics can be many, and an agent is to be small.
func eachLine(text io.Reader, do func(line string) error) error {
	lines := bufio.NewScanner(text)
	lines.Buffer(nil, maxSeries)
	for lines.Scan() {
		if err := do(lines.Text()); err != nil {
			return err
		}
	}
	return lines.Err()
}

// translate copies Envoy's metrics, with the mesh's under their own names and labels. Series of Envoy's that become the same one are
// added up.
func (s self) translate(w io.Writer, text io.Reader) error {
	sums := map[series]float64{}
	kinds := map[string]string{}
	buffered := bufio.NewWriter(w)
	if err := eachLine(text, func(line string) error {
		rest, counted := strings.CutPrefix(line, countedPrefix)
		if kind, ok := strings.CutPrefix(line, "# TYPE "+countedPrefix); ok {
			name, kind, _ := strings.Cut(strings.TrimSpace(kind), " ")
			kinds[name] = kind
			return nil
		}
		if !counted {
			_, err := buffered.WriteString(line + "\n")
			return err
		}
		if name, tags, value, ok := parseSeries(strings.TrimSpace(rest)); ok {
			sums[series{name, s.labels(tags), bucketOrder(tags)}] += value
		}
		return nil
	}); err != nil {
		return err
	}
	byKind := map[string][]series{}
	for one := range sums {
		byKind[family(one.name, kinds)] = append(byKind[family(one.name, kinds)], one)
	}
	for _, name := range slices.Sorted(maps.Keys(byKind)) {
		fmt.Fprintf(buffered, "# TYPE istio_%s %s\n", name, kinds[name])
		list := byKind[name]
		slices.SortFunc(list, func(a, b series) int {
			if c := strings.Compare(unbound(a.labels)+a.name, unbound(b.labels)+b.name); c != 0 {
				return c
			}
			return a.order - b.order
		})
		for _, one := range list {
			fmt.Fprintf(buffered, "istio_%s{%s} %s\n", one.name, one.labels, strconv.FormatFloat(sums[one], 'f', -1, 64))
		}
	}
	return buffered.Flush()
}

// family is the metric that a line is of: those of histograms have endings.
func family(name string, kinds map[string]string) string {
	for _, ending := range []string{"_bucket", "_sum", "_count"} {
		if base, ok := strings.CutSuffix(name, ending); ok && kinds[base] == "histogram" {
			return base
		}
	}
	return name
}

// unbound is labels without the bucket's bound, so that the buckets of a series stand together.
func unbound(labels string) string {
	before, _, _ := strings.Cut(labels, ",le=")
	return before
}

// bucketOrder puts buckets in the order of their bounds, in thousandths.
func bucketOrder(tags map[string]string) int {
	bound, err := strconv.ParseFloat(tags["le"], 64)
	if err != nil || bound > 1e12 {
		return 1 << 60
	}
	return int(bound * 1000)
}

// callParts are what the tag of all series says, in this order. Those of connections end after the flags.
var callParts = []string{"reporter", "identity", "peer", "target", "flags", "code", "grpc"}

func splitCall(tags map[string]string) {
	for i, part := range strings.Split(tags["call"], "~") {
		if i < len(callParts) {
			tags[callParts[i]] = part
		}
	}
}

// parseSeries reads NAME{TAG="VALUE",...} NUMBER.
func parseSeries(line string) (name string, tags map[string]string, value float64, ok bool) {
	name, rest, _ := strings.Cut(line, "{")
	tags = map[string]string{}
	defer func() { splitCall(tags) }()
	for rest != "" && rest[0] != '}' {
		key, after, found := strings.Cut(rest, "=")
		if !found {
			return "", nil, 0, false
		}
		quoted, err := strconv.QuotedPrefix(after)
		if err != nil {
			return "", nil, 0, false
		}
		text, err := strconv.Unquote(quoted)
		if err != nil {
			return "", nil, 0, false
		}
		tags[key] = text
		rest = strings.TrimPrefix(after[len(quoted):], ",")
	}
	value, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimPrefix(rest, "}")), 64)
	return name, tags, value, err == nil
}
