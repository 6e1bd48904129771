package traffic

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func series(reporter, to, code, flags, policy string, n int) string {
	return fmt.Sprintf(`istio_requests_total{reporter=%q,source_canonical_service="page",source_workload_namespace="shop",destination_canonical_service=%q,destination_workload_namespace="shop",destination_service="%s.shop.svc.cluster.local",`+
		`request_protocol="http",response_code=%q,response_flags=%q,connection_security_policy=%q} %d`+"\n", reporter, to, to, code, flags, policy, n)
}

// answers plays the proxies of two addresses.
type answers map[string]func() string

func (a answers) RoundTrip(r *http.Request) (*http.Response, error) {
	text := a[r.URL.Hostname()]
	if text == nil {
		return nil, fmt.Errorf("no route to %s", r.URL.Host)
	}
	return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(strings.NewReader("# TYPE istio_requests_total counter\n" + text()))}, nil
}

func TestLook(t *testing.T) {
	var sent atomic.Int64
	sent.Store(10)
	c := &Collector{client: http.Client{Transport: answers{
		"10.0.0.1": func() string { // calls
			return series("source", "reviews", "200", "-", "unknown", int(sent.Load())) + series("source", "reviews", "503", "UF", "unknown", 2)
		},
		"10.0.0.2": func() string { // is called, by one without a proxy as well
			return series("destination", "reviews", "200", "-", "mutual_tls", 10) +
				strings.ReplaceAll(series("destination", "reviews", "200", "-", "none", 3), `"page",source_workload_namespace="shop"`, `"unknown",source_workload_namespace="unknown"`)
		},
	}}}
	addresses := []string{"10.0.0.3", "10.0.0.2", "10.0.0.1"}
	first := c.Look(context.Background(), addresses)
	if len(first.Silent) != 1 || !strings.Contains(first.Silent[0], "10.0.0.3") || first.Over != 0 {
		t.Errorf("silent %v, over %v", first.Silent, first.Over)
	}
	want := []Edge{
		{From: End{"shop", "page"}, To: End{"shop", "reviews"}, Host: "reviews.shop.svc.cluster.local", Protocol: "http", Requests: 12, Failed: 2, Secured: 10},
		{From: End{"unknown", "unknown"}, To: End{"shop", "reviews"}, Host: "reviews.shop.svc.cluster.local", Protocol: "http", Requests: 3, Plain: 3},
	}
	if fmt.Sprint(first.Edges) != fmt.Sprint(want) {
		t.Errorf("edges\n%+v, not\n%+v", first.Edges, want)
	}
	sent.Store(40)
	if again := c.Look(context.Background(), addresses); fmt.Sprint(again.Edges) != fmt.Sprint(want) {
		t.Error("the proxies were asked again at once")
	}
	c.at = c.at.Add(-10 * time.Second)
	second := c.Look(context.Background(), addresses)
	if rate := second.Edges[0].Rate; rate < 2.5 || rate > 3 {
		t.Errorf("30 requests in 10 s are %v a second", rate)
	}
	sent.Store(4) // it started anew
	c.at = c.at.Add(-10 * time.Second)
	if third := c.Look(context.Background(), addresses); third.Edges[0].Rate < 0 || third.Edges[0].Rate > 1 {
		t.Errorf("a proxy that started anew makes %v a second", third.Edges[0].Rate)
	}
}

func TestMost(t *testing.T) {
	c := &Collector{client: http.Client{Transport: answers{}}}
	if seen := c.Look(context.Background(), make([]string, Most+7)); seen.Unasked != 7 {
		t.Errorf("%d were not asked", seen.Unasked)
	}
}
