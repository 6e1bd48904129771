package conformance

import (
	"fmt"
	"io"
	"math"
	"net/http"
	"strings"
	"testing"
	"time"
)

const plain = "- route: [{destination: {host: reviews.test, subset: v1}}]"

// A rule is a VirtualService's, and a check that holds with it and does not hold with the plain route to v1.
type rule struct {
	name, fields string
	rules        string
	check        func(m *mesh) error
}

func expect(condition bool, format string, args ...any) error {
	if condition {
		return nil
	}
	return fmt.Errorf(format, args...)
}

// version checks which version answers.
func version(want, path string, headers ...string) func(*mesh) error {
	return func(m *mesh) error {
		response, got, err := m.get("reviews.test", path, headers...)
		if err != nil {
			return err
		}
		return expect(got.Version == want, "%s %v is answered by %q (%s), not %s", path, headers, got.Version, response.Status, want)
	}
}

func both(checks ...func(*mesh) error) func(*mesh) error {
	return func(m *mesh) error {
		for _, check := range checks {
			if err := check(m); err != nil {
				return err
			}
		}
		return nil
	}
}

const toV2 = "\n  route: [{destination: {host: reviews.test, subset: v2}}]\n" + plain

var rules = []rule{
	{name: "match uri exact", fields: "VirtualService.http.match.uri VirtualService.http.route.destination.host VirtualService.http.route.destination.subset", rules: "- match: [{uri: {exact: /a}}]" + toV2, check: both(version("v2", "/a"), version("v1", "/ab"))},
	{name: "match uri prefix", fields: "VirtualService.http.match.uri", rules: "- match: [{uri: {prefix: /a}}]" + toV2, check: both(version("v2", "/ab"), version("v1", "/b"))},
	{name: "match uri regex", fields: "VirtualService.http.match.uri", rules: "- match: [{uri: {regex: \"/[0-9]+\"}}]" + toV2, check: both(version("v2", "/42"), version("v1", "/4x"))},
	{name: "match ignoreUriCase", fields: "VirtualService.http.match.ignoreUriCase", rules: "- match: [{uri: {exact: /a}, ignoreUriCase: true}]" + toV2, check: version("v2", "/A")},
	{name: "match header exact", fields: "VirtualService.http.match.headers", rules: "- match: [{headers: {end-user: {exact: jason}}}]" + toV2, check: both(version("v2", "/", "end-user", "jason"), version("v1", "/", "end-user", "alice"))},
	{name: "match header regex", fields: "VirtualService.http.match.headers", rules: "- match: [{headers: {cookie: {regex: \"^(.*?;)?(user=jason)(;.*)?$\"}}}]" + toV2, check: both(version("v2", "/", "cookie", "user=jason; a=b"), version("v1", "/"))},
	{name: "match header presence", fields: "VirtualService.http.match.headers", rules: "- match: [{headers: {x-any: {}}}]" + toV2, check: both(version("v2", "/", "x-any", "1"), version("v1", "/"))},
	{name: "match withoutHeaders", fields: "VirtualService.http.match.withoutHeaders", rules: "- match: [{withoutHeaders: {x-not: {exact: a}}}]" + toV2, check: both(version("v2", "/"), version("v2", "/", "x-not", "b"), version("v1", "/", "x-not", "a"))},
	{name: "match queryParams", fields: "VirtualService.http.match.queryParams", rules: "- match: [{queryParams: {q: {exact: a}}}]" + toV2, check: both(version("v2", "/?q=a"), version("v1", "/?q=b"))},
	{name: "match method", fields: "VirtualService.http.match.method", rules: "- match: [{method: {exact: GET}}]" + toV2, check: version("v2", "/")},
	{name: "match authority", fields: "VirtualService.http.match.authority", rules: "- match: [{authority: {prefix: reviews}}]" + toV2, check: version("v2", "/")},
	{name: "match port", fields: "VirtualService.http.match.port", rules: fmt.Sprintf("- match: [{port: %d}]", gatewayPort) + toV2, check: version("v2", "/")},
	{name: "rules in order", rules: "- match: [{uri: {prefix: /a/b}}]" + toV2 + "\n", check: both(version("v2", "/a/b"), version("v1", "/a"))},
	{name: "weights", fields: "VirtualService.http.route.weight", rules: "- route:\n  - {destination: {host: reviews.test, subset: v1}, weight: 75}\n  - {destination: {host: reviews.test, subset: v2}, weight: 25}", check: weights},
	{name: "rewrite uri", fields: "VirtualService.http.rewrite.uri", rules: "- match: [{uri: {prefix: /old}}]\n  rewrite: {uri: /new}\n  route: [{destination: {host: reviews.test, subset: v1}}]", check: func(m *mesh) error {
		_, got, err := m.get("reviews.test", "/old/page")
		return orErr(err, expect(got.Path == "/new/page", "path is %q", got.Path))
	}},
	{name: "rewrite authority", fields: "VirtualService.http.rewrite.authority", rules: "- rewrite: {authority: other.test}\n  route: [{destination: {host: reviews.test, subset: v1}}]", check: func(m *mesh) error {
		_, got, err := m.get("reviews.test", "/")
		return orErr(err, expect(got.Host == "other.test", "host is %q", got.Host))
	}},
	{name: "rewrite by regex", fields: "VirtualService.http.rewrite.uriRegexRewrite.match VirtualService.http.rewrite.uriRegexRewrite.rewrite", rules: "- rewrite: {uriRegexRewrite: {match: \"/a/([^/]+)\", rewrite: \"/\\\\1/z\"}}\n  route: [{destination: {host: reviews.test, subset: v1}}]", check: func(m *mesh) error {
		_, got, err := m.get("reviews.test", "/a/x")
		return orErr(err, expect(got.Path == "/x/z", "path is %q", got.Path))
	}},
	{name: "redirect", fields: "VirtualService.http.redirect.uri VirtualService.http.redirect.authority VirtualService.http.redirect.redirectCode", rules: "- redirect: {uri: /there, authority: elsewhere.test, redirectCode: 302}", check: func(m *mesh) error {
		response, _, err := m.get("reviews.test", "/")
		if err != nil {
			return err
		}
		return expect(response.StatusCode == http.StatusFound && response.Header.Get("location") == "http://elsewhere.test/there", "%s to %q", response.Status, response.Header.Get("location"))
	}},
	{name: "directResponse", fields: "VirtualService.http.directResponse.status VirtualService.http.directResponse.body.string", rules: "- directResponse: {status: 418, body: {string: short}}", check: status(418)},
	{name: "timeout", fields: "VirtualService.http.timeout", rules: "- timeout: 0.2s\n  retries: {attempts: 0}\n  route: [{destination: {host: reviews.test, subset: v1}}]", check: func(m *mesh) error {
		m.backends["v1"].delay.Store(600)
		defer m.backends["v1"].delay.Store(0)
		return status(504)(m)
	}},
	{name: "retries", fields: "VirtualService.http.retries.attempts VirtualService.http.retries.retryOn", rules: "- retries: {attempts: 3, retryOn: 5xx}\n  route: [{destination: {host: reviews.test, subset: v1}}]", check: func(m *mesh) error {
		m.backends["v1"].fail.Store(3)
		defer m.backends["v1"].fail.Store(0)
		return status(200)(m)
	}},
	{name: "retries off", fields: "VirtualService.http.retries.attempts", rules: "- retries: {attempts: 0}\n  route: [{destination: {host: reviews.test, subset: v1}}]", check: func(m *mesh) error {
		m.backends["v1"].fail.Store(1)
		defer m.backends["v1"].fail.Store(0)
		return status(503)(m)
	}},
	{name: "fault abort", fields: "VirtualService.http.fault.abort.httpStatus VirtualService.http.fault.abort.percentage.value", rules: "- fault: {abort: {httpStatus: 555, percentage: {value: 100}}}\n  route: [{destination: {host: reviews.test, subset: v1}}]", check: status(555)},
	{name: "fault abort grpcStatus", fields: "VirtualService.http.fault.abort.grpcStatus", rules: "- fault: {abort: {grpcStatus: UNAVAILABLE, percentage: {value: 100}}}\n  route: [{destination: {host: reviews.test, subset: v1}}]", check: func(m *mesh) error {
		response, _, err := m.get("reviews.test", "/", "content-type", "application/grpc")
		if err != nil {
			return err
		}
		return expect(response.Header.Get("grpc-status") == "14", "answered %v", response.Header)
	}},
	{name: "fault delay", fields: "VirtualService.http.fault.delay.fixedDelay VirtualService.http.fault.delay.percentage.value", rules: "- fault: {delay: {fixedDelay: 0.3s, percentage: {value: 100}}}\n  route: [{destination: {host: reviews.test, subset: v1}}]", check: func(m *mesh) error {
		began := time.Now()
		err := status(200)(m)
		return orErr(err, expect(time.Since(began) >= 300*time.Millisecond, "answered after %s", time.Since(began)))
	}},
	{name: "fault delay percent as old documents write it", fields: "VirtualService.http.fault.delay.percent", rules: "- fault: {delay: {fixedDelay: 0.3s, percent: 100}}\n  route: [{destination: {host: reviews.test, subset: v1}}]", check: func(m *mesh) error {
		began := time.Now()
		err := status(200)(m)
		return orErr(err, expect(time.Since(began) >= 300*time.Millisecond, "answered after %s", time.Since(began)))
	}},
	{name: "fault abort percent as old documents write it", fields: "VirtualService.http.fault.abort.httpStatus", rules: "- fault: {abort: {httpStatus: 555, percent: 50}}\n  route: [{destination: {host: reviews.test, subset: v1}}]", check: func(m *mesh) error {
		aborted := 0
		for range 100 {
			response, _, err := m.get("reviews.test", "/")
			if err != nil {
				return err
			}
			if response.StatusCode == 555 {
				aborted++
			}
		}
		return expect(aborted > 25 && aborted < 75, "of 100 requests %d are aborted, not half", aborted)
	}},
	{name: "headers", fields: "VirtualService.http.headers.request.set VirtualService.http.headers.request.add VirtualService.http.headers.request.remove VirtualService.http.headers.response.set", rules: "- headers: {request: {set: {x-set: one}, add: {x-add: two}, remove: [x-gone]}, response: {set: {x-back: three}}}\n  route: [{destination: {host: reviews.test, subset: v1}}]", check: func(m *mesh) error {
		response, got, err := m.get("reviews.test", "/", "x-gone", "here", "x-set", "before")
		if err != nil {
			return err
		}
		h := got.Headers
		return expect(h.Get("x-set") == "one" && h.Get("x-add") == "two" && h.Get("x-gone") == "" && response.Header.Get("x-back") == "three", "request %v, response %v", h, response.Header)
	}},
	{name: "headers of a destination", fields: "VirtualService.http.route.headers.request.set", rules: "- route:\n  - destination: {host: reviews.test, subset: v1}\n    headers: {request: {set: {x-set: one}}}", check: func(m *mesh) error {
		_, got, err := m.get("reviews.test", "/")
		return orErr(err, expect(got.Headers.Get("x-set") == "one", "request %v", got.Headers))
	}},
	{name: "mirror", fields: "VirtualService.http.mirror.host VirtualService.http.mirror.subset", rules: "- mirror: {host: reviews.test, subset: v2}\n  route: [{destination: {host: reviews.test, subset: v1}}]", check: func(m *mesh) error {
		before := m.backends["v2"].hits.Load()
		if err := version("v1", "/")(m); err != nil {
			return err
		}
		for range 40 {
			if m.backends["v2"].hits.Load() > before {
				return nil
			}
			time.Sleep(10 * time.Millisecond)
		}
		return fmt.Errorf("the mirror got nothing")
	}},
	{name: "mirrors", fields: "VirtualService.http.mirrors.destination.host VirtualService.http.mirrors.destination.subset VirtualService.http.mirrors.percentage.value",
		rules: "- mirrors: [{destination: {host: reviews.test, subset: v2}, percentage: {value: 50}}]\n  route: [{destination: {host: reviews.test, subset: v1}}]", check: halfMirrored},
	{name: "mirrorPercentage", fields: "VirtualService.http.mirrorPercentage.value",
		rules: "- mirror: {host: reviews.test, subset: v2}\n  mirrorPercentage: {value: 50}\n  route: [{destination: {host: reviews.test, subset: v1}}]", check: halfMirrored},
	{name: "match scheme", fields: "VirtualService.http.match.scheme", rules: "- match: [{scheme: {exact: http}}]" + toV2, check: version("v2", "/")},
	{name: "redirect scheme and port", fields: "VirtualService.http.redirect.scheme VirtualService.http.redirect.port", rules: "- redirect: {scheme: https, port: 8443}", check: func(m *mesh) error {
		response, _, err := m.get("reviews.test", "/x")
		if err != nil {
			return err
		}
		return expect(response.Header.Get("location") == "https://reviews.test:8443/x", "%s to %q", response.Status, response.Header.Get("location"))
	}},
	{name: "retries perTryTimeout", fields: "VirtualService.http.retries.perTryTimeout", rules: "- retries: {attempts: 2, perTryTimeout: 0.1s, retryOn: gateway-error}\n  route: [{destination: {host: reviews.test, subset: v1}}]", check: func(m *mesh) error {
		m.backends["v1"].delay.Store(500)
		defer m.backends["v1"].delay.Store(0)
		before := m.backends["v1"].hits.Load()
		err := status(504)(m)
		tries := m.backends["v1"].hits.Load() - before
		return orErr(err, expect(tries == 3, "it was tried %d times", tries))
	}},
	{name: "headers of responses", fields: "VirtualService.http.headers.response.add VirtualService.http.headers.response.remove VirtualService.http.route.headers.response.set",
		rules: "- headers: {response: {add: {x-added: one}, remove: [content-type]}}\n  route:\n  - destination: {host: reviews.test, subset: v1}\n    headers: {response: {set: {x-set: two}}}", check: func(m *mesh) error {
			response, _, err := m.get("reviews.test", "/")
			if err != nil {
				return err
			}
			h := response.Header
			return expect(h.Get("x-added") == "one" && h.Get("x-set") == "two" && h.Get("content-type") == "", "response %v", h)
		}},
	{name: "cors, what scripts may see", fields: "VirtualService.http.corsPolicy.exposeHeaders VirtualService.http.corsPolicy.allowCredentials",
		rules: "- corsPolicy: {allowOrigins: [{prefix: \"https://\"}], exposeHeaders: [x-seen], allowCredentials: true}\n  route: [{destination: {host: reviews.test, subset: v1}}]", check: func(m *mesh) error {
			response, _, err := m.get("reviews.test", "/", "origin", "https://a.test")
			if err != nil {
				return err
			}
			h := response.Header
			return expect(h.Get("access-control-expose-headers") == "x-seen" && h.Get("access-control-allow-credentials") == "true", "response %v", h)
		}},
	{name: "cors", fields: "VirtualService.http.corsPolicy.allowOrigins VirtualService.http.corsPolicy.allowMethods", rules: "- corsPolicy: {allowOrigins: [{exact: \"https://a.test\"}], allowMethods: [GET]}\n  route: [{destination: {host: reviews.test, subset: v1}}]", check: func(m *mesh) error {
		response, _, err := m.get("reviews.test", "/", "origin", "https://a.test")
		if err != nil {
			return err
		}
		return expect(response.Header.Get("access-control-allow-origin") == "https://a.test", "response %v", response.Header)
	}},
	{name: "subset without a version label takes all", rules: "- route: [{destination: {host: reviews.test}}]", check: func(m *mesh) error {
		seen := map[string]bool{}
		for range 60 {
			_, got, err := m.get("reviews.test", "/")
			if err != nil {
				return err
			}
			seen[got.Version] = true
		}
		return expect(len(seen) == 2, "served by %v", seen)
	}},
	{name: "destination port", fields: "VirtualService.http.route.destination.port.number", rules: "- route: [{destination: {host: two.test, port: {number: 82}}}]", check: version("v2", "/")},
	{name: "headers of a destination, added and removed", fields: "VirtualService.http.route.headers.request.add VirtualService.http.route.headers.request.remove VirtualService.http.route.headers.response.add VirtualService.http.route.headers.response.remove",
		rules: "- route:\n  - destination: {host: reviews.test, subset: v1}\n    headers: {request: {add: {x-add: one}, remove: [x-gone]}, response: {add: {x-added: two}, remove: [content-type]}}", check: func(m *mesh) error {
			response, got, err := m.get("reviews.test", "/", "x-gone", "here")
			if err != nil {
				return err
			}
			h := response.Header
			return expect(got.Headers.Get("x-add") == "one" && got.Headers.Get("x-gone") == "" && h.Get("x-added") == "two" && h.Get("content-type") == "", "request %v, response %v", got.Headers, h)
		}},
	{name: "redirect prefix", fields: "VirtualService.http.redirect.prefixRewrite", rules: "- match: [{uri: {prefix: /old}}]\n  redirect: {prefixRewrite: /new}\n" + plain, check: func(m *mesh) error {
		response, _, err := m.get("reviews.test", "/old/page")
		if err != nil {
			return err
		}
		return expect(response.Header.Get("location") == "http://reviews.test/new/page", "to %q", response.Header.Get("location"))
	}},
	{name: "redirect derivePort", fields: "VirtualService.http.redirect.derivePort", rules: "- redirect: {authority: elsewhere.test, derivePort: FROM_REQUEST_PORT}", check: func(m *mesh) error {
		response, _, err := m.get("reviews.test", "/")
		if err != nil {
			return err
		}
		return expect(response.Header.Get("location") == fmt.Sprintf("http://elsewhere.test:%d/", gatewayPort), "to %q", response.Header.Get("location"))
	}},
	{name: "directResponse bytes", fields: "VirtualService.http.directResponse.body.bytes", rules: "- directResponse: {status: 418, body: {bytes: aGVsbG8gd29ybGQh}}", check: func(m *mesh) error {
		request, err := http.NewRequest(http.MethodGet, m.gateway+"/", nil)
		if err != nil {
			return err
		}
		request.Host = "reviews.test"
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return err
		}
		defer func() { _ = response.Body.Close() }()
		text, err := io.ReadAll(response.Body)
		return orErr(err, expect(string(text) == "hello world!", "answered %q", text))
	}},
	{name: "mirror port", fields: "VirtualService.http.mirror.port.number", rules: "- mirror: {host: two.test, port: {number: 82}}\n  route: [{destination: {host: reviews.test, subset: v1}}]", check: mirrored},
	{name: "mirrors port", fields: "VirtualService.http.mirrors.destination.port.number", rules: "- mirrors: [{destination: {host: two.test, port: {number: 82}}}]\n  route: [{destination: {host: reviews.test, subset: v1}}]", check: mirrored},
	{name: "mirrorPercent as old documents write it", fields: "VirtualService.http.mirrorPercent", rules: "- mirror: {host: reviews.test, subset: v2}\n  mirrorPercent: 50\n  route: [{destination: {host: reviews.test, subset: v1}}]", check: halfMirrored},
	{name: "cors as old documents write it", fields: "VirtualService.http.corsPolicy.allowOrigin", rules: "- corsPolicy: {allowOrigin: [\"https://a.test\"]}\n  route: [{destination: {host: reviews.test, subset: v1}}]", check: func(m *mesh) error {
		response, _, err := m.get("reviews.test", "/", "origin", "https://a.test")
		if err != nil {
			return err
		}
		return expect(response.Header.Get("access-control-allow-origin") == "https://a.test", "response %v", response.Header)
	}},
	{name: "cors, before a request", fields: "VirtualService.http.corsPolicy.allowHeaders VirtualService.http.corsPolicy.maxAge", rules: "- corsPolicy: {allowOrigins: [{exact: \"https://a.test\"}], allowMethods: [PUT], allowHeaders: [x-own], maxAge: 60s}\n  route: [{destination: {host: reviews.test, subset: v1}}]", check: func(m *mesh) error {
		response, err := preflight(m, "https://a.test")
		if err != nil {
			return err
		}
		h := response.Header
		return expect(h.Get("access-control-allow-headers") == "x-own" && h.Get("access-control-max-age") == "60", "response %v", h)
	}},
	{name: "cors, unmatched preflights", fields: "VirtualService.http.corsPolicy.unmatchedPreflights", rules: "- corsPolicy: {allowOrigins: [{exact: \"https://a.test\"}], allowMethods: [PUT], unmatchedPreflights: IGNORE}\n  route: [{destination: {host: reviews.test, subset: v1}}]", check: func(m *mesh) error {
		before := m.backends["v1"].hits.Load()
		_, err := preflight(m, "https://other.test")
		return orErr(err, expect(m.backends["v1"].hits.Load() == before, "the application was asked"))
	}},
	{name: "retries spread", fields: "VirtualService.http.retries.retryIgnorePreviousHosts", rules: "- retries: {attempts: 4, retryOn: 5xx, retryIgnorePreviousHosts: true}\n  route: [{destination: {host: reviews.test}}]", check: func(m *mesh) error {
		m.backends["v1"].fail.Store(1 << 30)
		defer m.backends["v1"].fail.Store(0)
		before := m.backends["v1"].hits.Load()
		for range 40 {
			if err := status(200)(m); err != nil {
				return err
			}
		}
		again := m.backends["v1"].hits.Load() - before // each request asks it at most once
		return expect(again > 0 && again <= 40, "the one that fails was asked %d times for 40 requests", again)
	}},
	{name: "retries backoff", fields: "VirtualService.http.retries.backoff", rules: "- retries: {attempts: 2, retryOn: 5xx, backoff: 2s}\n  route: [{destination: {host: reviews.test, subset: v1}}]", check: func(m *mesh) error {
		longest := time.Duration(0)
		for range 3 { // the pause is picked at random below the bound
			m.backends["v1"].fail.Store(2)
			began := time.Now()
			if err := status(200)(m); err != nil {
				return err
			}
			longest = max(longest, time.Since(began))
		}
		return expect(longest > 300*time.Millisecond, "answered after at most %s", longest)
	}},
	{name: "ServiceEntry by DNS", fields: "ServiceEntry.resolution ServiceEntry.ports.targetPort", rules: "- route: [{destination: {host: dns.localhost, port: {number: 8080}}}]", check: version("v2", "/")},
}

// mirrored checks that v2 gets a copy of what v1 answers.
func mirrored(m *mesh) error {
	before := m.backends["v2"].hits.Load()
	if err := version("v1", "/")(m); err != nil {
		return err
	}
	return within(400*time.Millisecond, func() error {
		return expect(m.backends["v2"].hits.Load() > before, "the mirror got nothing")
	})
}

// preflight asks as a browser does before a request of a script from another origin.
func preflight(m *mesh, origin string) (*http.Response, error) {
	request, err := http.NewRequest(http.MethodOptions, m.gateway+"/", nil)
	if err != nil {
		return nil, err
	}
	request.Host = "reviews.test"
	request.Header.Set("origin", origin)
	request.Header.Set("access-control-request-method", "PUT")
	response, err := http.DefaultClient.Do(request)
	if err == nil {
		_ = response.Body.Close()
	}
	return response, err
}

// halfMirrored checks that the mirror gets about half of what v1 answers.
func halfMirrored(m *mesh) error {
	const n = 80
	before := m.backends["v2"].hits.Load()
	for range n {
		if err := version("v1", "/")(m); err != nil {
			return err
		}
	}
	got := float64(m.backends["v2"].hits.Load() - before)
	return expect(math.Abs(got-n*0.5) <= 4*math.Sqrt(n*0.25), "the mirror got %.0f of %d", got, n)
}

func status(want int) func(*mesh) error {
	return func(m *mesh) error {
		response, _, err := m.get("reviews.test", "/")
		if err != nil {
			return err
		}
		return expect(response.StatusCode == want, "answered %s, not %d", response.Status, want)
	}
}

func orErr(err, otherwise error) error {
	if err != nil {
		return err
	}
	return otherwise
}

// weights counts 400 requests: within four standard deviations of 75 and 25 %.
func weights(m *mesh) error {
	const n = 400
	counts := map[string]int{}
	for range n {
		_, got, err := m.get("reviews.test", "/")
		if err != nil {
			return err
		}
		counts[got.Version]++
	}
	bound := 4 * math.Sqrt(n*0.75*0.25)
	return expect(math.Abs(float64(counts["v1"])-n*0.75) <= bound, "served by %v of %d", counts, n)
}

// TestVirtualService runs each rule on a gateway.
func TestVirtualService(t *testing.T) {
	m := start(t)
	m.dnsEntry(t)
	var features []feature
	for _, r := range rules {
		features = append(features, feature{name: r.name, proves: r.fields, with: virtualService(r.rules), without: virtualService(plain), check: r.check})
	}
	m.base = virtualService(plain)
	m.kube.Apply(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: routes}\n")
	leaf := func(namespace, name string) string {
		return "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: " + name + ", namespace: " + namespace + "}\nspec:\n  http:\n" +
			"  - match: [{uri: {prefix: /a/x}}]\n    route: [{destination: {host: reviews.test, subset: v2}}]\n  - match: [{uri: {prefix: /elsewhere}}]\n    directResponse: {status: 418}\n"
	}
	root := func(delegate string) string {
		return virtualService("- match: [{uri: {prefix: /a}}]\n  delegate: " + delegate + "\n" + plain)
	}
	narrowed := both(version("v2", "/a/x1"), version("v1", "/a/y"), version("v1", "/elsewhere"))
	features = append(features,
		feature{name: "delegate", proves: "VirtualService.http.delegate.name", with: root("{name: leaf}") + leaf("default", "leaf"), without: m.base, check: narrowed},
		feature{name: "delegate in another namespace", proves: "VirtualService.http.delegate.namespace", without: root("{name: far}"), check: narrowed,
			with: root("{name: far, namespace: routes}") + leaf("routes", "far")})
	m.prove(t, features)
	m.rejections(t)
	t.Run("metrics", func(t *testing.T) {
		response, err := http.Get(m.metrics)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = response.Body.Close() }()
		text, err := io.ReadAll(response.Body)
		for _, want := range []string{"\npilot_xds 1\n", `pilot_xds_pushes{type="vhds"}`, "\npilot_pushcontext_init_seconds_count"} {
			if err != nil || !strings.Contains(string(text), want) {
				t.Errorf("%q is not in the metrics (%v)", want, err)
			}
		}
	})
	t.Run("no route to another host", func(t *testing.T) {
		response, _, err := m.get("nobody.test", "/")
		if err != nil || response.StatusCode != http.StatusNotFound {
			t.Errorf("answered %v %v", response, err)
		}
	})
}

// dnsEntry is a host that Envoy itself resolves.
func (m *mesh) dnsEntry(t *testing.T) {
	const text = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: dns}\nspec:\n  hosts: [dns.localhost]\n  location: MESH_EXTERNAL\n  resolution: DNS\n  ports: [{number: 8080, name: http, protocol: HTTP, targetPort: %d}]\n"
	m.kube.Apply(t, fmt.Sprintf(text, m.backends["v2"].port))
	const two = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: two}\nspec:\n  hosts: [two.test]\n  location: MESH_EXTERNAL\n  resolution: STATIC\n" +
		"  ports: [{number: 81, name: one, protocol: HTTP}, {number: 82, name: two, protocol: HTTP}]\n  endpoints: [{address: 127.0.0.1, ports: {one: %d, two: %d}}]\n"
	m.kube.Apply(t, fmt.Sprintf(two, m.backends["v1"].port, m.backends["v2"].port))
}
