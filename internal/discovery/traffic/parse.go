package traffic

import (
	"fmt"
	"io"
	"strings"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// counts are what one proxy counts.
type counts map[key]tally

// key is an edge as one of its ends sees it.
type key struct {
	from, to                 End
	host, protocol, reporter string
}

type tally struct{ requests, failed, secured float64 }

func (t *tally) add(o tally) {
	t.requests += o.requests
	t.failed += o.failed
	t.secured += o.secured
}

// since is what came since an earlier tally. A proxy that started anew counts from zero.
func (t tally) since(before tally) tally {
	if t.requests < before.requests {
		return t
	}
	return tally{t.requests - before.requests, t.failed - before.failed, t.secured - before.secured}
}

// parse reads Prometheus's text format.
func parse(text io.Reader) (counts, error) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(text)
	if err != nil {
		return nil, fmt.Errorf("read the metrics: %w", err)
	}
	out := counts{}
	for _, name := range []string{"istio_requests_total", "istio_tcp_connections_opened_total"} {
		for _, metric := range families[name].GetMetric() {
			out.count(metric)
		}
	}
	return out, nil
}

func (c counts) count(metric *dto.Metric) {
	labels := map[string]string{}
	for _, pair := range metric.Label {
		labels[pair.GetName()] = pair.GetValue()
	}
	protocol := labels["request_protocol"]
	if protocol == "" {
		protocol = "tcp"
	}
	k := key{from: End{known(labels["source_workload_namespace"]), known(labels["source_canonical_service"])},
		to:   End{known(labels["destination_workload_namespace"], labels["destination_service_namespace"]), known(labels["destination_canonical_service"], labels["destination_service_name"])},
		host: labels["destination_service"], protocol: protocol, reporter: labels["reporter"]}
	if k.to.Service == unknown { // an unknown caller is another one
		k.to.Service = "no route"
	}
	value := metric.GetCounter().GetValue() + metric.GetUntyped().GetValue()
	t := c[k]
	t.requests += value
	if failed(protocol, labels) {
		t.failed += value
	}
	if labels["connection_security_policy"] == "mutual_tls" {
		t.secured += value
	}
	c[k] = t
}

// known is the first that says something.
func known(names ...string) string {
	for _, name := range names {
		if name != "" && name != unknown {
			return name
		}
	}
	return unknown
}

const unknown = "unknown"

func failed(protocol string, labels map[string]string) bool {
	code := labels["response_code"]
	switch protocol {
	case "tcp":
		return labels["response_flags"] != "-" && labels["response_flags"] != ""
	case "grpc":
		status := labels["grpc_response_status"]
		return status != "0" && status != "" || code != "200"
	}
	return code == "0" || strings.HasPrefix(code, "5")
}
