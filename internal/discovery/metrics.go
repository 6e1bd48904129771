package discovery

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/slipway-mesh/slipway/internal/discovery/resolve"
	"github.com/slipway-mesh/slipway/internal/discovery/source"
)

// metrics are those of the line from objects to views, with istiod's names where it has them.
type metrics struct {
	update             prometheus.Histogram
	services, problems prometheus.Gauge
	virtualServices    prometheus.Gauge
	events             *prometheus.CounterVec
	seen               map[source.Key]bool // VirtualServices
}

func newMetrics(registry prometheus.Registerer) *metrics {
	m := &metrics{
		update: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "pilot_pushcontext_init_seconds", Help: "Time to bring the mesh and all views up to date.",
			Buckets: []float64{.0005, .001, .005, .01, .05, .1, .5, 1, 5}}),
		services:        prometheus.NewGauge(prometheus.GaugeOpts{Name: "pilot_services", Help: "Hosts that the mesh knows."}),
		virtualServices: prometheus.NewGauge(prometheus.GaugeOpts{Name: "pilot_virt_services", Help: "VirtualServices that the mesh knows."}),
		problems:        prometheus.NewGauge(prometheus.GaugeOpts{Name: "pilot_config_problems", Help: "Mistakes in users' objects, as slipway analyze lists them."}),
		events:          prometheus.NewCounterVec(prometheus.CounterOpts{Name: "pilot_k8s_cfg_events", Help: "Objects that were added, changed or deleted, by kind."}, []string{"type", "event"}),
		seen:            map[source.Key]bool{},
	}
	registry.MustRegister(m.update, m.services, m.virtualServices, m.problems, m.events)
	return m
}

// show counts the changes and shows what is known after them. One goroutine calls it.
func (m *metrics) show(state *resolve.State, changes []source.Change) {
	for _, c := range changes {
		event := "update"
		if c.Object == nil {
			event = "delete"
		}
		m.events.WithLabelValues(c.Kind, event).Inc()
		if key := c.Key(); c.Kind == "VirtualService" {
			if m.seen[key] = true; c.Object == nil {
				delete(m.seen, key)
			}
		}
	}
	m.services.Set(float64(state.World.Services.Len()))
	m.virtualServices.Set(float64(len(m.seen)))
	m.problems.Set(float64(len(state.Problems())))
}
