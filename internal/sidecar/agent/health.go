package agent

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

// healthType is of requests by which an agent tells the control plane of its workload's health, which no kubelet does outside Kubernetes.
const healthType = "type.googleapis.com/istio.v1.HealthInformation"

// readiness is the question that tells whether the workload may be called, as a WorkloadGroup's probe has it.
type readiness struct {
	prober
	Exec *struct{ Command []string }

	InitialDelaySeconds, PeriodSeconds, SuccessThreshold, FailureThreshold int
}

// healthState is what was found out last. It is told on each stream to the control plane, when it begins and when it changes.
type healthState struct {
	readiness readiness

	mu      sync.Mutex
	known   bool
	illness string // empty is healthy
	streams map[*ownStream]struct{}
}

// newHealth is nil where nobody asks.
func newHealth(o Options) *healthState {
	if o.Config.ReadinessProbe == nil {
		return nil
	}
	return &healthState{readiness: *o.Config.ReadinessProbe, streams: map[*ownStream]struct{}{}}
}

// run asks the workload until the context ends.
func (h *healthState) run(ctx context.Context) {
	if h == nil {
		return
	}
	r := h.readiness
	wait := time.Duration(r.InitialDelaySeconds) * time.Second
	good, bad := 0, 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		wait = time.Duration(cmp.Or(r.PeriodSeconds, 10)) * time.Second
		if err := r.ask(ctx); err != nil {
			good, bad = 0, bad+1
			if bad >= cmp.Or(r.FailureThreshold, 3) {
				h.tell(err.Error())
			}
			continue
		}
		good, bad = good+1, 0
		if good >= max(r.SuccessThreshold, 1) {
			h.tell("")
		}
	}
}

// ask returns what is wrong with the workload.
func (r readiness) ask(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(max(r.TimeoutSeconds, 1))*time.Second)
	defer cancel()
	const address = "127.0.0.1" // there is nothing but this workload on its machine
	switch {
	case r.HTTPGet != nil:
		header := http.Header{}
		for _, h := range r.HTTPGet.HTTPHeaders {
			header.Add(h.Name, h.Value)
		}
		response, err := r.fetch(ctx, address, header)
		if err != nil {
			return err
		}
		_ = response.Body.Close()
		if response.StatusCode >= http.StatusBadRequest {
			return fmt.Errorf("it answers %s", response.Status)
		}
		return nil
	case r.TCPSocket != nil:
		return connects(ctx, cmp.Or(r.TCPSocket.Host, address), r.TCPSocket.Port)
	case r.GRPC != nil:
		return r.serving(ctx, address)
	case r.Exec != nil && len(r.Exec.Command) > 0:
		out, err := exec.CommandContext(ctx, r.Exec.Command[0], r.Exec.Command[1:]...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%s: %w: %s", strings.Join(r.Exec.Command, " "), err, out)
		}
	}
	return nil
}

func (h *healthState) tell(illness string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.known && h.illness == illness {
		return
	}
	slog.Info("the workload's health", "illness", illness)
	h.known, h.illness = true, illness
	for s := range h.streams {
		if err := s.send(healthType, h.request()); err != nil {
			slog.Debug("the workload's health cannot be told on a stream that ends", "error", err)
		}
	}
}

// request says what is known; it is called with the lock.
func (h *healthState) request() *discovery.DeltaDiscoveryRequest {
	out := &discovery.DeltaDiscoveryRequest{}
	if h.illness != "" {
		out.ErrorDetail = &status.Status{Code: int32(codes.Unavailable), Message: h.illness}
	}
	return out
}

// follow tells a stream what is known, and from now on what changes.
func (h *healthState) follow(s *ownStream) error {
	if h == nil {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.streams[s] = struct{}{}
	if !h.known {
		return nil
	}
	return s.send(healthType, h.request())
}

func (h *healthState) leave(s *ownStream) {
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.streams, s)
}

// ownStream is a stream of Envoy's with requests of the agent's own among Envoy's.
type ownStream struct {
	upstream stream
	mu       sync.Mutex // of sending
}

func (s *ownStream) pass(message any) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.upstream.SendMsg(message)
}

func (s *ownStream) send(typeURL string, request *discovery.DeltaDiscoveryRequest) error {
	request.TypeUrl = typeURL
	bytes, err := proto.Marshal(request)
	if err != nil {
		return err
	}
	return s.pass(&raw{bytes})
}
