package conformance

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/slipway-mesh/slipway/test/nettest"
)

// withPolicy is the DestinationRule of reviews with a traffic policy; without one it is the rule that stands by itself.
func withPolicy(policy string) string {
	if policy != "" {
		policy = "\n  trafficPolicy: " + policy
	}
	return "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: reviews}\nspec:\n  host: reviews" + policy +
		"\n  subsets:\n  - {name: v1, labels: {version: v1}}\n  - {name: v2, labels: {version: v2}}\n"
}

// versions sends n requests one after the other and lists who answered.
func versions(m *mesh, n int, address string, headers ...string) ([]string, error) {
	var list []string
	for range n {
		response, got, err := m.from(m.pods.client, address, "reviews", "/", headers...)
		if err != nil {
			return nil, err
		}
		if response.StatusCode != http.StatusOK {
			return nil, fmt.Errorf("answered %s", response.Status)
		}
		list = append(list, got.Version)
	}
	return list, nil
}

func count(list []string, what string) int {
	n := 0
	for _, one := range list {
		if one == what {
			n++
		}
	}
	return n
}

// alternate holds if of any two requests in a row one goes to each version.
func alternate(m *mesh) error {
	list, err := versions(m, 16, reviewsIP+":80")
	if err != nil {
		return err
	}
	for i := 1; i < len(list); i++ {
		if list[i] == list[i-1] {
			return fmt.Errorf("served by %v", list)
		}
	}
	return nil
}

// whileBusy counts how many of 100 requests v2 answers while v1 has others to work on.
func whileBusy(m *mesh) (fast int, err error) {
	m.backends["v1"].delay.Store(3000)
	defer m.backends["v1"].delay.Store(0)
	var group sync.WaitGroup
	defer group.Wait()
	for range 12 {
		group.Go(func() { _, _, _ = m.from(m.pods.client, reviewsIP+":80", "reviews", "/") })
	}
	time.Sleep(300 * time.Millisecond) // by now v2's share is answered, and v1's is not
	m.backends["v1"].delay.Store(0)
	list, err := versions(m, 100, reviewsIP+":80")
	return count(list, "v2"), err
}

func destinationRules(t *testing.T, m *mesh) []feature {
	plainRule := withPolicy("")
	policy := func(name, proves, with string, check func(*mesh) error) feature {
		return feature{name: "DestinationRule " + name, proves: proves, with: withPolicy(with), without: plainRule, check: check}
	}
	const balancer = "DestinationRule.trafficPolicy.loadBalancer."
	chain, key := outsideCA(t).issue(t, "client.test")
	for name, text := range map[string]string{"root.pem": outsideCA(t).pem, "chain.pem": chain, "key.pem": key} {
		m.pods.client.Write(t, filepath.Join(m.pods.client.Dir(), name), text)
	}
	at := m.pods.outside.Address + ":80" // where nobody listens: what goes there past the rule is refused at once
	files := func(name string) string { return filepath.Join(m.pods.client.Dir(), name) }
	secure := func(name, proves, settings string, check func(*mesh) error) feature {
		return feature{name: "DestinationRule tls " + name, proves: proves, check: check,
			with: secureEntry(m.pods.outside) + "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: secure}\nspec: {host: secure.test, trafficPolicy: {tls: " + settings + "}}\n"}
	}
	return []feature{
		policy("ROUND_ROBIN", balancer+"simple", "{loadBalancer: {simple: ROUND_ROBIN}}", alternate),
		{name: "DestinationRule LEAST_REQUEST", proves: balancer + "simple", with: withPolicy("{loadBalancer: {simple: LEAST_REQUEST}}"), without: withPolicy("{loadBalancer: {simple: ROUND_ROBIN}}"), check: func(m *mesh) error {
			fast, err := whileBusy(m)
			// Of two picks at random, the same one may come twice: three quarters go to the idle one.
			return orErr(err, expect(fast > 62, "of 100 requests %d went to the idle one", fast))
		}},
		{name: "DestinationRule RANDOM", proves: balancer + "simple", with: withPolicy("{loadBalancer: {simple: RANDOM}}"), without: withPolicy("{loadBalancer: {simple: ROUND_ROBIN}}"), check: func(m *mesh) error {
			list, err := versions(m, 60, reviewsIP+":80")
			first := count(list, "v1")
			return orErr(err, expect(first > 10 && first < 50 && alternate(m) != nil, "served by %v", list))
		}},
		policy("PASSTHROUGH", balancer+"simple", "{loadBalancer: {simple: PASSTHROUGH}}", times(10, func(m *mesh) error {
			return servedFrom(m, m.pods.client, "v2", m.pods.v2.Address+":8082", "reviews", "/")
		})),
		policy("consistentHash by header", balancer+"consistentHash.httpHeaderName", "{loadBalancer: {consistentHash: {httpHeaderName: x-user}}}", func(m *mesh) error {
			seen := map[string]bool{}
			for user := range 8 { // each user stays at one, and not all at the same
				list, err := versions(m, 6, reviewsIP+":80", "x-user", fmt.Sprint("user", user))
				if err != nil || count(list, list[0]) != len(list) {
					return errors.Join(err, fmt.Errorf("user %d is served by %v", user, list))
				}
				seen[list[0]] = true
			}
			return expect(len(seen) == 2, "all users are served by %v", seen)
		}),
		policy("connectionPool", "DestinationRule.trafficPolicy.connectionPool.tcp.maxConnections DestinationRule.trafficPolicy.connectionPool.http.http1MaxPendingRequests",
			"{connectionPool: {tcp: {maxConnections: 1}, http: {http1MaxPendingRequests: 1}}}", func(m *mesh) error {
				refused := m.burst(8)
				return expect(refused > 0, "no request was refused")
			}),
		policy("outlierDetection", "DestinationRule.trafficPolicy.outlierDetection.consecutive5xxErrors DestinationRule.trafficPolicy.outlierDetection.interval DestinationRule.trafficPolicy.outlierDetection.maxEjectionPercent",
			"{outlierDetection: {consecutive5xxErrors: 2, interval: 0.1s, baseEjectionTime: 2s, maxEjectionPercent: 100}}", func(m *mesh) error {
				m.backends["v1"].fail.Store(1 << 30)
				defer m.backends["v1"].fail.Store(0)
				time.Sleep(2200 * time.Millisecond) // an ejection of an earlier attempt is over
				if _, err := versions(m, 30, reviewsIP+":80"); err != nil {
					return err
				}
				before := m.backends["v1"].hits.Load()
				_, err := versions(m, 10, reviewsIP+":80")
				return orErr(err, expect(m.backends["v1"].hits.Load() == before, "the one that fails is still asked"))
			}),
		policy("tls DISABLE", "DestinationRule.trafficPolicy.tls.mode", "{tls: {mode: DISABLE}}", func(m *mesh) error {
			got, err := peer(m)
			return orErr(err, expect(got == "", "the server's proxy saw %q", got))
		}),
		{name: "DestinationRule tls ISTIO_MUTUAL", proves: "DestinationRule.trafficPolicy.tls.mode", with: withPolicy("{tls: {mode: ISTIO_MUTUAL}}"), without: withPolicy("{tls: {mode: DISABLE}}"), check: func(m *mesh) error {
			got, err := peer(m)
			return orErr(err, expect(strings.Contains(got, clientIdentity), "the server's proxy saw %q", got))
		}},
		policy("of a port", "DestinationRule.trafficPolicy.portLevelSettings.loadBalancer.simple", "{portLevelSettings: [{port: {number: 80}, loadBalancer: {simple: ROUND_ROBIN}}]}", alternate),
		{name: "DestinationRule of a subset", proves: "DestinationRule.subsets.trafficPolicy.loadBalancer.simple", with: strings.Replace(plainRule, "{name: v2, labels: {version: v2}}", "{name: v2, labels: {app: reviews}, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}}", 1) + "---\n" + forMesh(httpToV2),
			without: plainRule + "---\n" + forMesh(httpToV2), check: alternate},
		secure("SIMPLE", "DestinationRule.trafficPolicy.tls.mode DestinationRule.trafficPolicy.tls.caCertificates DestinationRule.trafficPolicy.tls.sni",
			"{mode: SIMPLE, caCertificates: "+files("root.pem")+", sni: secure.test, subjectAltNames: [secure.test]}", served("outside", at, "secure.test", "/")),
		secure("MUTUAL", "DestinationRule.trafficPolicy.tls.clientCertificate DestinationRule.trafficPolicy.tls.privateKey",
			"{mode: MUTUAL, caCertificates: "+files("root.pem")+", clientCertificate: "+files("chain.pem")+", privateKey: "+files("key.pem")+", sni: secure.test}", func(m *mesh) error {
				_, got, err := m.from(m.pods.client, at, "secure.test", "/")
				return orErr(err, expect(got.Client == "client.test", "the server saw the client %q", got.Client))
			}),
		{name: "DestinationRule tls subjectAltNames", proves: "DestinationRule.trafficPolicy.tls.subjectAltNames", check: func(m *mesh) error {
			response, _, err := m.from(m.pods.client, at, "secure.test", "/")
			return orErr(err, expect(response != nil && response.StatusCode == http.StatusServiceUnavailable, "a server of another name is talked to"))
		}, with: secureEntry(m.pods.outside) + "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: secure}\nspec: {host: secure.test, trafficPolicy: {tls: {mode: SIMPLE, caCertificates: " + files("root.pem") + ", subjectAltNames: [nobody.test]}}}\n",
			without: secureEntry(m.pods.outside) + "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: secure}\nspec: {host: secure.test, trafficPolicy: {tls: {mode: SIMPLE, caCertificates: " + files("root.pem") + ", subjectAltNames: [secure.test]}}}\n"},
	}
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

// secureEntry is a host outside that speaks TLS, called in plain text on port 80.
func secureEntry(p *nettest.Pod) string {
	return "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: secure}\nspec:\n  hosts: [secure.test]\n  addresses: [" + p.Address + "]\n  location: MESH_EXTERNAL\n  resolution: STATIC\n" +
		"  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 9443}]\n  endpoints: [{address: " + p.Address + "}]\n"
}

// overTLS checks who answers a request over the client's own TLS.
func overTLS(m *mesh, address, name, want string) error {
	raw, err := m.pods.client.Dial(context.Background(), "tcp", address)
	if err != nil {
		return err
	}
	defer func() { _ = raw.Close() }()
	secured := tls.Client(raw, &tls.Config{ServerName: name, InsecureSkipVerify: true}) //nolint:gosec // routing by name is the subject
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialTLSContext: func(context.Context, string, string) (net.Conn, error) { return secured, nil }}}
	response, got, err := ask(client, "https://"+name+"/", name)
	if err != nil {
		return err
	}
	return expect(got.Version == want, "%s is answered by %q (%s), not %s", name, got.Version, response.Status, want)
}
