package xds

import "github.com/prometheus/client_golang/prometheus"

// Metrics have istiod's names where dashboards read them.
type Metrics struct {
	Streams prometheus.Gauge
	Pushes  *prometheus.CounterVec
	Rejects *prometheus.CounterVec
	Refused prometheus.Counter
	// Rollbacks counts types of streams; see noteRollback.
	Rollbacks prometheus.Counter
	Bytes     *prometheus.CounterVec
	// Converged is the time from a change to a proxy's acknowledgement of all that the change made for it.
	Converged prometheus.Histogram
}

// NewMetrics registers the metrics.
func NewMetrics(registry prometheus.Registerer) *Metrics {
	m := &Metrics{
		Streams:   prometheus.NewGauge(prometheus.GaugeOpts{Name: "pilot_xds", Help: "Proxies connected by xDS."}),
		Pushes:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "pilot_xds_pushes", Help: "Responses sent, by type."}, []string{"type"}),
		Rejects:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "pilot_total_xds_rejects", Help: "Responses that proxies rejected, by type."}, []string{"type"}),
		Refused:   prometheus.NewCounter(prometheus.CounterOpts{Name: "pilot_xds_connections_refused", Help: "Streams whose caller was not who it said."}),
		Rollbacks: prometheus.NewCounter(prometheus.CounterOpts{Name: "pilot_xds_rollbacks", Help: "Proxies that came from a replica that was ahead, and were sent an older state meanwhile."}),
		Converged: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "pilot_proxy_convergence_time", Help: "Seconds from a change to a proxy's acknowledgement of it, or from its connection.",
			Buckets: []float64{.01, .025, .05, .1, .25, .5, 1, 3, 5, 10, 20, 30}}),
		Bytes: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "pilot_xds_sent_bytes", Help: "Resource bytes sent, by type."}, []string{"type"}),
	}
	registry.MustRegister(m.Streams, m.Pushes, m.Rejects, m.Refused, m.Rollbacks, m.Bytes, m.Converged)
	for _, name := range append(shortNames[:], "sds", "pcds") { // what never happened is 0, and not unknown
		m.Rejects.WithLabelValues(name)
	}
	return m
}

var shortNames = [typeCount]string{"cds", "eds", "lds", "rds", "vhds", "nds", "ecds"}
