package controllers

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/slipway-mesh/slipway/api/v1alpha1"
	"github.com/slipway-mesh/slipway/internal/install/apply"
)

// Metrics are the operator's own, beside those of controller-runtime. The names are those of Istio's operator where it
// had one; there the counters of creations and updates were never raised.
type Metrics struct {
	refused                 prometheus.Counter
	changes                 *prometheus.CounterVec
	status, since, drifting *prometheus.GaugeVec
}

// NewMetrics registers the metrics.
func NewMetrics(registry prometheus.Registerer) *Metrics {
	m := &Metrics{
		refused: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "istio_install_operator_cr_validation_error_total", Help: "IstioOperators that were refused, at each look."}),
		changes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "istio_install_operator_resource_changes_total", Help: "What happened to installed objects: created, configured, corrected, drifted, pruned, kept."},
			[]string{"kind", "action"}),
		status: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "istio_install_operator_status", Help: "1 for the status that an IstioOperator is in."},
			[]string{"namespace", "name", "status"}),
		since: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "istio_install_operator_status_since_seconds", Help: "When an IstioOperator came into its status, in seconds since 1970."},
			[]string{"namespace", "name"}),
		drifting: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "istio_install_operator_drifted_resources", Help: "Installed objects that others changed and that were left so."},
			[]string{"namespace", "name"}),
	}
	registry.MustRegister(m.refused, m.changes, m.status, m.since, m.drifting)
	return m
}

// count counts what happened to objects.
func (m *Metrics) count(changes apply.ChangeSet) {
	for _, change := range changes {
		if change.Action != apply.Unchanged {
			m.changes.WithLabelValues(change.Ref.Kind, string(change.Action)).Inc()
		}
	}
}

// show shows a resource's status as gauges.
func (m *Metrics) show(resource *v1alpha1.IstioOperator, status v1alpha1.IstioOperatorStatus) {
	labels := prometheus.Labels{"namespace": resource.Namespace, "name": resource.Name}
	if resource.Status.Status != status.Status {
		m.status.DeletePartialMatch(labels)
		m.since.With(labels).SetToCurrentTime()
	}
	m.status.WithLabelValues(resource.Namespace, resource.Name, string(status.Status)).Set(1)
	m.drifting.With(labels).Set(float64(len(status.Drift)))
}

// forget removes the gauges of a resource that is gone.
func (m *Metrics) forget(namespace, name string) {
	labels := prometheus.Labels{"namespace": namespace, "name": name}
	for _, gauge := range []*prometheus.GaugeVec{m.status, m.since, m.drifting} {
		gauge.DeletePartialMatch(labels)
	}
}
