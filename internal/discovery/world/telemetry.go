package world

import (
	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
)

// Telemetry returns what a namespace's Telemetry for all its workloads says; of several the oldest counts, and nil is none.
func (w *World) Telemetry(namespace string) *mesh.Telemetry {
	return w.oldestTelemetry(namespace, func(t *mesh.Telemetry) bool { return len(t.Selector) == 0 })
}

// TelemetriesOf returns what speaks of a workload beside the root namespace's, the narrowest last.
func (w *World) TelemetriesOf(namespace string, labels map[string]string) []*mesh.Telemetry {
	if w.Telemetries.Len() == 0 {
		return nil
	}
	var out []*mesh.Telemetry
	if t := w.Telemetry(namespace); t != nil && namespace != w.Config.RootNamespace {
		out = append(out, t)
	}
	if t := w.oldestTelemetry(namespace, func(t *mesh.Telemetry) bool {
		return len(t.Selector) > 0 && mesh.MatchesLabels(t.Selector, labels)
	}); t != nil {
		out = append(out, t)
	}
	return out
}

func (w *World) oldestTelemetry(namespace string, is func(*mesh.Telemetry) bool) *mesh.Telemetry {
	var oldest *mesh.Telemetry
	for _, t := range Below(w.Telemetries, namespace) {
		if is(t) && (oldest == nil || older(t.Created, t.Owner, oldest.Created, oldest.Owner)) {
			oldest = t
		}
	}
	return oldest
}

// HasService says whether some namespace has a service with a port that a provider's name means.
func (w *World) HasService(service string, port uint32) bool {
	for _, s := range Below(w.Services, mesh.ProviderHost(service)) {
		if _, ok := s.PortByNumber(port); ok {
			return true
		}
	}
	return false
}
