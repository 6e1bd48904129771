package dns

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/slipway-mesh/slipway/internal/nametable"
)

// pair are sockets of one port, free for both: whatever else runs on the machine may have one that is free for one of them.
func pair(t *testing.T) (net.PacketConn, net.Listener) {
	t.Helper()
	for range 20 {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		packets, err := net.ListenPacket("udp", listener.Addr().String())
		if err == nil {
			return packets, listener
		}
		_ = listener.Close()
	}
	t.Fatal("no port is free for both UDP and TCP")
	return nil, nil
}

// upstream is a server that knows one name, and has one answer that is too long for UDP.
func upstream(t *testing.T) string {
	t.Helper()
	packets, listener := pair(t)
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, m *dns.Msg) {
		out := new(dns.Msg).SetReply(m)
		count := map[string]int{"upstream.test.": 1, "long.test.": 100}[m.Question[0].Name]
		for i := range count {
			record, _ := dns.NewRR(fmt.Sprintf("%s 60 IN A 9.9.9.%d", m.Question[0].Name, i))
			out.Answer = append(out.Answer, record)
		}
		if count == 0 {
			out.Rcode = dns.RcodeNameError
		}
		if w.LocalAddr().Network() == "udp" {
			out.Truncate(dns.MinMsgSize)
		}
		_ = w.WriteMsg(out)
	})
	for _, server := range []*dns.Server{{PacketConn: packets, Handler: handler}, {Listener: listener, Handler: handler}} {
		go func() { _ = server.ActivateAndServe() }()
		t.Cleanup(func() { _ = server.Shutdown() })
	}
	return packets.LocalAddr().String()
}

// running is a proxy for a pod with IPv4 only, in namespace default.
func running(t *testing.T, changes ...Change) (*Server, string) {
	t.Helper()
	packets, listener := pair(t)
	address := listener.Addr().String()
	_, _ = packets.Close(), listener.Close()
	s := &Server{Table: &Table{Namespace: "default", Domain: "cluster.local"}, Addresses: []string{address}, Upstreams: []string{upstream(t)}, Search: "default.svc.cluster.local", V4: true, Patience: time.Minute}
	if changes != nil {
		s.Table.Update(changes)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = s.Run(ctx)
	}()
	t.Cleanup(func() { stop(); <-ended })
	for range 100 { // until both are open
		if _, _, err := (&dns.Client{Net: "tcp"}).Exchange(question("x.test.", dns.TypeA), address); err == nil {
			if _, _, err := new(dns.Client).Exchange(question("x.test.", dns.TypeA), address); err == nil {
				return s, address
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatal("the proxy does not answer")
	return nil, ""
}

func question(name string, kind uint16) *dns.Msg { return new(dns.Msg).SetQuestion(name, kind) }

func entry(host, registry string, addresses ...string) Change {
	return Change{Name: host, Version: "1", Entry: &nametable.Entry{Host: host, Registry: registry, Addresses: addresses}}
}

// told writes an answer in few words.
func told(answer *dns.Msg) string {
	var words []string
	for _, record := range answer.Answer {
		words = append(words, strings.Join(strings.Fields(record.String())[3:], " "))
	}
	return strings.TrimSpace(dns.RcodeToString[answer.Rcode] + " " + strings.Join(words, ", "))
}

func TestAnswers(t *testing.T) {
	_, address := running(t, entry("reviews.default.svc.cluster.local", nametable.Kubernetes, "10.0.0.1", "fd00::1"), entry("ratings.other.svc.cluster.local", nametable.Kubernetes, "10.0.0.2"),
		entry("api.example.com", nametable.External, "240.240.0.1"), entry("*.wild.test", nametable.External, "240.240.0.2"), entry("a.wild.test", nametable.External, "240.240.0.3"), entry("short", nametable.External, "240.240.0.4"))
	for _, c := range []struct {
		name string
		kind uint16
		want string
	}{
		{"reviews.default.svc.cluster.local.", dns.TypeA, "NOERROR A 10.0.0.1"}, {"Reviews.Default.svc.cluster.local.", dns.TypeA, "NOERROR A 10.0.0.1"},
		{"reviews.", dns.TypeA, "NOERROR A 10.0.0.1"}, {"reviews.default.", dns.TypeA, "NOERROR A 10.0.0.1"}, {"reviews.default.svc.", dns.TypeA, "NOERROR A 10.0.0.1"},
		{"ratings.other.", dns.TypeA, "NOERROR A 10.0.0.2"}, {"ratings.", dns.TypeA, "NXDOMAIN"}, // of another namespace
		{"reviews.default.svc.cluster.local.", dns.TypeAAAA, "NOERROR"}, // the pod has no such address
		{"api.example.com.", dns.TypeA, "NOERROR A 240.240.0.1"},
		{"api.example.com.default.svc.cluster.local.", dns.TypeA, "NOERROR CNAME api.example.com., A 240.240.0.1"},
		{"api.example.com.svc.cluster.local.", dns.TypeA, "NXDOMAIN"},
		{"x.wild.test.", dns.TypeA, "NOERROR A 240.240.0.2"}, {"x.y.wild.test.", dns.TypeA, "NOERROR A 240.240.0.2"}, {"a.wild.test.", dns.TypeA, "NOERROR A 240.240.0.3"},
		{"short.", dns.TypeA, "NOERROR A 240.240.0.4"}, {"upstream.test.", dns.TypeA, "NOERROR A 9.9.9.0"}, {"unknown.test.", dns.TypeA, "NXDOMAIN"}, {"api.example.com.", dns.TypeMX, "NXDOMAIN"},
	} {
		for _, network := range []string{"udp", "tcp"} {
			answer, _, err := (&dns.Client{Net: network}).Exchange(question(c.name, c.kind), address)
			if err != nil || told(answer) != c.want {
				t.Errorf("%s %s over %s: %s (%v), not %s", c.name, dns.TypeToString[c.kind], network, told(answer), err, c.want)
			}
		}
	}
}

func TestLongAnswersAreCutOverUDPOnly(t *testing.T) {
	var many []string
	for i := range 100 {
		many = append(many, fmt.Sprintf("10.1.0.%d", i))
	}
	_, address := running(t, entry("headless.default.svc.cluster.local", nametable.Kubernetes, many...))
	for _, name := range []string{"headless.default.svc.cluster.local.", "long.test."} {
		short, _, err := new(dns.Client).Exchange(question(name, dns.TypeA), address)
		if err == nil {
			short.Compress = true // as it came
		}
		if err != nil || !short.Truncated || short.Len() > dns.MinMsgSize {
			t.Errorf("%s over UDP: %d bytes, truncated %t, %v", name, short.Len(), short.Truncated, err)
		}
		whole, _, err := (&dns.Client{Net: "tcp"}).Exchange(question(name, dns.TypeA), address)
		if err != nil || whole.Truncated || len(whole.Answer) != 100 {
			t.Errorf("%s over TCP: %d records, %v", name, len(whole.Answer), err)
		}
	}
	larger := question("headless.default.svc.cluster.local.", dns.TypeA)
	larger.SetEdns0(4096, false)
	if answer, _, err := new(dns.Client).Exchange(larger, address); err != nil || answer.Truncated || len(answer.Answer) != 100 {
		t.Errorf("with a larger buffer: %d records, %v", len(answer.Answer), err)
	}
}

func TestNothingIsAnsweredBeforeTheFirstTable(t *testing.T) {
	s, address := running(t)
	answer, _, err := new(dns.Client).Exchange(question("upstream.test.", dns.TypeA), address)
	if err != nil || answer.Rcode != dns.RcodeServerFailure || !s.Waiting() {
		t.Errorf("%v, %v", answer, err)
	}
	s.Table.Update(nil)
	if answer, _, err = new(dns.Client).Exchange(question("upstream.test.", dns.TypeA), address); err != nil || told(answer) != "NOERROR A 9.9.9.0" {
		t.Errorf("after an empty table: %v, %v", answer, err)
	}
}

func TestPatienceEnds(t *testing.T) {
	s := &Server{Table: &Table{}, Patience: time.Millisecond, began: time.Now()}
	time.Sleep(2 * time.Millisecond)
	if s.Waiting() {
		t.Error("a control plane that tells nothing takes the workload's DNS away")
	}
}

func TestServersThatDoNotAnswer(t *testing.T) {
	s, address := running(t, entry("a.test", nametable.External, "10.0.0.1"))
	s.Upstreams = []string{"127.0.0.1:1"}
	if answer, _, err := (&dns.Client{Net: "tcp"}).Exchange(question("upstream.test.", dns.TypeA), address); err != nil || answer.Rcode != dns.RcodeServerFailure {
		t.Errorf("%v, %v", answer, err)
	}
}

func TestUpdates(t *testing.T) {
	table := &Table{}
	table.Update([]Change{entry("a.test", nametable.External, "10.0.0.1"), entry("b.test", nametable.External, "10.0.0.2")})
	table.Update([]Change{{Name: "a.test"}, {Name: "b.test", Version: "2", Entry: &nametable.Entry{Host: "b.test", Addresses: []string{"10.0.0.3"}}}})
	if _, known := table.Lookup("a.test"); known {
		t.Error("a host that is gone is known still")
	}
	if got, _ := table.Lookup("b.test"); len(got) != 1 || got[0].String() != "10.0.0.3" || table.Versions()["b.test"] != "2" {
		t.Errorf("b.test is %v, version %s", got, table.Versions()["b.test"])
	}
}
