package conformance

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/slipway-mesh/slipway/test/kubetest"
	"github.com/slipway-mesh/slipway/test/nettest"
)

// clusterDNS is the cluster's own DNS: it knows one name.
func clusterDNS(t *testing.T, p *nettest.Pod) {
	t.Helper()
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, m *dns.Msg) {
		out := new(dns.Msg).SetReply(m)
		if asked := m.Question[0]; asked.Name == "upstream.test." && asked.Qtype == dns.TypeA {
			record, _ := dns.NewRR("upstream.test. 60 IN A 10.88.9.9")
			out.Answer = append(out.Answer, record)
		} else if asked.Name != "upstream.test." {
			out.Rcode = dns.RcodeNameError
		}
		_ = w.WriteMsg(out)
	})
	for _, server := range []*dns.Server{{Listener: p.Listen(t, "0.0.0.0:53"), Handler: handler}, {PacketConn: p.ListenPacket(t, "0.0.0.0:53"), Handler: handler}} {
		go func() { _ = server.ActivateAndServe() }()
	}
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
	m, network := startNetwork(t)
	m.backends = map[string]*backend{}
	m.pods = &pods{client: network.Pod(t, "client"), v1: network.Pod(t, "v1"), v2: network.Pod(t, "v2"), outside: network.Outside(t, "outside"), other: network.Outside(t, "other")}
	for _, p := range []*nettest.Pod{m.pods.v1, m.pods.v2, m.pods.outside, m.pods.other} {
		m.backends[p.Name] = serveAll(t, p)
		if p != m.pods.outside && p != m.pods.other {
			m.register(t, p, "default", "{app: reviews, version: "+p.Name+"}")
		}
	}
	clusterDNS(t, m.pods.outside)
	m.endpoints(t, "reviews", m.pods.v1, m.pods.v2)
	m.endpoints(t, "headless", m.pods.v1, m.pods.v2)
	server := m.pods.outside.Address
	m.pods.client.Write(t, "/etc/resolv.conf", "nameserver "+server+"\nsearch default.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n")
	m.injectWith(t, m.pods.client, "default", "{app: client}", []string{"ISTIO_META_DNS_CAPTURE=true"}, "--redirect-dns")
	kubetest.Eventually(t, 30*time.Second, func() error {
		response, _, err := m.from(m.pods.client, "127.0.0.1:15021", "localhost", "/healthz/ready")
		return orErr(err, expect(response != nil && response.StatusCode == http.StatusOK, "the client is not ready: %v", response))
	})
	m.prove(t, nameFeatures(m, server))
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
