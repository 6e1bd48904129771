package xds

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// errDraining ends a stream whose replica goes: its proxy connects to another one.
var errDraining = status.Error(codes.Unavailable, "this replica of the control plane ends; connect anew")

// Drain ends the streams of a replica that goes, spread over some time, so that the others are not asked for everything at once. New
// streams are refused from now on. It returns when all are ended, or with the context.
func (s *Server) Drain(ctx context.Context, over time.Duration) {
	s.draining.Store(true)
	s.mu.Lock()
	all := make([]*stream, 0, len(s.streams))
	for st := range s.streams {
		all = append(all, st)
	}
	s.mu.Unlock()
	if len(all) == 0 {
		return
	}
	ticker := time.NewTicker(max(over/time.Duration(len(all)), time.Microsecond))
	defer ticker.Stop()
	for _, st := range all {
		close(st.drained)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}
