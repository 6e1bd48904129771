package conformance

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
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

// ofSelected is a DestinationRule for the callers that have labels; it goes before all others for them.
func ofSelected(labels, settings string) string {
	return "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: selected}\nspec: {host: reviews, workloadSelector: {matchLabels: " + labels + "}, trafficPolicy: " + settings + "}\n"
}

func destinationRules(t *testing.T, m *mesh) []feature {
	plainRule := withPolicy("")
	const balancer = "DestinationRule.trafficPolicy.loadBalancer."
	at := m.pods.outside.Address + ":80"
	client := m.pods.client
	return []feature{
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
		{name: "DestinationRule PASSTHROUGH", proves: balancer + "simple", with: withPolicy("{loadBalancer: {simple: PASSTHROUGH}}"), without: plainRule, check: times(10, func(m *mesh) error {
			return servedFrom(m, m.pods.client, "v2", m.pods.v2.Address+":8082", "reviews", "/")
		})},
		{name: "DestinationRule subset by labels", proves: "DestinationRule.subsets.labels DestinationRule.host", with: plainRule + "---\n" + forMesh(httpToV2), without: strings.Replace(plainRule, "version: v2", "app: reviews", 1) + "---\n" + forMesh(httpToV2),
			check: func(m *mesh) error { return only(m, 12, "v2") }},
		{name: "DestinationRule exportTo", proves: "DestinationRule.exportTo", with: exported("[.]"), without: exported("[\"*\"]"), check: func(m *mesh) error {
			response, _, err := m.from(m.pods.other, reviewsIP+":80", "reviews.default", "/")
			return orErr(err, expect(response != nil && response.StatusCode == http.StatusOK, "another namespace follows the rule"))
		}},
		{name: "DestinationRule workloadSelector", proves: "DestinationRule.workloadSelector.matchLabels", with: ofSelected("{tier: front}", "{loadBalancer: {simple: ROUND_ROBIN}}"), without: ofSelected("{tier: back}", "{loadBalancer: {simple: ROUND_ROBIN}}"), check: alternate},
		{name: "ServiceEntry subjectAltNames", proves: "ServiceEntry.subjectAltNames", with: withNames("[nobody.test]", client.Dir()+"/root.pem", m), without: withNames("[secure.test]", client.Dir()+"/root.pem", m), check: func(m *mesh) error {
			response, _, err := m.from(client, at, "secure.test", "/")
			return orErr(err, expect(response != nil && response.StatusCode == http.StatusServiceUnavailable, "the server is talked to"))
		}},
	}
}

// exported is a rule for reviews that lets nobody through, for some namespaces.
func exported(to string) string {
	return "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: reviews}\nspec: {host: reviews, exportTo: " + to + ", trafficPolicy: {tls: {mode: SIMPLE, sni: nobody.test}}}\n"
}

// withNames is the host that speaks TLS, with the names that its certificate must have.
func withNames(names, root string, m *mesh) string {
	return strings.Replace(secureEntry(m.pods.outside), "spec:\n", "spec:\n  subjectAltNames: "+names+"\n", 1) +
		"---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: secure}\nspec: {host: secure.test, trafficPolicy: {tls: {mode: SIMPLE, caCertificates: " + root + "}}}\n"
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
