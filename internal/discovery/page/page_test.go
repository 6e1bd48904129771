package page

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/slipway-mesh/slipway/internal/discovery/traffic"
)

func edge(from, to string, rate, failed float64) traffic.Edge {
	return traffic.Edge{From: traffic.End{Namespace: "shop", Service: from}, To: traffic.End{Namespace: "shop", Service: to}, Rate: rate, FailedRate: failed, Requests: rate * 10}
}

func example() Source {
	many := make([]Service, most+3)
	for i := range many {
		many[i] = Service{Host: fmt.Sprintf("svc-%03d.shop", i), Namespace: "shop"}
	}
	return Source{
		Revision: "default",
		State: func(context.Context) State {
			return State{
				Replicas: []Replica{{Name: "istiod-1", Proxies: 2}, {Name: "istiod-2", Error: "istiod-2 does not answer"}},
				Proxies: []Proxy{
					{Name: "a", Namespace: "shop", Connected: time.Now().Add(-121 * time.Minute), Types: []Standing{{Type: "cds", State: "SYNCED"}}},
					{Name: "b", Namespace: "shop", Types: []Standing{{Type: "lds", State: "REJECTED", Error: "<script>alert(1)</script>"}}},
				},
				Objects: []Object{{Kind: "Gateway", Name: "fine", Reached: 2, Of: 2}, {Kind: "Gateway", Name: "late", Reached: 1, Of: 2, Problems: []Problem{{Field: "spec.servers", Message: "is wrong"}}}},
			}
		},
		Services: func() []Service { return many },
		Traffic: func(context.Context, []string) traffic.Traffic {
			return traffic.Traffic{Edges: []traffic.Edge{edge("page", "reviews", 12, 1), edge("reviews", "page", 0, 0), edge("other", "else", 1, 0)}}
		},
		Installations: func(context.Context) ([]Installation, error) { return nil, errors.New("forbidden") },
	}
}

func get(t *testing.T, query string) string {
	t.Helper()
	w := httptest.NewRecorder()
	Handler(example()).ServeHTTP(w, httptest.NewRequest(http.MethodGet, Path+query, nil))
	if w.Code != 200 {
		t.Fatalf("%s answers %d", query, w.Code)
	}
	return w.Body.String()
}

func TestPage(t *testing.T) {
	for query, want := range map[string]struct{ has, hasNot []string }{
		"":                           {[]string{"Rates come with the second look", `class="call failing"`, `class="call idle"`, "12/s", "istiod-2 does not answer"}, nil},
		"?tab=traffic&search=other":  {[]string{">other<"}, []string{">reviews<"}},
		"?tab=proxies":               {[]string{"&lt;script&gt;", "2 h ago", "1 not in step"}, []string{"<script>alert"}},
		"?tab=objects":               {[]string{"1 of 2", "<code>spec.servers</code> is wrong", `title="to look at">1<`}, nil},
		"?tab=services":              {[]string{"svc-000.shop", "3 more are not shown"}, []string{"svc-502.shop"}},
		"?tab=services&search=-502":  {[]string{"svc-502.shop"}, []string{"svc-000.shop", "not shown"}},
		"?tab=services&namespace=no": {[]string{"None."}, nil},
		"?tab=installations":         {[]string{"forbidden"}, nil},
		"/page.css":                  {[]string{".chip"}, nil},
	} {
		text := get(t, query)
		for _, one := range want.has {
			if !strings.Contains(text, one) {
				t.Errorf("%q has no %q:\n%s", query, one, text)
			}
		}
		for _, one := range want.hasNot {
			if strings.Contains(text, one) {
				t.Errorf("%q has %q", query, one)
			}
		}
	}
	if text := get(t, "?tab=proxies"); strings.Index(text, "<td>b</td>") > strings.Index(text, "<td>a</td>") {
		t.Error("who is in trouble does not come first")
	}
}

// TestColumns: callers stand left of whom they call, and rings end.
func TestColumns(t *testing.T) {
	g := draw([]traffic.Edge{edge("gateway", "page", 1, 0), edge("page", "reviews", 1, 0), edge("page", "details", 1, 0), edge("reviews", "ratings", 1, 0), edge("page", "ratings", 1, 0),
		edge("ratings", "page", 1, 0), edge("x", "y", 1, 0), edge("y", "x", 1, 0), edge("self", "self", 1, 0)})
	at := map[string]int{}
	for _, n := range g.Nodes {
		at[n.Service] = n.X
	}
	if at["gateway"] >= at["page"] || at["page"] >= at["reviews"] || at["reviews"] >= at["ratings"] || at["details"] != at["reviews"] || at["x"] >= at["y"] || len(at) != 8 {
		t.Errorf("columns %v", at)
	}
	if draw(nil) != nil {
		t.Error("nothing is drawn")
	}
}
