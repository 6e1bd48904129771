// Package traffic asks proxies whom they call and who calls them. It is asked when somebody looks, and costs nothing else. It must
// not know where the proxies' configuration comes from.
package traffic

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

const (
	port     = "15020"
	path     = "/stats/mesh"
	patience = 2 * time.Second // with one proxy
	fresh    = 3 * time.Second // for which an answer does for all who look
	atOnce   = 32              // proxies that are asked at the same time
	// Most is how many proxies are asked.
	Most = 500
)

// End is one end of a connection: a canonical service of a namespace.
type End struct{ Namespace, Service string }

// Edge is what goes from one service to another, since the proxies started and a second.
type Edge struct {
	From, To End
	// Host is the destination as callers name it, Protocol http, grpc or tcp.
	Host, Protocol string
	// Requests, or connections of tcp, and those of them that failed.
	Requests, Failed float64
	// Rate and FailedRate are a second, over the time since the last look.
	Rate, FailedRate float64
	// Secured are those that the called proxy saw come by mutual TLS, Plain those that it saw come without.
	Secured, Plain float64
}

// Traffic is one look.
type Traffic struct {
	Edges []Edge
	// Over is the time that rates are of; zero at the first look, which has none.
	Over time.Duration
	// Silent lists proxies that did not answer, with why; Unasked counts those that were too many.
	Silent  []string
	Unasked int
}

// Collector remembers the last look, for rates.
type Collector struct {
	client http.Client

	mu   sync.Mutex
	at   time.Time
	last map[string]counts // by address
	seen Traffic
}

// Look asks the proxies of the addresses, or answers what it found a moment ago.
func (c *Collector) Look(ctx context.Context, addresses []string) Traffic {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if now.Sub(c.at) < fresh {
		return c.seen
	}
	slices.Sort(addresses)
	asked := addresses[:min(len(addresses), Most)]
	found, silent := c.askAll(ctx, asked)
	var over time.Duration
	if !c.at.IsZero() {
		over = now.Sub(c.at)
	}
	c.seen = Traffic{Edges: edges(found, c.last, over), Over: over, Silent: silent, Unasked: len(addresses) - len(asked)}
	c.at, c.last = now, found
	return c.seen
}

func (c *Collector) askAll(ctx context.Context, addresses []string) (found map[string]counts, silent []string) {
	found = map[string]counts{}
	var mu sync.Mutex
	var wait sync.WaitGroup
	places := make(chan struct{}, atOnce)
	for _, address := range addresses {
		places <- struct{}{}
		wait.Go(func() {
			defer func() { <-places }()
			one, err := c.ask(ctx, address)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				silent = append(silent, fmt.Sprintf("%s: %v", address, err))
				return
			}
			found[address] = one
		})
	}
	wait.Wait()
	slices.Sort(silent)
	return found, silent
}

func (c *Collector) ask(ctx context.Context, address string) (counts, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(address, port)+path, http.NoBody)
	if err != nil {
		return nil, err
	}
	response, err := c.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(response.Body, 200))
		return nil, fmt.Errorf("%s: %s", response.Status, text)
	}
	return parse(response.Body)
}

// edges adds up what all proxies count. What both ends count is taken from the caller, but for whether it was secured,
// which only the called can know.
func edges(now, before map[string]counts, over time.Duration) []Edge {
	type sides struct{ caller, called, callerDelta, calledDelta tally }
	sums := map[key]*sides{}
	for address, counted := range now {
		for k, t := range counted {
			reporter := k.reporter
			k.reporter = ""
			sum := sums[k]
			if sum == nil {
				sum = &sides{}
				sums[k] = sum
			}
			k.reporter = reporter
			delta := t.since(before[address][k])
			if reporter == "source" {
				sum.caller.add(t)
				sum.callerDelta.add(delta)
			} else {
				sum.called.add(t)
				sum.calledDelta.add(delta)
			}
		}
	}
	out := make([]Edge, 0, len(sums))
	for k, sum := range sums {
		total, delta := sum.caller, sum.callerDelta
		if total.requests == 0 {
			total, delta = sum.called, sum.calledDelta
		}
		edge := Edge{From: k.from, To: k.to, Host: k.host, Protocol: k.protocol, Requests: total.requests, Failed: total.failed,
			Secured: sum.called.secured, Plain: sum.called.requests - sum.called.secured}
		if over > 0 {
			edge.Rate, edge.FailedRate = delta.requests/over.Seconds(), delta.failed/over.Seconds()
		}
		out = append(out, edge)
	}
	slices.SortFunc(out, func(a, b Edge) int {
		return cmp.Or(cmp.Compare(a.From.Namespace, b.From.Namespace), cmp.Compare(a.From.Service, b.From.Service), cmp.Compare(a.To.Namespace, b.To.Namespace),
			cmp.Compare(a.To.Service, b.To.Service), cmp.Compare(a.Host, b.Host), cmp.Compare(a.Protocol, b.Protocol))
	})
	return out
}
