package xds

import (
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"strconv"
	"strings"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/slipway-mesh/slipway/internal/discovery/envoy"
)

// wholeStream serves state-of-the-world ADS: each response of a type has all that is subscribed. It is for clients that do
// not speak delta; they get whole route tables, and no ordering beyond that of types.
type wholeStream struct {
	*stream
	send  func(*discovery.DiscoveryResponse) error
	state [typeCount]*wholeState
	// pushed is the step of the target that was looked at for all types.
	pushed uint64
}

type wholeState struct {
	names   []string
	nonce   string
	version string
	pending bool // a response is not acknowledged yet
}

// StreamAggregatedResources serves one proxy until it goes.
func (e *endpoint) StreamAggregatedResources(rpc discovery.AggregatedDiscoveryService_StreamAggregatedResourcesServer) error {
	first, err := rpc.Recv()
	if err != nil {
		return e.unreadable(err)
	}
	if strings.HasPrefix(first.TypeUrl, debugPrefix) {
		return e.answerDebug(rpc.Context(), first, rpc.Send)
	}
	proxy, err := parseNode(first.Node, false)
	if err != nil {
		return e.unreadable(status.Error(codes.InvalidArgument, err.Error()))
	}
	st := &wholeStream{stream: e.newStream(rpc.Context(), proxy, nil), send: rpc.Send}
	if err := e.admit(rpc.Context(), st.stream); err != nil {
		return err
	}
	defer e.leave(st.stream)
	st.pushed = st.target.Load().step
	requests, failed := receive(rpc.Context(), rpc.Recv)
	if err := st.handle(first); err != nil {
		return err
	}
	for {
		select {
		case request := <-requests:
			err = st.handle(request)
		case <-st.awake:
			err = st.pushAll()
		case err := <-failed:
			return err
		case <-st.drained:
			return errDraining
		}
		if err != nil {
			return err
		}
		st.noteStep()
	}
}

// noteStep remembers the step of what was pushed last, if all of it is acknowledged.
func (s *wholeStream) noteStep() {
	for _, t := range s.state {
		if t != nil && t.pending {
			return
		}
	}
	s.done.Store(s.pushed)
}

// handle answers a subscription. An acknowledgement that asks for nothing new is answered by what is newer, if anything.
func (s *wholeStream) handle(request *discovery.DiscoveryRequest) error {
	if request.TypeUrl == healthType {
		s.noteHealth(request.ErrorDetail)
		return nil
	}
	i, ok := indexOf(request.TypeUrl)
	if !ok || i == hostIndex {
		return nil
	}
	t := s.state[i]
	if t == nil {
		t = &wholeState{}
		s.state[i] = t
	}
	if request.ResponseNonce != "" && request.ResponseNonce != t.nonce {
		return nil // an answer to an older response
	}
	if request.ErrorDetail != nil {
		s.metrics.Rejects.WithLabelValues(shortNames[i]).Inc()
		slog.Error("xDS: a proxy rejected a response", "node", s.proxy.ID, "type", shortNames[i], "error", request.ErrorDetail.Message)
		s.report(i, func(r *TypeReport) { r.Rejected++; r.Error = request.ErrorDetail.Message })
		t.pending = false
		return nil
	}
	if request.ResponseNonce != "" {
		s.report(i, func(r *TypeReport) { r.Acknowledged = r.Sent })
	}
	grown := hasNew(t.names, request.ResourceNames)
	t.names, t.pending = request.ResourceNames, false
	return s.push(i, t, t.nonce == "" || grown)
}

func hasNew(old, now []string) bool {
	had := map[string]bool{}
	for _, name := range old {
		had[name] = true
	}
	for _, name := range now {
		if !had[name] {
			return true
		}
	}
	return false
}

func (s *wholeStream) pushAll() error {
	s.pushed = s.target.Load().step
	for i, t := range s.state {
		if t != nil && !t.pending {
			if err := s.push(i, t, false); err != nil {
				return err
			}
		}
	}
	return nil
}

// named lists what a proxy holds of a type whole: all of it, or what it asked for by name.
func named(target *target, i int, names []string) []*envoy.Resource {
	var out []*envoy.Resource
	switch {
	case target.calls != nil:
		return target.calls.find(i, names)
	case i == nameIndex:
		return []*envoy.Resource{envoy.WholeNameTable(target.parts[i])}
	case i == clusterIndex || i == listenerIndex:
		each(target.parts[i], func(r *envoy.Resource) { out = append(out, r) })
		return out
	}
	for _, name := range names {
		if r, ok := get(target.parts[i], name); ok {
			out = append(out, r)
		}
	}
	if i == routeIndex {
		return wholeTables(target, out)
	}
	return out
}

// push sends all of a type if it differs from what was sent last, or if the proxy waits for an answer.
func (s *wholeStream) push(i int, t *wholeState, must bool) error {
	target := s.target.Load()
	resources := named(target, i, t.names)
	sum := sha256.New()
	bodies := make([]*anypb.Any, 0, len(resources))
	for _, r := range resources {
		sum.Write([]byte(r.Name + r.Version))
		bodies = append(bodies, r.Body)
	}
	version := hex.EncodeToString(sum.Sum(nil)[:8])
	if version == t.version && !must {
		return nil
	}
	s.nonce++
	t.nonce, t.version, t.pending = strconv.FormatUint(s.nonce, 10), version, true
	s.metrics.Pushes.WithLabelValues(shortNames[i]).Inc()
	s.report(i, func(r *TypeReport) { r.Sent = t.nonce; r.At = time.Now(); r.Resources = len(resources) })
	return s.send(&discovery.DiscoveryResponse{TypeUrl: typeURLs[i], VersionInfo: version, Nonce: t.nonce, Resources: bodies, ControlPlane: controlPlane})
}
