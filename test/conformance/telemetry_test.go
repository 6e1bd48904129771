package conformance

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/slipway-mesh/slipway/test/kubetest"
	"github.com/slipway-mesh/slipway/test/nettest"
)

// metric is a line of Prometheus' text: its labels and value.
type metric struct {
	name   string
	labels map[string]string
	value  float64
}

var metricLabel = regexp.MustCompile(`([a-z_]+)="([^"]*)"`)

// metrics reads what a pod's proxy counts, at one of the ports where it tells of it.
func (m *mesh) metricsOf(p *nettest.Pod, port string) ([]metric, error) {
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return p.Dial(ctx, network, "127.0.0.1:"+port)
	}}}
	response, err := client.Get("http://localhost/stats/prometheus")
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	var out []metric
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		name, rest, ok := strings.Cut(lines.Text(), "{")
		if !ok || strings.HasPrefix(name, "#") {
			continue
		}
		labels, value, _ := strings.Cut(rest, "} ")
		one := metric{name: name, labels: map[string]string{}}
		for _, pair := range metricLabel.FindAllStringSubmatch(labels, -1) {
			one.labels[pair[1]] = pair[2]
		}
		if one.value, err = strconv.ParseFloat(value, 64); err != nil {
			return nil, fmt.Errorf("%s: %w", lines.Text(), err)
		}
		out = append(out, one)
	}
	return out, lines.Err()
}

// counted adds up the series of a metric that have labels, given as NAME, VALUE.
func (m *mesh) counted(p *nettest.Pod, port, name string, labels ...string) (float64, error) {
	all, err := m.metricsOf(p, port)
	if err != nil {
		return 0, err
	}
	sum := 0.0
next:
	for _, one := range all {
		if one.name != name {
			continue
		}
		for i := 0; i < len(labels); i += 2 {
			if one.labels[labels[i]] != labels[i+1] {
				continue next
			}
		}
		sum += one.value
	}
	return sum, nil
}

// TestTelemetry counts requests and connections at both ends, and compares with what was sent.
func TestTelemetry(t *testing.T) {
	t.Parallel() // its ports are its own
	m := startPods(t)
	m.kube.Apply(t, forMesh(httpToV2))
	client, v2, plain := m.pods.client, m.pods.v2, m.pods.plain
	kubetest.Eventually(t, 10*time.Second, func() error { return only(m, 6, "v2") })
	const from, to = "spiffe://cluster.local/ns/default/sa/client", "spiffe://cluster.local/ns/default/sa/v2"
	const host = "reviews.default.svc.cluster.local"
	called := []string{"destination_service", host, "destination_service_name", "reviews", "destination_service_namespace", "default"}
	ends := []string{"source_workload", "client", "source_workload_namespace", "default", "source_principal", from, "source_canonical_service", "client", "source_canonical_revision", "latest", "source_app", "client",
		"destination_workload", "v2", "destination_workload_namespace", "default", "destination_principal", to, "destination_canonical_service", "reviews", "destination_canonical_revision", "v2", "destination_version", "v2"}
	for _, c := range []struct {
		name   string
		pod    *nettest.Pod
		metric string
		labels []string
		want   float64
		do     func() error
	}{
		{"requests at the caller", client, "istio_requests_total", append([]string{"reporter", "source", "request_protocol", "http", "response_code", "200", "response_flags", "-"}, append(called, ends...)...), 7, func() error { return requests(m, 7) }},
		{"requests at the called", v2, "istio_requests_total", append([]string{"reporter", "destination", "request_protocol", "http", "response_code", "200", "connection_security_policy", "mutual_tls"}, append(called, ends...)...), 7, func() error { return requests(m, 7) }},
		{"durations", client, "istio_request_duration_milliseconds_count", append([]string{"reporter", "source"}, called...), 5, func() error { return requests(m, 5) }},
		{"a bucket of all", client, "istio_request_duration_milliseconds_bucket", append([]string{"reporter", "source", "le", "+Inf"}, called...), 5, func() error { return requests(m, 5) }},
		{"bytes of answers", v2, "istio_response_bytes_count", append([]string{"reporter", "destination"}, called...), 3, func() error { return requests(m, 3) }},
		{"a caller without a proxy", v2, "istio_requests_total", append([]string{"reporter", "destination", "source_workload", "unknown", "source_principal", "unknown", "connection_security_policy", "none"}, called...), 4, func() error {
			for range 4 {
				if _, _, err := m.from(plain, v2.Address+":8080", "reviews", "/"); err != nil {
					return err
				}
			}
			return nil
		}},
		{"failures", client, "istio_requests_total", append([]string{"reporter", "source", "response_code", "503"}, called...), 2, func() error {
			return m.failing("v2", func() error { return retriedAnyway(m, 2) })
		}},
		{"gRPC", v2, "istio_requests_total", append([]string{"reporter", "destination", "request_protocol", "grpc", "grpc_response_status", "0"}, called...), 2, func() error {
			for range 2 {
				if _, _, err := m.from(client, reviewsIP+":80", "reviews", "/grpc", "content-type", "application/grpc"); err != nil {
					return err
				}
			}
			return nil
		}},
		{"connections opened", client, "istio_tcp_connections_opened_total", []string{"reporter", "source", "request_protocol", "tcp", "destination_service_name", "echo", "source_workload", "client"}, 3, func() error { return lines(m, 3) }},
		{"connections closed", client, "istio_tcp_connections_closed_total", []string{"reporter", "source", "request_protocol", "tcp", "destination_service_name", "echo"}, 3, func() error { return lines(m, 3) }},
		{"bytes received", client, "istio_tcp_received_bytes_total", []string{"reporter", "source", "destination_service_name", "echo"}, 18, func() error { return lines(m, 3) }},
		{"hosts in no registry", client, "istio_requests_total", []string{"reporter", "source", "destination_service_name", "PassthroughCluster", "response_code", "200"}, 2, func() error {
			for range 2 {
				if err := servedFrom(m, client, "outside", m.pods.outside.Address+":8082", "anything.test", "/"); err != nil {
					return err
				}
			}
			return nil
		}},
	} {
		for _, port := range []string{"15020", "15090"} {
			t.Run(c.name+" at "+port, func(t *testing.T) {
				if strings.HasSuffix(c.metric, "_count") || strings.HasSuffix(c.metric, "_bucket") {
					time.Sleep(5500 * time.Millisecond) // Envoy merges histograms every five seconds: those of before are told then
				}
				before, err := m.counted(c.pod, port, c.metric, c.labels...)
				if err := errors.Join(err, c.do()); err != nil {
					t.Fatal(err)
				}
				kubetest.Eventually(t, 8*time.Second, func() error {
					after, err := m.counted(c.pod, port, c.metric, c.labels...)
					return orErr(err, expect(after-before == c.want, "%s rose by %v, not by %v", c.metric, after-before, c.want))
				})
			})
		}
	}
	m.rejections(t)
}

// retriedAnyway sends requests whatever answers, each of which is tried once.
func retriedAnyway(m *mesh, n int) error {
	for range n {
		if _, _, err := m.from(m.pods.client, reviewsIP+":80", "reviews", "/", "x-envoy-max-retries", "0"); err != nil {
			return err
		}
	}
	return nil
}

// lines sends lines to the echo service, each over a connection of its own.
func lines(m *mesh, n int) error {
	for range n {
		if _, err := m.tcpFrom(m.pods.client, echoIP+":80", "hello"); err != nil {
			return err
		}
	}
	return nil
}
