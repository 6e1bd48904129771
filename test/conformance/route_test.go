package conformance

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/slipway-mesh/slipway/internal/explain"
	"github.com/slipway-mesh/slipway/test/kubetest"
)

// TestRoute puts generated requests to explain and to a real Envoy, over generated rules: what the one says the other must
// do.
func TestRoute(t *testing.T) {
	m := start(t)
	const rounds, requests = 20, 60
	r := rand.New(rand.NewPCG(7, 8))
	seen := map[string]int{}
	for round := range rounds {
		marker := fmt.Sprintf("round-%d", round)
		m.kube.Apply(t, randomRules(r, marker))
		config := m.gatewayConfig(t, marker)
		for range requests {
			q := randomRequest(r)
			predicted, err := config.Route(q)
			if err != nil {
				t.Fatal(err)
			}
			got, err := m.send(q)
			if err != nil {
				t.Fatal(err)
			}
			seen[got.kind()]++
			if why := differs(predicted, got); why != "" {
				t.Errorf("%s: %s %s%s %v: %s\nexplained: %+v", marker, q.Method, q.Authority, q.Path, q.Headers, why, *predicted)
			}
		}
	}
	t.Logf("%d requests: %v", rounds*requests, seen)
	for _, kind := range []string{"v1", "v2", "redirect", "direct"} {
		if seen[kind] < 20 {
			t.Errorf("only %d requests went to %s: the rules do not tell much", seen[kind], kind)
		}
	}
}

// randomRules is a set of VirtualServices for the gateway, whose every rule has the marker in its name.
func randomRules(r *rand.Rand, marker string) string {
	var out strings.Builder
	for k, host := range []string{"reviews.test", "*.test", "*"} {
		fmt.Fprintf(&out, "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: random-%d}\nspec:\n  hosts: [%q]\n  gateways: [gateway]\n  http:\n", k, host)
		for i := range 2 + r.IntN(6) {
			fmt.Fprintf(&out, "  - name: %s-%d-%d\n    match: [%s]\n%s", marker, k, i, randomMatch(r), randomAction(r))
		}
		fmt.Fprintf(&out, "  - name: %s-%d-last\n    route: [{destination: {host: reviews.test, subset: v1}}]\n", marker, k)
	}
	return out.String()
}

func pick[T any](r *rand.Rand, list ...T) T { return list[r.IntN(len(list))] }

var words = []string{"a", "A", "ab", "b", "c", "42", "x.y"}

func randomText(r *rand.Rand, prefix string) string {
	word := prefix + pick(r, words...)
	return fmt.Sprintf(pick(r, "{exact: %q}", "{prefix: %q}", "{regex: %q}"), word)
}

func randomMatch(r *rand.Rand) string {
	var parts []string
	if r.IntN(3) > 0 {
		parts = append(parts, "uri: "+pick(r, randomText(r, "/"), randomText(r, "/a/"), `{regex: "/[a-z]+(/.*)?"}`, `{regex: "/.*[0-9]"}`))
		if r.IntN(3) == 0 {
			parts = append(parts, "ignoreUriCase: true")
		}
	}
	if r.IntN(3) == 0 {
		parts = append(parts, "headers: {x-h: "+pick(r, randomText(r, ""), "{}", `{regex: ".*"}`)+"}")
	}
	if r.IntN(4) == 0 {
		parts = append(parts, "withoutHeaders: {x-n: "+pick(r, randomText(r, ""), "{}")+"}")
	}
	if r.IntN(4) == 0 {
		parts = append(parts, "queryParams: {q: "+pick(r, `{exact: "a"}`, `{regex: "[0-9]+"}`, `{exact: ""}`, "{}")+"}")
	}
	if r.IntN(5) == 0 {
		parts = append(parts, "method: "+pick(r, "{exact: GET}", "{exact: POST}", "{prefix: P}"))
	}
	if r.IntN(6) == 0 {
		parts = append(parts, "authority: "+pick(r, "{prefix: reviews}", "{exact: reviews.test}", `{regex: ".*:18080"}`))
	}
	if len(parts) == 0 {
		parts = []string{`uri: {prefix: "/zz"}`}
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

func randomAction(r *rand.Rand) string {
	return pick(r,
		"    route: [{destination: {host: reviews.test, subset: v2}}]\n",
		"    route: [{destination: {host: reviews.test, subset: v1}}]\n",
		"    route: [{destination: {host: reviews.test, subset: v1}, weight: 50}, {destination: {host: reviews.test, subset: v2}, weight: 50}]\n",
		fmt.Sprintf("    directResponse: {status: %d}\n", 410+r.IntN(10)),
		fmt.Sprintf("    redirect: {authority: elsewhere.test, redirectCode: %d}\n", pick(r, 301, 302, 307, 308)),
		"    redirect: {uri: /there}\n",
	)
}

func randomRequest(r *rand.Rand) explain.Request {
	q := explain.Request{Port: gatewayPort, Scheme: "http", Method: pick(r, "GET", "POST", "PUT"), Headers: map[string][]string{},
		Authority: pick(r, "reviews.test", "reviews.test", "REVIEWS.test", "reviews.test:18080", "other.test", "a.other.test", "somewhere")}
	path := "/"
	for range r.IntN(3) {
		path += pick(r, words...) + pick(r, "", "/")
	}
	path += pick(r, "", "", "/../a", "/./b", "//c")
	q.Path = path + pick(r, "", "", "?q=a", "?q=42", "?q", "?q=", "?z=1&q=a")
	if r.IntN(2) == 0 {
		q.Headers["x-h"] = []string{pick(r, words...)}
	}
	if r.IntN(2) == 0 {
		q.Headers["x-n"] = []string{pick(r, words...)}
	}
	return q
}

// gatewayConfig reads what the gateway's Envoy holds, once it holds the rules with the marker.
func (m *mesh) gatewayConfig(t *testing.T, marker string) *explain.Config {
	t.Helper()
	var config *explain.Config
	kubetest.Eventually(t, 20*time.Second, func() error {
		response, err := http.Get("http://127.0.0.1:15000/config_dump?include_eds")
		if err != nil {
			return err
		}
		defer func() { _ = response.Body.Close() }()
		text, err := io.ReadAll(response.Body)
		if err != nil {
			return err
		}
		for k := range 3 {
			if !strings.Contains(string(text), fmt.Sprintf("%s-%d-last", marker, k)) {
				return fmt.Errorf("the rules of %s are not there", marker)
			}
		}
		config, err = explain.Parse(text)
		return err
	})
	return config
}

// outcome is what became of a request.
type outcome struct {
	status            int
	version, location string
}

func (o outcome) kind() string {
	switch {
	case o.version != "":
		return o.version
	case o.location != "":
		return "redirect"
	case o.status >= 410:
		return "direct"
	}
	return fmt.Sprint(o.status)
}

// send sends the request as it is: the path is not cleaned.
func (m *mesh) send(q explain.Request) (outcome, error) {
	target, err := url.Parse(m.gateway)
	if err != nil {
		return outcome{}, err
	}
	target.Path, target.RawQuery, _ = strings.Cut(q.Path, "?")
	request := &http.Request{Method: q.Method, URL: target, Host: q.Authority, Header: http.Header{}}
	for name, values := range q.Headers {
		request.Header[http.CanonicalHeaderKey(name)] = values
	}
	client := http.Client{Timeout: 10 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	response, err := client.Do(request)
	if err != nil {
		return outcome{}, err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	out := outcome{status: response.StatusCode, location: response.Header.Get("Location")}
	if i := strings.Index(string(body), `"Version":"`); i >= 0 {
		out.version = string(body[i+11 : i+13])
	}
	return out, errors.Join(err)
}

// differs says how what happened is not what was said; empty if it is.
func differs(said *explain.Answer, got outcome) string {
	if len(said.Clusters) == 0 {
		if int(said.Status) != got.status || said.Location != got.location {
			return fmt.Sprintf("said to be answered %d %s, and was %d %s %s", said.Status, said.Location, got.status, got.location, got.version)
		}
		return ""
	}
	var names []string
	for _, choice := range said.Clusters {
		subset := explain.ParseCluster(choice.Name).Subset
		if subset == got.version {
			return ""
		}
		names = append(names, subset)
	}
	return fmt.Sprintf("said to go to %v, and was answered by %q (%d %s)", names, got.version, got.status, got.location)
}
