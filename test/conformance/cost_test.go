//go:build bench

package conformance

import (
	"context"
	"net"
	"net/http"
	"slices"
	"testing"
	"time"
)

// TestCost measures what telemetry costs a request through two sidecars: the same requests with and without it, in turns, in one run.
func TestCost(t *testing.T) {
	m := startPods(t)
	route := forMesh("http: [{route: [{destination: {host: reviews, subset: v1}}]}]")
	ways := []struct{ name, object string }{
		{"nothing", telemetryObject("istio-system", "{metrics: [{overrides: [{disabled: true}]}]}")},
		{"metrics", telemetryObject("istio-system", "{metrics: [{overrides: [{disabled: false}]}]}")},
		{"metrics and access log", telemetryObject("istio-system", "{accessLogging: [{providers: [{name: file}]}]}")},
	}
	m.kube.Apply(t, observed("")+"---\n"+withPolicy("")+"---\n"+route)
	took := map[string][]time.Duration{}
	const rounds, requests = 4, 1500
	for range rounds {
		for _, way := range ways {
			m.kube.Apply(t, way.object)
			time.Sleep(2 * time.Second) // it reaches both proxies, and old listeners are gone
			took[way.name] = append(took[way.name], m.times(t, requests)...)
		}
	}
	share := func(list []time.Duration, percent int) time.Duration {
		slices.Sort(list)
		return list[len(list)*percent/100]
	}
	base := took["nothing"]
	for _, way := range ways {
		list := took[way.name]
		t.Logf("%s: p50 %s, p99 %s; %.2f and %.2f of what it is without telemetry", way.name, share(list, 50), share(list, 99),
			float64(share(list, 50))/float64(share(base, 50)), float64(share(list, 99))/float64(share(base, 99)))
	}
}

// times sends requests one after another on one connection, and says how long each took.
func (m *mesh) times(t *testing.T, n int) []time.Duration {
	t.Helper()
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return m.pods.client.Dial(ctx, network, reviewsIP+":80")
	}}}
	defer client.CloseIdleConnections()
	var out []time.Duration
	for i := range n + 100 {
		start := time.Now()
		response, _, err := ask(client, "http://reviews/", "reviews")
		if err != nil || response.StatusCode != http.StatusOK {
			t.Fatalf("answered %v: %v", response, err)
		}
		if i >= 100 { // the first ones warm the connections
			out = append(out, time.Since(start))
		}
	}
	return out
}
