package xds

import (
	"google.golang.org/genproto/googleapis/rpc/status"
)

// healthType is of requests by which an agent tells of its workload's health: all is well, or what is in ErrorDetail. Nothing answers them.
const healthType = "type.googleapis.com/istio.v1.HealthInformation"

func (s *stream) noteHealth(problem *status.Status) {
	if s.registrar == nil {
		return
	}
	illness := problem.GetMessage()
	if problem != nil && illness == "" {
		illness = "the workload says no more"
	}
	s.registrar.Tell(s.proxy, illness)
}
