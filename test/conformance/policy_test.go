package conformance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/slipway-mesh/slipway/test/nettest"
)

// A policy is a DestinationRule's trafficPolicy, which can stand in four places. Each case runs in all that can have it.
type policy struct {
	name string
	// proves lists fields below the policy.
	proves string
	// with and without are the policy's blocks, such as "loadBalancer: {simple: RANDOM}".
	with, without string
	// check looks at the cluster that the policy is for.
	check func(m *mesh, cluster string) error
	// wholeOnly says that a port's settings cannot have it.
	wholeOnly bool
	target    target
	// selector keeps the rule to some callers.
	selector string
	// routes is a rule's further part in a VirtualService for the host, such as "retries: {attempts: 0}".
	routes string
}

// target is the host that a policy is for, on port 80.
type target struct {
	host, objects string
}

var toReviews = target{host: "reviews.default.svc.cluster.local"}

// levels are the places of a policy, with the DestinationRule that has it there. In a subset, it is one of all endpoints.
var levels = []struct {
	path, subset string
	ofPort       bool
}{
	{"trafficPolicy", "", false}, {"trafficPolicy.portLevelSettings", "", true},
	{"subsets.trafficPolicy", "all", false}, {"subsets.trafficPolicy.portLevelSettings", "all", true},
}

func (p policy) features() []feature {
	var out []feature
	to := p.target
	if to.host == "" {
		to = toReviews
	}
	for _, level := range levels {
		if level.ofPort && p.wholeOnly {
			continue
		}
		var fields []string
		for _, field := range strings.Fields(p.proves) {
			fields = append(fields, "DestinationRule."+level.path+"."+field)
		}
		if level.ofPort {
			fields = append(fields, "DestinationRule."+level.path+".port.number")
		}
		if level.subset != "" {
			fields = append(fields, "DestinationRule.subsets.name")
		}
		object := func(blocks string) string {
			block := "trafficPolicy: {" + blocks + "}"
			if level.ofPort {
				block = "trafficPolicy: {portLevelSettings: [{port: {number: 80}, " + blocks + "}]}"
			}
			if blocks == "" {
				block = "exportTo: []"
				if level.subset != "" {
					block = "labels: {}"
				}
			}
			rule := "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: case}\nspec:\n  host: " + to.host + "\n"
			if p.selector != "" {
				rule += "  workloadSelector: {matchLabels: " + p.selector + "}\n"
			}
			if level.subset == "" {
				rule += "  " + block + "\n  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]\n"
			} else {
				rule += "  subsets: [{name: all, " + block + "}, {name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]\n"
			}
			destination := "{host: " + to.host + ", subset: \"" + level.subset + "\"}"
			routes := "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: case}\nspec:\n  hosts: [" + to.host + "]\n  http: [{route: [{destination: " + destination + "}]" + prefixed(", ", p.routes) +
				"}]\n  tcp: [{route: [{destination: " + destination + "}]}]\n"
			return to.objects + rule + "---\n" + routes
		}
		cluster := "outbound|80|" + level.subset + "|" + to.host
		out = append(out, feature{name: "DestinationRule " + p.name + " (" + level.path + ")", proves: strings.Join(fields, " "), with: object(p.with), without: object(p.without),
			check: func(m *mesh) error { return p.check(m, cluster) }})
	}
	return out
}

func prefixed(prefix, text string) string {
	if text == "" {
		return ""
	}
	return prefix + text
}

// stat reads a statistic of a cluster from the client's Envoy.
func (m *mesh) stat(cluster, name string) (int, error) {
	return statOf(m.pods.client, "cluster."+cluster+"."+name)
}

// adminOf asks the Envoy of a pod.
func adminOf(p *nettest.Pod, path string) (string, error) {
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return p.Dial(ctx, network, "127.0.0.1:15000")
	}}}
	response, err := client.Get("http://127.0.0.1:15000" + path)
	if err != nil {
		return "", err
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	return string(text), err
}

// statOf reads a statistic from the Envoy of a pod.
func statOf(p *nettest.Pod, full string) (int, error) {
	text, err := adminOf(p, "/stats?filter="+url.QueryEscape("^"+regexp.QuoteMeta(full)+"$"))
	if err != nil {
		return 0, err
	}
	_, value, found := strings.Cut(strings.TrimSpace(text), ": ")
	if !found {
		return 0, fmt.Errorf("Envoy has no statistic %s", full)
	}
	return strconv.Atoi(value)
}

// grown says how much a statistic grew while something was done.
func (m *mesh) grown(cluster, name string, do func() error) (int, error) {
	before, err := m.stat(cluster, name)
	if err != nil {
		return 0, err
	}
	if err := do(); err != nil {
		return 0, err
	}
	after, err := m.stat(cluster, name)
	return after - before, err
}

// requests sends n requests to reviews, one after the other.
func requests(m *mesh, n int) error {
	_, err := versions(m, n, reviewsIP+":80")
	return err
}

// only holds if all of n requests are answered by one version; which is "" for any.
func only(m *mesh, n int, which string, headers ...string) error {
	list, err := versions(m, n, reviewsIP+":80", headers...)
	if err != nil {
		return err
	}
	if which == "" {
		which = list[0]
	}
	return expect(count(list, which) == n, "served by %v", list)
}

// sticks holds if requests with the same key stay at one version, and those of other keys go to both.
func sticks(m *mesh, request func(key string) (string, error)) error {
	seen := map[string]bool{}
	for user := range 8 {
		key := fmt.Sprint("user", user)
		first, err := request(key)
		if err != nil {
			return err
		}
		for range 5 {
			if next, err := request(key); err != nil || next != first {
				return errors.Join(err, fmt.Errorf("%s is served by %s and %s", key, first, next))
			}
		}
		seen[first] = true
	}
	return expect(len(seen) == 2, "all users are served by %v", seen)
}

func answeredBy(m *mesh, path string, headers ...string) (string, error) {
	_, got, err := m.from(m.pods.client, reviewsIP+":80", "reviews", path, headers...)
	return got.Version, err
}

// burst sends requests at once while both versions are slow, and counts those that the proxy refuses.
func (m *mesh) burst(n int) (refused int) {
	for _, name := range []string{"v1", "v2"} {
		m.backends[name].delay.Store(300)
		defer m.backends[name].delay.Store(0)
	}
	var mu sync.Mutex
	var group sync.WaitGroup
	for range n {
		group.Go(func() {
			if response, _, err := m.from(m.pods.client, reviewsIP+":80", "reviews", "/"); err == nil && response.StatusCode == http.StatusServiceUnavailable {
				mu.Lock()
				refused++
				mu.Unlock()
			}
		})
	}
	group.Wait()
	return refused
}

func refuses(m *mesh, _ string) error {
	return expect(m.burst(8) > 0, "no request was refused")
}

// failing makes a version fail while something is done.
func (m *mesh) failing(version string, do func() error) error {
	m.backends[version].fail.Store(1 << 30)
	defer m.backends[version].fail.Store(0)
	return do()
}

// ejects holds if a version that fails is not asked any more after a while.
func ejects(m *mesh, _ string) error {
	return m.failing("v1", func() error {
		time.Sleep(1200 * time.Millisecond) // an ejection of an earlier attempt is over
		if _, err := versions(m, 30, reviewsIP+":80"); err != nil {
			return err
		}
		before := m.backends["v1"].hits.Load()
		_, err := versions(m, 10, reviewsIP+":80")
		return orErr(err, expect(m.backends["v1"].hits.Load() == before, "the one that fails is still asked"))
	})
}

// overflows holds if retries are refused for their number.
func overflows(m *mesh, cluster string) error {
	n, err := m.grown(cluster, "upstream_rq_retry_overflow", func() error {
		return m.failing("v1", func() error {
			return m.failing("v2", func() error {
				m.burst(12)
				return nil
			})
		})
	})
	return orErr(err, expect(n > 0, "no retry was refused"))
}

// closes holds if an idle connection to the echo service is closed before two seconds are over.
func closes(m *mesh, _ string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	connection, err := m.pods.client.Dial(ctx, "tcp", echoIP+":80")
	if err != nil {
		return err
	}
	defer func() { _ = connection.Close() }()
	_ = connection.SetReadDeadline(time.Now().Add(2 * time.Second))
	_, err = connection.Read(make([]byte, 1))
	var timeout net.Error
	return expect(!errors.As(err, &timeout) || !timeout.Timeout(), "the connection is still open")
}

// h2c calls reviews in HTTP/2 without TLS.
func (m *mesh) h2c() error { return h2c(m.pods.client, reviewsIP+":80") }

// h2c sends a request in HTTP/2 without TLS.
func h2c(from *nettest.Pod, address string) error {
	protocols := &http.Protocols{}
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: protocols, DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return from.Dial(ctx, network, address)
	}}
	defer transport.CloseIdleConnections()
	_, _, err := ask(&http.Client{Timeout: 5 * time.Second, Transport: transport}, "http://reviews/", "reviews")
	return err
}

func http2Grows(do func(*mesh) error, least int) func(*mesh, string) error {
	return func(m *mesh, cluster string) error {
		n, err := m.grown(cluster, "upstream_cx_http2_total", func() error { return do(m) })
		return orErr(err, expect(n >= least, "%d connections in HTTP/2", n))
	}
}

func policies(t *testing.T, m *mesh) []policy {
	const evenly = "loadBalancer: {simple: ROUND_ROBIN}"
	const outlier = "outlierDetection: {consecutive5xxErrors: 2, interval: 0.1s, baseEjectionTime: 1s, maxEjectionPercent: 100"
	echo := target{host: "echo.default.svc.cluster.local"}
	warm := func(endpoints string) target {
		return target{"warm.test", "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: warm}\nspec: {hosts: [warm.test], addresses: [10.88.2.5], resolution: STATIC, location: MESH_EXTERNAL, ports: [{number: 80, name: http, protocol: HTTP}], endpoints: [" + endpoints + "]}\n---\n"}
	}
	zone := func(setting string) string {
		return "loadBalancer: {simple: ROUND_ROBIN, zoneAwareLbSetting: {" + setting + "}}"
	}
	placed := func(one, two string) target {
		return target{"placed.test", fmt.Sprintf("apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: placed}\nspec: {hosts: [placed.test], addresses: [10.88.2.8], resolution: STATIC, location: MESH_EXTERNAL, ports: [{number: 80, name: http, protocol: HTTP}], "+
			"endpoints: [{address: %[1]s, ports: {http: 8080}, locality: %[2]s, labels: {version: v1}}, {address: %[1]s, ports: {http: 8081}, locality: %[3]s, labels: {version: v2}}]}\n---\n", m.pods.outside.Address, one, two)}
	}
	zones, regions := placed("north/a", "north/b"), placed("east/a", "west/b")
	onlyPort := func(want string) func(*mesh, string) error {
		return func(m *mesh, _ string) error {
			for range 12 {
				if _, got, err := m.from(m.pods.client, "10.88.2.8:80", "placed.test", "/"); err != nil || got.Port != want {
					return orErr(err, fmt.Errorf("port %s answers", got.Port))
				}
			}
			return nil
		}
	}
	first := fmt.Sprintf("{address: %s, ports: {http: 8080}}", m.pods.outside.Address)
	second := fmt.Sprintf("{address: %s, ports: {http: 8081}}", m.pods.outside.Address)
	rejoin := func(m *mesh, _ string) error { // another endpoint comes when the first is warm
		ask := func(n int) (young int, err error) {
			for range n {
				_, got, err := m.from(m.pods.client, "10.88.2.5:80", "warm.test", "/")
				if err != nil {
					return 0, err
				}
				if got.Port == "8081" {
					young++
				}
			}
			return young, nil
		}
		m.kube.Apply(t, warm(first).objects)
		time.Sleep(3 * time.Second)
		m.kube.Apply(t, warm(first+", "+second).objects)
		time.Sleep(200 * time.Millisecond)
		young, err := ask(60)
		return orErr(err, expect(young < 20, "the new one got %d of 60", young))
	}
	list := []policy{
		{name: "ROUND_ROBIN", proves: "loadBalancer.simple", with: evenly, check: func(m *mesh, _ string) error { return alternate(m) }},
		{name: "consistentHash by header", proves: "loadBalancer.consistentHash.httpHeaderName", with: "loadBalancer: {consistentHash: {httpHeaderName: x-user}}", check: func(m *mesh, _ string) error {
			return sticks(m, func(key string) (string, error) { return answeredBy(m, "/", "x-user", key) })
		}},
		{name: "consistentHash by query", proves: "loadBalancer.consistentHash.httpQueryParameterName", with: "loadBalancer: {consistentHash: {httpQueryParameterName: user}}", check: func(m *mesh, _ string) error {
			return sticks(m, func(key string) (string, error) { return answeredBy(m, "/?user="+key) })
		}},
		{name: "consistentHash by source", proves: "loadBalancer.consistentHash.useSourceIp", with: "loadBalancer: {consistentHash: {useSourceIp: true}}", check: func(m *mesh, _ string) error { return only(m, 16, "") }},
		{name: "consistentHash by cookie", proves: "loadBalancer.consistentHash.httpCookie.name loadBalancer.consistentHash.httpCookie.path loadBalancer.consistentHash.httpCookie.ttl loadBalancer.consistentHash.httpCookie.attributes.name loadBalancer.consistentHash.httpCookie.attributes.value",
			with: "loadBalancer: {consistentHash: {httpCookie: {name: user, path: /x, ttl: 60s, attributes: [{name: SameSite, value: Strict}]}}}", check: func(m *mesh, _ string) error {
				response, _, err := m.from(m.pods.client, reviewsIP+":80", "reviews", "/")
				if err != nil {
					return err
				}
				cookie := response.Header.Get("set-cookie")
				for _, part := range []string{"user=", "Max-Age=60", "Path=/x", "SameSite=Strict"} {
					if !strings.Contains(cookie, part) {
						return fmt.Errorf("the cookie is %q", cookie)
					}
				}
				return sticks(m, func(key string) (string, error) { return answeredBy(m, "/", "cookie", "user="+key) })
			}},
		{name: "minimumRingSize", proves: "loadBalancer.consistentHash.ringHash.minimumRingSize", with: "loadBalancer: {consistentHash: {httpHeaderName: x-user, ringHash: {minimumRingSize: 4096}}}", without: "loadBalancer: {consistentHash: {httpHeaderName: x-user}}",
			check: statIs("ring_hash_lb.size", 4096)},
		{name: "minimumRingSize as old documents write it", proves: "loadBalancer.consistentHash.minimumRingSize", with: "loadBalancer: {consistentHash: {httpHeaderName: x-user, minimumRingSize: 2048}}", without: "loadBalancer: {consistentHash: {httpHeaderName: x-user}}",
			check: statIs("ring_hash_lb.size", 2048)},
		{name: "maglev", proves: "loadBalancer.consistentHash.maglev.tableSize", with: "loadBalancer: {consistentHash: {httpHeaderName: x-user, maglev: {tableSize: 1009}}}", without: "loadBalancer: {consistentHash: {httpHeaderName: x-user, maglev: {tableSize: 2003}}}",
			check: statIs("maglev_lb.max_entries_per_host", 505)},
		{name: "warmup", proves: "loadBalancer.warmup.duration loadBalancer.warmup.minimumPercent loadBalancer.warmup.aggression", with: "loadBalancer: {simple: ROUND_ROBIN, warmup: {duration: 3s, minimumPercent: 5, aggression: 1}}", without: evenly, target: warm(first), check: rejoin},
		{name: "warmup as old documents write it", proves: "loadBalancer.warmupDurationSecs", with: "loadBalancer: {simple: ROUND_ROBIN, warmupDurationSecs: 3s}", without: evenly, target: warm(first), check: rejoin},
		{name: "locality distribute", proves: "loadBalancer.localityLbSetting.distribute.from loadBalancer.localityLbSetting.distribute.to", with: `loadBalancer: {simple: ROUND_ROBIN, localityLbSetting: {distribute: [{from: north/*, to: {"west/b": 90, "east": 10}}]}}`, without: evenly,
			check: func(m *mesh, _ string) error {
				list, err := versions(m, 100, reviewsIP+":80")
				n := count(list, "v2")
				return orErr(err, expect(n > 80 && n < 99, "the west got %d of 100", n))
			}},
		{name: "locality failover", proves: "loadBalancer.localityLbSetting.failover.from loadBalancer.localityLbSetting.failover.to", with: evenly[:len(evenly)-1] + ", localityLbSetting: {failover: [{from: north, to: west}]}}, " + outlier + "}", without: evenly + ", " + outlier + "}",
			check: func(m *mesh, _ string) error { return only(m, 12, "v2") }},
		{name: "locality failoverPriority", proves: "loadBalancer.localityLbSetting.failoverPriority", with: evenly[:len(evenly)-1] + ", localityLbSetting: {failoverPriority: [version=v2]}}, " + outlier + "}", without: evenly + ", " + outlier + "}",
			check: func(m *mesh, _ string) error {
				if err := only(m, 12, "v2"); err != nil {
					return err
				}
				return m.failing("v2", func() error { // and then to the other
					return within(5*time.Second, func() error { return only(m, 6, "v1") })
				})
			}},
		{name: "locality switched off", proves: "loadBalancer.localityLbSetting.enabled", with: evenly[:len(evenly)-1] + ", localityLbSetting: {enabled: false, failoverPriority: [version=v2]}}, " + outlier + "}", without: evenly[:len(evenly)-1] + ", localityLbSetting: {failoverPriority: [version=v2]}}, " + outlier + "}",
			check: func(m *mesh, _ string) error { return alternate(m) }},
		{name: "zone-aware", proves: "loadBalancer.zoneAwareLbSetting.enabled", with: zone("enabled: true, minClusterSize: 1"), without: zone("enabled: false, minClusterSize: 1"), target: zones, check: onlyPort("8080")},
		{name: "zone-aware of few endpoints", proves: "loadBalancer.zoneAwareLbSetting.minClusterSize", with: zone("enabled: true, minClusterSize: 1"), without: zone("enabled: true"), target: zones, check: onlyPort("8080")},
		{name: "zone-aware failover", proves: "loadBalancer.zoneAwareLbSetting.failover.from loadBalancer.zoneAwareLbSetting.failover.to", with: zone("enabled: true, failover: [{from: north, to: west}]"), without: zone("enabled: true"), target: regions, check: onlyPort("8081")},
		{name: "zone-aware failoverPriority", proves: "loadBalancer.zoneAwareLbSetting.failoverPriority", with: zone("enabled: true, failoverPriority: [version=v2]"), without: zone("enabled: true"), target: zones, check: onlyPort("8081")},
		{name: "maxConnections", proves: "connectionPool.tcp.maxConnections connectionPool.http.http1MaxPendingRequests", with: "connectionPool: {tcp: {maxConnections: 1}, http: {http1MaxPendingRequests: 1}}", check: refuses},
		{name: "http2MaxRequests", proves: "connectionPool.http.http2MaxRequests", with: "connectionPool: {http: {http2MaxRequests: 1}}", check: refuses},
		{name: "maxRetries", proves: "connectionPool.http.maxRetries", with: "connectionPool: {http: {maxRetries: 1}}", routes: "retries: {attempts: 3, retryOn: 5xx}", check: overflows},
		{name: "retryBudget", proves: "retryBudget.percent retryBudget.minRetryConcurrency retryBudget.budgetInterval", wholeOnly: true, with: "retryBudget: {percent: 1, minRetryConcurrency: 1, budgetInterval: 1s}", routes: "retries: {attempts: 3, retryOn: 5xx}", check: overflows},
		{name: "maxRequestsPerConnection", proves: "connectionPool.http.maxRequestsPerConnection", with: "connectionPool: {http: {maxRequestsPerConnection: 1}}", check: func(m *mesh, cluster string) error {
			n, err := m.grown(cluster, "upstream_cx_total", func() error { return requests(m, 10) })
			return orErr(err, expect(n == 10, "10 requests took %d connections", n))
		}},
		{name: "HTTP idleTimeout", proves: "connectionPool.http.idleTimeout", with: "connectionPool: {http: {idleTimeout: 0.2s}}", check: func(m *mesh, cluster string) error {
			n, err := m.grown(cluster, "upstream_cx_destroy_local", func() error {
				err := requests(m, 2)
				time.Sleep(600 * time.Millisecond)
				return err
			})
			return orErr(err, expect(n > 0, "no idle connection was closed"))
		}},
		{name: "h2UpgradePolicy", proves: "connectionPool.http.h2UpgradePolicy", with: "connectionPool: {http: {h2UpgradePolicy: UPGRADE}}", check: func(m *mesh, cluster string) error {
			n, err := m.stat(cluster, "upstream_cx_http2_total")
			if err == nil && n == 0 {
				err = requests(m, 2)
				n, _ = m.stat(cluster, "upstream_cx_http2_total")
			}
			if err != nil || n == 0 {
				return orErr(err, errors.New("no connection is in HTTP/2"))
			}
			none, err := m.grown(cluster, "upstream_cx_http1_total", func() error { return requests(m, 4) })
			return orErr(err, expect(none == 0, "%d connections in HTTP/1.1", none))
		}},
		{name: "useClientProtocol", proves: "connectionPool.http.useClientProtocol", with: "connectionPool: {http: {useClientProtocol: true, maxRequestsPerConnection: 1}}", check: http2Grows((*mesh).h2c, 1)},
		{name: "maxConcurrentStreams", proves: "connectionPool.http.maxConcurrentStreams", with: "connectionPool: {http: {h2UpgradePolicy: UPGRADE, maxConcurrentStreams: 1, idleTimeout: 0.2s}}", without: "connectionPool: {http: {h2UpgradePolicy: UPGRADE, idleTimeout: 0.2s}}",
			check: http2Grows(func(m *mesh) error { m.burst(12); return nil }, 6)},
		{name: "TCP idleTimeout", proves: "connectionPool.tcp.idleTimeout", with: "connectionPool: {tcp: {idleTimeout: 0.5s}}", target: echo, check: closes},
		{name: "maxConnectionDuration", proves: "connectionPool.tcp.maxConnectionDuration", with: "connectionPool: {tcp: {maxConnectionDuration: 0.5s}}", target: echo, check: closes},
		{name: "tcpKeepalive", proves: "connectionPool.tcp.tcpKeepalive.probes connectionPool.tcp.tcpKeepalive.time connectionPool.tcp.tcpKeepalive.interval", with: "connectionPool: {tcp: {tcpKeepalive: {probes: 1, time: 1s, interval: 1s}}}", without: "connectionPool: {tcp: {tcpKeepalive: {probes: 9, time: 2s, interval: 75s}}}",
			target: target{"quiet.test", fmt.Sprintf("apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: quiet}\nspec: {hosts: [quiet.test], addresses: [10.88.2.7], resolution: STATIC, location: MESH_EXTERNAL, ports: [{number: 80, name: tcp, protocol: TCP, targetPort: 9008}], endpoints: [{address: %s}]}\n---\n", m.pods.outside.Address)},
			check: func(m *mesh, cluster string) error {
				return noticesDeath(m.pods.client, "10.88.2.7:80", func() { m.pods.outside.Cut(t) }, func() { m.pods.outside.Join(t) })
			}},
		{name: "http2KeepAlive", proves: "connectionPool.http.http2KeepAlive.interval connectionPool.http.http2KeepAlive.timeout", with: "connectionPool: {http: {h2UpgradePolicy: UPGRADE, http2KeepAlive: {interval: 0.2s, timeout: 0.2s}}}", without: "connectionPool: {http: {h2UpgradePolicy: UPGRADE, http2KeepAlive: {interval: 60s, timeout: 0.2s}}}",
			check: func(m *mesh, cluster string) error {
				if err := requests(m, 2); err != nil { // Envoy counts from the first on
					return err
				}
				n, err := m.grown(cluster, "http2.keepalive_timeout", func() error {
					err := requests(m, 4)
					m.pods.v1.Cut(t)
					time.Sleep(time.Second)
					m.pods.v1.Join(t)
					return err
				})
				return orErr(err, expect(n > 0, "a peer that does not answer pings is kept"))
			}},
		{name: "proxyProtocol V1", proves: "proxyProtocol.version", wholeOnly: true, with: "proxyProtocol: {version: V1}", target: told(m), check: func(m *mesh, _ string) error {
			got, err := m.tcpFrom(m.pods.client, "10.88.2.3:80", "")
			return orErr(err, expect(strings.HasPrefix(got, "PROXY TCP4 "+m.pods.client.Address+" "), "the connection began with %q", got))
		}},
		{name: "proxyProtocol V2", proves: "proxyProtocol.version", wholeOnly: true, with: "proxyProtocol: {version: V2}", without: "proxyProtocol: {version: V1}", target: told(m), check: func(m *mesh, _ string) error {
			got, err := m.tcpFrom(m.pods.client, "10.88.2.3:80", "hello") // the header ends in the middle of a line
			return orErr(err, expect(strings.HasSuffix(got, "QUIT") || strings.Contains(got, "QUIT\n") || strings.HasPrefix(got, "\r\n") || got == "", "the connection began with %q", got))
		}},
		{name: "tunnel", proves: "tunnel.protocol tunnel.targetHost tunnel.targetPort", wholeOnly: true, with: "tunnel: {protocol: POST, targetHost: far.test, targetPort: 4711}",
			target: target{"tunnel.test", "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: tunnel}\nspec: {hosts: [tunnel.test], addresses: [10.88.2.4], resolution: STATIC, location: MESH_EXTERNAL, ports: [{number: 80, name: tcp, protocol: TCP, targetPort: 9006}], endpoints: [{address: " + m.pods.outside.Address + "}]}\n---\n"},
			check: func(m *mesh, _ string) error {
				got, err := m.tcpFrom(m.pods.client, "10.88.2.4:80", "")
				return orErr(err, expect(got == "POST far.test:4711", "the proxy was asked for %q", got))
			}},
		{name: "outlierDetection", proves: "outlierDetection.consecutive5xxErrors outlierDetection.interval outlierDetection.maxEjectionPercent outlierDetection.baseEjectionTime", with: outlier + "}", check: ejects},
		{name: "outlierDetection of gateway errors", proves: "outlierDetection.consecutiveGatewayErrors", with: "outlierDetection: {consecutive5xxErrors: 0, consecutiveGatewayErrors: 2, interval: 0.1s, baseEjectionTime: 1s, maxEjectionPercent: 100}",
			without: "outlierDetection: {consecutive5xxErrors: 0, interval: 0.1s, baseEjectionTime: 1s, maxEjectionPercent: 100}", check: ejects},
		{name: "outlierDetection as old documents write it", proves: "outlierDetection.consecutiveErrors", with: "outlierDetection: {consecutive5xxErrors: 0, consecutiveErrors: 2, interval: 0.1s, baseEjectionTime: 1s, maxEjectionPercent: 100}",
			without: "outlierDetection: {consecutive5xxErrors: 0, interval: 0.1s, baseEjectionTime: 1s, maxEjectionPercent: 100}", check: ejects},
		{name: "minHealthPercent", proves: "outlierDetection.minHealthPercent", with: outlier + ", minHealthPercent: 60}", without: outlier + "}", check: func(m *mesh, cluster string) error {
			return m.failing("v1", func() error {
				time.Sleep(1200 * time.Millisecond)
				n, err := m.grown(cluster, "lb_healthy_panic", func() error { return requestsAnyway(m, 40) })
				return orErr(err, expect(n > 0, "half of the endpoints are out and that is no panic"))
			})
		}},
		{name: "outlierDetection by status", proves: "outlierDetection.outlierDetectionHttpErrorCodes", with: outlier + ", outlierDetectionHttpErrorCodes: [200]}", without: outlier + "}", check: func(m *mesh, cluster string) error {
			time.Sleep(300 * time.Millisecond)
			_ = requestsAnyway(m, 20)
			time.Sleep(300 * time.Millisecond)
			n, err := m.stat(cluster, "outlier_detection.ejections_active")
			return orErr(err, expect(n > 0, "nothing was ejected for answering 200"))
		}},
		{name: "outlierDetection of what does not answer", proves: "outlierDetection.splitExternalLocalOriginErrors outlierDetection.consecutiveLocalOriginFailures",
			with:    "outlierDetection: {splitExternalLocalOriginErrors: true, consecutiveLocalOriginFailures: 1, consecutive5xxErrors: 0, interval: 0.1s, baseEjectionTime: 3s, maxEjectionPercent: 100}",
			without: "outlierDetection: {consecutive5xxErrors: 0, interval: 0.1s, baseEjectionTime: 3s, maxEjectionPercent: 100}", routes: "retries: {attempts: 0}",
			target: target{"half.test", fmt.Sprintf("apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: half}\nspec: {hosts: [half.test], addresses: [10.88.2.1], resolution: STATIC, location: MESH_EXTERNAL, ports: [{number: 80, name: http, protocol: HTTP}], "+
				"endpoints: [{address: %[1]s, ports: {http: 8080}}, {address: %[1]s, ports: {http: 7}}]}\n---\n", m.pods.outside.Address)},
			check: func(m *mesh, _ string) error {
				for i := range 12 {
					response, _, err := m.from(m.pods.client, "10.88.2.1:80", "half.test", "/")
					if err != nil || i > 4 && response.StatusCode != http.StatusOK {
						return orErr(err, errors.New("the one that does not answer is still asked"))
					}
					time.Sleep(60 * time.Millisecond)
				}
				return nil
			}},
		{name: "connectTimeout", proves: "connectionPool.tcp.connectTimeout", with: "connectionPool: {tcp: {connectTimeout: 0.2s}}", without: "connectionPool: {tcp: {connectTimeout: 4s}}", routes: "retries: {attempts: 0}",
			target: target{"silent.test", "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: silent}\nspec: {hosts: [silent.test], addresses: [10.88.2.2], resolution: STATIC, location: MESH_EXTERNAL, ports: [{number: 80, name: http, protocol: HTTP}], endpoints: [{address: " + silentAddress + "}]}\n---\n"},
			check: func(m *mesh, _ string) error {
				response, _, err := m.fromWithin(1500*time.Millisecond, m.pods.client, "10.88.2.2:80", "silent.test", "/")
				return orErr(err, expect(response != nil && response.StatusCode == http.StatusServiceUnavailable, "answered %v", response))
			}},
	}
	return append(list, tlsPolicies(m)...)
}

// TestTrafficPolicy runs each part of a traffic policy in each place that it can stand in.
func TestTrafficPolicy(t *testing.T) {
	t.Parallel() // its ports are its own
	m := startPods(t)
	m.base = meshConfig("{}") + "---\n" + withPolicy("")
	m.certificates(t)
	rules := policies(t, m)
	for _, p := range rules {
		m.prove(t, p.features())
	}
	m.prove(t, byPolicy(rules))
	m.rejections(t)
}

// told is a host that answers with what a connection begins with.
func told(m *mesh) target {
	return target{"told.test", "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: told}\nspec: {hosts: [told.test], addresses: [10.88.2.3], resolution: STATIC, location: MESH_EXTERNAL, ports: [{number: 80, name: tcp, protocol: TCP, targetPort: 9005}], endpoints: [{address: " + m.pods.outside.Address + "}]}\n---\n"}
}

// noticesDeath holds if a connection ends soon after the server's machine has died.
func noticesDeath(from *nettest.Pod, address string, die, rise func()) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	connection, err := from.Dial(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer func() { _ = connection.Close() }()
	if _, err := fmt.Fprintln(connection, "hello"); err != nil {
		return err
	}
	time.Sleep(time.Second) // the server has it: what is not acknowledged is sent again and again instead
	die()
	defer rise()
	_ = connection.SetReadDeadline(time.Now().Add(4 * time.Second))
	_, err = connection.Read(make([]byte, 1))
	var timeout net.Error
	return expect(!errors.As(err, &timeout) || !timeout.Timeout(), "the connection to a dead machine is still open")
}

// requestsAnyway sends requests whatever answers.
func requestsAnyway(m *mesh, n int) error {
	for range n {
		if _, _, err := m.from(m.pods.client, reviewsIP+":80", "reviews", "/"); err != nil {
			return err
		}
	}
	return nil
}

// within tries until the time is over.
func within(limit time.Duration, check func() error) error {
	deadline := time.Now().Add(limit)
	for {
		err := check()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// statIs holds if a cluster's statistic has a value.
func statIs(name string, want int) func(*mesh, string) error {
	return func(m *mesh, cluster string) error {
		n, err := m.stat(cluster, name)
		return orErr(err, expect(n == want, "%s is %d", name, n))
	}
}

// silentAddress is in the outside network, and nobody has it.
const silentAddress = "10.88.0.250"

// certificates gives the client what TLS to the hosts outside needs: in files, and in a Secret that it and v1 may read.
func (m *mesh) certificates(t *testing.T) {
	t.Helper()
	chain, key := outsideCA(t).issue(t, "client.test")
	server, _ := serverCertificate(t)
	client := m.pods.client
	for name, text := range map[string]string{"root.pem": outsideCA(t).pem, "chain.pem": chain, "key.pem": key, "crl.pem": outsideCA(t).revoke(t, server)} {
		client.Write(t, client.Dir()+"/"+name, text)
	}
	m.kube.Apply(t, "apiVersion: v1\nkind: Secret\nmetadata: {name: outside}\nstringData:\n  tls.crt: |\n"+indent(chain)+"  tls.key: |\n"+indent(key)+"  ca.crt: |\n"+indent(outsideCA(t).pem)+
		"---\napiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: secrets}\nrules: [{apiGroups: [\"\"], resources: [secrets], verbs: [get, list, watch]}]\n"+
		"---\napiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {name: secrets}\nroleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: secrets}\nsubjects: [{kind: ServiceAccount, name: client, namespace: default}, {kind: ServiceAccount, name: v1, namespace: default}]\n")
}

// tlsPolicies are about TLS to a host outside, which is called in plain text, and to reviews.
func tlsPolicies(m *mesh) []policy {
	client := m.pods.client
	files := func(name string) string { return client.Dir() + "/" + name }
	secure := target{"secure.test", secureEntry(m.pods.outside) + "---\n"}
	at := m.pods.outside.Address + ":80" // where nobody listens: what goes there past the rule is refused at once
	reached := func(m *mesh, _ string) error { return served("outside", at, "secure.test", "/")(m) }
	refused := func(m *mesh, _ string) error {
		response, _, err := m.from(client, at, "secure.test", "/")
		return orErr(err, expect(response != nil && response.StatusCode == http.StatusServiceUnavailable, "the server is talked to"))
	}
	simple := func(more string) string {
		return "tls: {mode: SIMPLE, caCertificates: " + files("root.pem") + more + "}"
	}
	return []policy{
		{name: "tls SIMPLE", proves: "tls.mode tls.caCertificates", target: secure, with: simple(""), check: reached},
		{name: "tls sni", proves: "tls.sni", target: secure, with: simple(", sni: secure.test, subjectAltNames: [secure.test]"), without: simple(", sni: nobody.test"), check: func(m *mesh, _ string) error {
			_, got, err := m.from(client, at, "secure.test", "/")
			return orErr(err, expect(got.ServerName == "secure.test", "the server was asked for %q", got.ServerName))
		}},
		{name: "tls subjectAltNames", proves: "tls.subjectAltNames", target: secure, with: simple(", subjectAltNames: [nobody.test]"), without: simple(", subjectAltNames: [secure.test]"), check: refused},
		{name: "tls insecureSkipVerify", proves: "tls.insecureSkipVerify", target: secure, with: "tls: {mode: SIMPLE, insecureSkipVerify: true}", without: "tls: {mode: SIMPLE}", check: reached},
		{name: "tls caCrl", proves: "tls.caCrl", target: secure, with: simple(", caCrl: " + files("crl.pem")), without: simple(""), check: refused},
		{name: "tls MUTUAL", proves: "tls.clientCertificate tls.privateKey", target: secure, with: "tls: {mode: MUTUAL, caCertificates: " + files("root.pem") + ", clientCertificate: " + files("chain.pem") + ", privateKey: " + files("key.pem") + "}", without: simple(""),
			check: func(m *mesh, _ string) error {
				_, got, err := m.from(client, at, "secure.test", "/")
				return orErr(err, expect(got.Client == "client.test", "the server saw the client %q", got.Client))
			}},
		{name: "tls credentialName", proves: "tls.credentialName", target: secure, selector: "{tier: front}", with: "tls: {mode: MUTUAL, credentialName: outside}", without: "tls: {mode: SIMPLE, credentialName: outside}",
			check: func(m *mesh, _ string) error {
				_, got, err := m.from(client, at, "secure.test", "/")
				return orErr(err, expect(got.Client == "client.test", "the server saw the client %q", got.Client))
			}},
		{name: "tls DISABLE", proves: "tls.mode", with: "tls: {mode: DISABLE}", check: func(m *mesh, _ string) error {
			got, err := peer(m)
			return orErr(err, expect(got == "", "the server's proxy saw %q", got))
		}},
		{name: "tls ISTIO_MUTUAL", proves: "tls.mode", with: "tls: {mode: ISTIO_MUTUAL}", without: "tls: {mode: DISABLE}", check: func(m *mesh, _ string) error {
			got, err := peer(m)
			return orErr(err, expect(strings.Contains(got, clientIdentity), "the server's proxy saw %q", got))
		}},
	}
}

// indent puts a text below a YAML key of the first level.
func indent(text string) string {
	return "    " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n    ") + "\n"
}
