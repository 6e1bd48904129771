package agent

import (
	"bufio"
	"bytes"
	"cmp"
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

// labels are Istio's for one series of Envoy's, in Istio's order, but for the bound of a bucket.
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
	bound        string // of a bucket, as it is written; empty for others
}

// maxSeries is how long a line of metrics may be, in bytes.
const maxSeries = 1 << 20

// eachLine hands on the lines of a text as they come, each until the next: metrics can be many, and an agent is to be small.
func eachLine(text io.Reader, do func(line []byte) error) error {
	lines := bufio.NewScanner(text)
	lines.Buffer(nil, maxSeries)
	for lines.Scan() {
		if err := do(lines.Bytes()); err != nil {
			return err
		}
	}
	return lines.Err()
}

// copyLine writes a line as it is.
func copyLine(w *bufio.Writer, line []byte) error {
	_, _ = w.Write(line) // an error stays with the writer
	return w.WriteByte('\n')
}

// reading is a scrape on its way: what Envoy has counted for the mesh.
type reading struct {
	self
	sums  map[series]float64
	kinds map[string]string
	known map[string]string // labels, by Envoy's tags: those of a histogram's buckets are the same
}

// translate copies Envoy's metrics, with the mesh's under their own names and labels. Series of Envoy's that become the same one are
// added up.
func (s self) translate(w io.Writer, text io.Reader) error {
	r := reading{self: s, sums: map[series]float64{}, kinds: map[string]string{}, known: map[string]string{}}
	buffered := bufio.NewWriter(w)
	if err := eachLine(text, func(line []byte) error {
		if kind, ok := bytes.CutPrefix(line, []byte("# TYPE "+countedPrefix)); ok {
			name, kind, _ := strings.Cut(strings.TrimSpace(string(kind)), " ")
			r.kinds[name] = kind
			return nil
		}
		if counted, ok := bytes.CutPrefix(line, []byte(countedPrefix)); ok {
			r.add(string(counted))
			return nil
		}
		return copyLine(buffered, line)
	}); err != nil {
		return err
	}
	r.write(buffered)
	return buffered.Flush()
}

// add takes a series, NAME{TAG="VALUE",...,le="BOUND"} NUMBER. What is no such line is left out.
func (r *reading) add(line string) {
	name, rest, _ := strings.Cut(line, "{")
	end := strings.LastIndexByte(rest, '}')
	if end < 0 {
		return
	}
	value, err := strconv.ParseFloat(strings.TrimSpace(rest[end+1:]), 64)
	if err != nil {
		return
	}
	tags, bound, _ := strings.Cut(rest[:end], `,le="`) // no value has that: a quote in one is written with a backslash
	labels, known := r.known[tags]
	if !known {
		parsed, ok := parseTags(tags)
		if !ok {
			return
		}
		labels = r.labels(parsed)
		r.known[tags] = labels
	}
	r.sums[series{name, labels, strings.TrimSuffix(bound, `"`)}] += value
}

// write writes what was counted, by metrics, and the buckets of a series together and in order.
func (r *reading) write(w *bufio.Writer) {
	byKind := map[string][]series{}
	for one := range r.sums {
		name := family(one.name, r.kinds)
		byKind[name] = append(byKind[name], one)
	}
	for _, name := range slices.Sorted(maps.Keys(byKind)) {
		fmt.Fprintf(w, "# TYPE istio_%s %s\n", name, r.kinds[name])
		list := byKind[name]
		slices.SortFunc(list, func(a, b series) int {
			return cmp.Or(strings.Compare(a.labels, b.labels), strings.Compare(a.name, b.name), cmp.Compare(a.limit(), b.limit()))
		})
		for _, one := range list {
			bound := ""
			if one.bound != "" {
				bound = `,le="` + one.bound + `"`
			}
			fmt.Fprintf(w, "istio_%s{%s%s} %s\n", one.name, one.labels, bound, strconv.FormatFloat(r.sums[one], 'f', -1, 64))
		}
	}
}

// limit is the bound of a bucket as a number.
func (s series) limit() float64 {
	limit, _ := strconv.ParseFloat(s.bound, 64) // of a bucket it is one, +Inf among them
	return limit
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

// callParts are what the tag of all series says, in this order. Those of connections end after the flags.
var callParts = []string{"reporter", "identity", "peer", "target", "flags", "code", "grpc"}

func splitCall(tags map[string]string) {
	for i, part := range strings.Split(tags["call"], "~") {
		if i < len(callParts) {
			tags[callParts[i]] = part
		}
	}
}

// parseTags reads TAG="VALUE",..., and takes apart the one that tells of calls.
func parseTags(text string) (map[string]string, bool) {
	tags := map[string]string{}
	for text != "" {
		key, after, found := strings.Cut(text, "=")
		quoted, err := strconv.QuotedPrefix(after)
		if !found || err != nil {
			return nil, false
		}
		value, err := strconv.Unquote(quoted)
		if err != nil {
			return nil, false
		}
		tags[key] = value
		text = strings.TrimPrefix(after[len(quoted):], ",")
	}
	splitCall(tags)
	return tags, true
}
