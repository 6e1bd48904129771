package controllers

import (
	"time"

	"github.com/slipway-mesh/slipway/api/v1alpha1"
	"github.com/slipway-mesh/slipway/internal/install/lifecycle"
)

// workloadNames is how many workloads a list in status names.
const workloadNames = 20

// labelInterval is how soon changed labels of namespaces and moved tags are seen: no event tells of them.
const labelInterval = 30 * time.Second

func workloadsStatus(restart lifecycle.Restart) *v1alpha1.WorkloadsStatus {
	first := func(names []string) []string { return names[:min(len(names), workloadNames)] }
	return &v1alpha1.WorkloadsStatus{Current: int32(restart.Current), Stale: int32(restart.Stale),
		Restarting: first(restart.Restarting), Waiting: first(restart.Waiting), Failed: first(restart.Failed)}
}

func workloadsInterval(restart lifecycle.Restart) time.Duration {
	if len(restart.Restarting) > 0 {
		return pollInterval
	}
	return labelInterval
}
