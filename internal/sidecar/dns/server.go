package dns

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/errgroup"
)

// Server is a DNS proxy.
type Server struct {
	Table *Table
	// Addresses are where it listens, over UDP and TCP.
	Addresses []string
	// Upstreams are the servers that are asked what the table does not know.
	Upstreams []string
	// Search is the first of the domains that the workload's resolver tries after a name.
	Search string
	// V4 and V6 say which families of addresses the workload can reach.
	V4, V6 bool
	// Patience is how long questions are refused while the control plane has told nothing; after that the upstreams are asked.
	Patience time.Duration

	began time.Time
}

// Port is where questions are led to; ResolverFile says which servers a pod has.
const (
	Port         = 15053
	ResolverFile = "/etc/resolv.conf"
)

// ttl of answers in seconds, as with Istio.
const ttl = 30

// upstreamTimeout is how long one server is waited for.
const upstreamTimeout = 5 * time.Second

// FromResolver reads the upstreams and the first search domain of a resolv.conf.
func (s *Server) FromResolver(file string) error {
	config, err := dns.ClientConfigFromFile(file)
	if err != nil {
		return err
	}
	for _, server := range config.Servers {
		s.Upstreams = append(s.Upstreams, net.JoinHostPort(server, config.Port))
	}
	if len(config.Search) > 0 {
		s.Search = config.Search[0]
	}
	return nil
}

// Waiting says that questions are refused still.
func (s *Server) Waiting() bool { return !s.Table.Complete() && time.Since(s.began) < s.Patience }

// Run serves until the context ends.
func (s *Server) Run(ctx context.Context) error {
	s.began = time.Now()
	group, ctx := errgroup.WithContext(ctx)
	for _, address := range s.Addresses {
		for _, network := range []string{"udp", "tcp"} {
			server := &dns.Server{Addr: address, Net: network, Handler: s}
			group.Go(func() error {
				started := make(chan struct{})
				server.NotifyStartedFunc = func() { close(started) }
				stop := context.AfterFunc(ctx, func() {
					<-started
					_ = server.Shutdown()
				})
				defer stop()
				return server.ListenAndServe()
			})
		}
	}
	if err := group.Wait(); err != nil && ctx.Err() == nil {
		return err
	}
	return ctx.Err()
}

// ServeDNS answers one message.
func (s *Server) ServeDNS(w dns.ResponseWriter, question *dns.Msg) {
	answer := s.answer(question)
	if answer == nil {
		answer = s.forward(w.LocalAddr().Network(), question)
	}
	if w.LocalAddr().Network() == "udp" {
		size := dns.MinMsgSize
		if options := question.IsEdns0(); options != nil {
			size = int(options.UDPSize())
		}
		answer.Truncate(size)
	}
	if err := w.WriteMsg(answer); err != nil {
		slog.Debug("DNS: whoever asked is gone", "error", err)
	}
}

// answer says what the table knows; nil is nothing.
func (s *Server) answer(question *dns.Msg) *dns.Msg {
	if s.Waiting() {
		return new(dns.Msg).SetRcode(question, dns.RcodeServerFailure)
	}
	if len(question.Question) != 1 || question.Question[0].Qclass != dns.ClassINET {
		return nil
	}
	asked := question.Question[0]
	if asked.Qtype != dns.TypeA && asked.Qtype != dns.TypeAAAA {
		return nil
	}
	name := strings.TrimSuffix(asked.Name, ".")
	addresses, known := s.Table.Lookup(name)
	var alias []dns.RR
	if !known {
		// A resolver tries names with its search domains first: the answer to the first spares it the others.
		short, ours := strings.CutSuffix(strings.ToLower(name), "."+s.Search)
		if s.Search == "" || !ours {
			return nil
		}
		if addresses, known = s.Table.Lookup(short); !known {
			return nil
		}
		alias = []dns.RR{&dns.CNAME{Hdr: dns.RR_Header{Name: asked.Name, Rrtype: dns.TypeCNAME, Class: dns.ClassINET, Ttl: ttl}, Target: dns.Fqdn(short)}}
		name = short
	}
	out := new(dns.Msg).SetReply(question)
	out.Authoritative, out.RecursionAvailable = true, true
	if options := question.IsEdns0(); options != nil {
		out.SetEdns0(options.UDPSize(), options.Do())
	}
	if records := s.records(asked, name, alias, addresses); len(records) > 0 {
		out.Answer = slices.Concat(alias, records)
	}
	return out
}

// records are the addresses of the family that is asked for, in random order.
func (s *Server) records(asked dns.Question, name string, alias []dns.RR, addresses []netip.Addr) []dns.RR {
	owner := asked.Name
	if len(alias) > 0 {
		owner = dns.Fqdn(name)
	}
	header := dns.RR_Header{Name: owner, Rrtype: asked.Qtype, Class: dns.ClassINET, Ttl: ttl}
	var out []dns.RR
	for _, address := range addresses {
		switch {
		case asked.Qtype == dns.TypeA && address.Is4() && s.V4:
			out = append(out, &dns.A{Hdr: header, A: address.AsSlice()})
		case asked.Qtype == dns.TypeAAAA && address.Is6() && s.V6:
			out = append(out, &dns.AAAA{Hdr: header, AAAA: address.AsSlice()})
		}
	}
	rand.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

// forward asks the upstreams, in random order, until one answers.
func (s *Server) forward(network string, question *dns.Msg) *dns.Msg {
	client := &dns.Client{Net: network, Timeout: upstreamTimeout}
	var failures []error
	for _, i := range rand.Perm(len(s.Upstreams)) {
		answer, _, err := client.Exchange(question, s.Upstreams[i])
		if err == nil {
			return answer
		}
		failures = append(failures, err)
	}
	slog.Warn("DNS: no server answers", "servers", s.Upstreams, "error", errors.Join(failures...))
	return new(dns.Msg).SetRcode(question, dns.RcodeServerFailure)
}
