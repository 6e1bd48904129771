package conformance

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/slipway-mesh/slipway/test/kubetest"
	"github.com/slipway-mesh/slipway/test/nettest"
)

// clusterDNS is the cluster's own DNS: it knows the addresses of some names. It counts how often others are asked for.
func clusterDNS(t *testing.T, p *nettest.Pod, known map[string]string) (unknown *atomic.Int64) {
	t.Helper()
	unknown = &atomic.Int64{}
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, m *dns.Msg) {
		out := new(dns.Msg).SetReply(m)
		asked := m.Question[0]
		if address := known[strings.TrimSuffix(asked.Name, ".")]; address == "" {
			out.Rcode = dns.RcodeNameError
			unknown.Add(1)
		} else if asked.Qtype == dns.TypeA {
			record, _ := dns.NewRR(asked.Name + " 60 IN A " + address)
			out.Answer = append(out.Answer, record)
		}
		_ = w.WriteMsg(out)
	})
	for _, server := range []*dns.Server{{Listener: p.Listen(t, "0.0.0.0:53"), Handler: handler}, {PacketConn: p.ListenPacket(t, "0.0.0.0:53"), Handler: handler}} {
		go func() { _ = server.ActivateAndServe() }()
	}
	return unknown
}

// resolve asks the pod's DNS server for the addresses of a name, as an application does.
func resolve(p *nettest.Pod, server, network, name string) ([]string, error) {
	resolver := &net.Resolver{PreferGo: true, StrictErrors: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) { return p.Dial(ctx, network, server+":53") }}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	found, err := resolver.LookupHost(ctx, name)
	slices.Sort(found)
	return found, err
}

// TestNames runs what a workload whose DNS is captured is told, and where that leads.
func TestNames(t *testing.T) {
	t.Parallel() // its ports are its own
	m, network := startNetwork(t)
	m.backends = map[string]*backend{}
	m.pods = &pods{client: network.Pod(t, "client"), v1: network.Pod(t, "v1"), v2: network.Pod(t, "v2"), outside: network.Outside(t, "outside"), other: network.Outside(t, "other")}
	for _, p := range []*nettest.Pod{m.pods.v1, m.pods.v2, m.pods.outside, m.pods.other} {
		m.backends[p.Name] = serveAll(t, p)
		if p != m.pods.outside && p != m.pods.other {
			m.register(t, p, "default", "{app: reviews, version: "+p.Name+"}")
		}
	}
	unknown := clusterDNS(t, m.pods.outside, map[string]string{"upstream.test": "10.88.9.9", "secure.test": m.pods.outside.Address, "other.test": m.pods.other.Address, "elsewhere.test": m.pods.other.Address})
	m.endpoints(t, "reviews", m.pods.v1, m.pods.v2)
	m.endpoints(t, "headless", m.pods.v1, m.pods.v2)
	server := m.pods.outside.Address
	m.pods.client.Write(t, "/etc/resolv.conf", "nameserver "+server+"\nsearch default.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n")
	m.pods.client.Write(t, m.pods.client.Dir()+"/root.pem", outsideCA(t).pem)
	m.base = meshConfig("{}")
	m.injectWith(t, m.pods.client, "default", "{app: client}", []string{"ISTIO_META_DNS_CAPTURE=true"}, "--redirect-dns")
	kubetest.Eventually(t, 30*time.Second, func() error {
		response, _, err := m.from(m.pods.client, "127.0.0.1:15021", "localhost", "/healthz/ready")
		return orErr(err, expect(response != nil && response.StatusCode == http.StatusOK, "the client is not ready: %v", response))
	})
	m.prove(t, nameFeatures(m, server))
	m.prove(t, dynamicFeatures(m))
	const gone = "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: gone}\nspec: {hosts: [gone.test], location: MESH_EXTERNAL, resolution: DNS, ports: [{number: 80, name: http, protocol: HTTP}]}\n"
	m.prove(t, []feature{{name: "dnsRefreshRate", proves: "MeshConfig.dnsRefreshRate", with: meshConfig("{dnsRefreshRate: 0.5s}") + gone, without: meshConfig("{dnsRefreshRate: 60s}") + gone, check: func(*mesh) error {
		before := unknown.Load()
		time.Sleep(3 * time.Second)
		asked := unknown.Load() - before
		return expect(asked > 3, "a name that is not known was asked for %d times in three seconds", asked)
	}}})
	m.rejections(t)
}

func nameFeatures(m *mesh, server string) []feature {
	client := m.pods.client
	is := func(name string, want ...string) func(*mesh) error {
		slices.Sort(want)
		return func(*mesh) error {
			for _, network := range []string{"udp", "tcp"} {
				if got, err := resolve(client, server, network, name); err != nil || !slices.Equal(got, want) {
					return fmt.Errorf("%s is %v over %s (%w), not %v", name, got, network, err, want)
				}
			}
			return nil
		}
	}
	entry := func(name, spec string, labels ...string) string {
		return "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: " + name + ", labels: {" + strings.Join(labels, ", ") + "}}\nspec: {hosts: [" + name + ".test], location: MESH_EXTERNAL, " + spec + "}\n"
	}
	const tcp = "ports: [{number: 9000, name: tcp, protocol: TCP}], "
	at := func(address string) string {
		return tcp + "resolution: STATIC, endpoints: [{address: " + address + "}]"
	}
	// greets calls a host by its name, as an application does, and checks who is at the other end.
	greets := func(name, want string) func(*mesh) error {
		return func(m *mesh) error {
			found, err := resolve(client, server, "udp", name)
			if err != nil {
				return err
			}
			if !strings.HasPrefix(found[0], "240.240.") {
				return fmt.Errorf("%s is %v", name, found)
			}
			got, err := m.tcpFrom(client, found[0]+":9000", "")
			return orErr(err, expect(got == want, "%s at %v answers %q, not %q", name, found, got, want))
		}
	}
	service := "apiVersion: v1\nkind: Service\nmetadata: {name: late}\nspec: {clusterIP: 10.0.0.77, ports: [{name: http, port: 80}]}\n"
	two := entry("one", at(m.pods.outside.Address)) + "---\n" + entry("two", at(m.pods.other.Address))
	return []feature{
		{name: "DNS of a Service", with: service, check: both(is("late.default.svc.cluster.local", "10.0.0.77"), is("late", "10.0.0.77"), is("late.default", "10.0.0.77"), is("reviews", reviewsIP), is("headless", m.pods.v1.Address, m.pods.v2.Address), is("upstream.test", "10.88.9.9"))},
		{name: "DNS of a ServiceEntry with addresses", proves: "ServiceEntry.addresses", with: entry("fixed", "addresses: [10.88.1.9], "+at(server)), without: entry("fixed", "addresses: [10.88.1.8], "+at(server)), check: is("fixed.test", "10.88.1.9")},
		{name: "addresses of ServiceEntries that have none", proves: "ServiceEntry.addresses", with: two, without: entry("one", at(server), "networking.istio.io/enable-autoallocate-ip: 'false'") + "---\n" + entry("two", at(m.pods.other.Address)),
			check: both(greets("one.test", "outside"), greets("two.test", "other"))},
		{name: "addresses of a ServiceEntry of DNS", proves: "ServiceEntry.resolution", with: entry("byname", tcp+"resolution: DNS, endpoints: [{address: "+m.pods.other.Address+"}]"), without: entry("byname", tcp+"resolution: NONE"), check: greets("byname.test", "other")},
	}
}

// dynamicFeatures are calls that go where the proxy itself finds the host, wherever the caller believed it to be.
func dynamicFeatures(m *mesh) []feature {
	const believed = "10.88.1.6" // where nobody is
	originate := "tls: {mode: SIMPLE, caCertificates: " + m.pods.client.Dir() + "/root.pem}"
	entry := func(resolution, port string) string {
		return "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: dynamic}\nspec: {hosts: ['*.test'], location: MESH_EXTERNAL, resolution: " + resolution + ", ports: [{" + port + "}]}\n"
	}
	dynamic := func(name, port, more string, check func(*mesh) error) feature {
		return feature{name: "ServiceEntry DYNAMIC_DNS, " + name, proves: "ServiceEntry.resolution", with: entry("DYNAMIC_DNS", port) + more, without: entry("NONE", port) + more, check: check}
	}
	rule := "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: dynamic}\nspec: {host: '*.test', trafficPolicy: {" + originate + "}}\n"
	// Something has to make port 8080 one of HTTP, or nothing there has a host.
	const unrelated = "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: unrelated}\nspec: {hosts: [unrelated.example], resolution: NONE, ports: [{number: 8080, name: http, protocol: HTTP}]}\n"
	outside := func(policy string) string { return meshConfig("{outboundTrafficPolicy: {"+policy+"}}") + unrelated }
	plain := both(served("outside", believed+":8080", "secure.test:8080", "/"), served("other", believed+":8080", "elsewhere.test:8080", "/"), func(m *mesh) error {
		response, _, err := m.from(m.pods.client, believed+":8080", "unknown.test:8080", "/")
		return orErr(err, expect(response != nil && response.StatusCode == http.StatusServiceUnavailable, "a host that is nowhere is answered with %v", response))
	})
	// certified checks that the server's certificate is looked at: it is for secure.test, and not for elsewhere.test.
	certified := func(port string) func(*mesh) error {
		return both(served("outside", believed+":"+port, "secure.test:9443", "/"), func(m *mesh) error {
			response, _, err := m.from(m.pods.client, believed+":"+port, "elsewhere.test:9443", "/")
			return orErr(err, expect(response != nil && response.StatusCode == http.StatusServiceUnavailable, "a server without its name in its certificate is talked to: %v", response))
		})
	}
	return []feature{
		dynamic("HTTP", "number: 8080, name: http, protocol: HTTP", "", plain),
		dynamic("TLS originated", "number: 80, name: http, protocol: HTTP", rule, certified("80")),
		dynamic("TLS of the caller", "number: 443, name: tls, protocol: TLS, targetPort: 9443", "", both(func(m *mesh) error { return overTLS(m, believed+":443", "secure.test", "outside") }, func(m *mesh) error { return overTLS(m, believed+":443", "other.test", "other") })),
		{name: "ALLOW_ANY_DYNAMIC_DNS", proves: "MeshConfig.outboundTrafficPolicy", with: outside("mode: ALLOW_ANY_DYNAMIC_DNS"), without: outside("mode: ALLOW_ANY"), check: plain},
		{name: "ALLOW_ANY_DYNAMIC_DNS, TLS originated", proves: "MeshConfig.outboundTrafficPolicy", with: outside("mode: ALLOW_ANY_DYNAMIC_DNS, " + originate), without: outside("mode: ALLOW_ANY_DYNAMIC_DNS"), check: certified("8080")},
	}
}
