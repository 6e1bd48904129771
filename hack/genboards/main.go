// Command genboards writes the Grafana boards of monitoring/dashboards. A table here is easier to read, and to change in
// one way, than a thousand lines of their JSON.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

type board struct {
	file, title string
	variables   []variable
	panels      []panel
}

// variable is a choice at the top of a board: the values of a label of a metric.
type variable struct{ name, query string }

// panel is a graph, or a single number where stat is set. Each query is followed by its legend.
type panel struct {
	title, unit string
	stat        bool
	queries     []string
}

func quantile(q, metric, by, where string) string {
	return fmt.Sprintf("histogram_quantile(%s, sum by (%s) (rate(%s_bucket{%s}[5m])))", q, by, metric, where)
}

const duration = "istio_request_duration_milliseconds"

// traffic are the panels of requests and connections of what the filter selects.
func traffic(filter, by, legend string) []panel {
	return []panel{
		{"Requests", "reqps", false, []string{fmt.Sprintf("sum by (%s, response_code) (rate(istio_requests_total{%s}[5m]))", by, filter), legend + " {{response_code}}"}},
		{"Success", "percentunit", false, []string{fmt.Sprintf(`sum by (%s) (rate(istio_requests_total{%s, response_code!~"5.."}[5m])) / sum by (%s) (rate(istio_requests_total{%s}[5m]))`, by, filter, by, filter), legend}},
		{"Duration", "ms", false, []string{quantile("0.5", duration, by+", le", filter), legend + " p50", quantile("0.99", duration, by+", le", filter), legend + " p99"}},
		{"Request size", "bytes", false, []string{quantile("0.99", "istio_request_bytes", by+", le", filter), legend + " p99"}},
		{"Response size", "bytes", false, []string{quantile("0.99", "istio_response_bytes", by+", le", filter), legend + " p99"}},
		{"Failures by flag", "reqps", false, []string{fmt.Sprintf(`sum by (%s, response_flags) (rate(istio_requests_total{%s, response_flags!="-"}[5m]))`, by, filter), legend + " {{response_flags}}"}},
		{"TCP bytes", "Bps", false, []string{fmt.Sprintf("sum by (%s) (rate(istio_tcp_sent_bytes_total{%s}[5m]))", by, filter), legend + " sent",
			fmt.Sprintf("sum by (%s) (rate(istio_tcp_received_bytes_total{%s}[5m]))", by, filter), legend + " received"}},
		{"TCP connections", "ops", false, []string{fmt.Sprintf("sum by (%s) (rate(istio_tcp_connections_opened_total{%s}[5m]))", by, filter), legend + " opened",
			fmt.Sprintf("sum by (%s) (rate(istio_tcp_connections_closed_total{%s}[5m]))", by, filter), legend + " closed"}},
	}
}

var boards = []board{
	{"mesh", "Slipway: mesh", nil, append([]panel{
		{"Requests", "reqps", true, []string{`sum(rate(istio_requests_total{reporter="destination"}[5m]))`, ""}},
		{"Success", "percentunit", true, []string{`sum(rate(istio_requests_total{reporter="destination", response_code!~"5.."}[5m])) / sum(rate(istio_requests_total{reporter="destination"}[5m]))`, ""}},
		{"Mutual TLS", "percentunit", true, []string{`sum(rate(istio_requests_total{reporter="destination", connection_security_policy="mutual_tls"}[5m])) / sum(rate(istio_requests_total{reporter="destination"}[5m]))`, ""}},
		{"Proxies", "none", true, []string{"sum(pilot_xds)", ""}},
	}, traffic(`reporter="destination"`, "destination_service", "{{destination_service}}")...)},
	{"service", "Slipway: service", []variable{{"service", "label_values(istio_requests_total, destination_service)"}},
		append(traffic(`reporter="destination", destination_service=~"$service"`, "destination_workload", "{{destination_workload}}"),
			panel{"Callers", "reqps", false, []string{`sum by (source_workload, source_workload_namespace) (rate(istio_requests_total{reporter="destination", destination_service=~"$service"}[5m]))`, "{{source_workload}}.{{source_workload_namespace}}"}})},
	{"workload", "Slipway: workload", []variable{{"namespace", "label_values(istio_requests_total, destination_workload_namespace)"}, {"workload", `label_values(istio_requests_total{destination_workload_namespace=~"$namespace"}, destination_workload)`}},
		append(traffic(`reporter="destination", destination_workload_namespace=~"$namespace", destination_workload=~"$workload"`, "destination_workload", "{{destination_workload}}"),
			panel{"Calls of others", "reqps", false, []string{`sum by (destination_service, response_code) (rate(istio_requests_total{reporter="source", source_workload_namespace=~"$namespace", source_workload=~"$workload"}[5m]))`, "{{destination_service}} {{response_code}}"}})},
	{"control-plane", "Slipway: control plane", nil, []panel{
		{"Proxies", "none", true, []string{"sum(pilot_xds)", ""}},
		{"Services", "none", true, []string{"max(pilot_services)", ""}},
		{"VirtualServices", "none", true, []string{"max(pilot_virt_services)", ""}},
		{"Mistakes in objects", "none", true, []string{"max(pilot_config_problems)", ""}},
		{"Time to proxies", "s", false, []string{quantile("0.5", "pilot_proxy_convergence_time", "le", ""), "p50", quantile("0.99", "pilot_proxy_convergence_time", "le", ""), "p99"}},
		{"Time to compute", "s", false, []string{quantile("0.99", "pilot_pushcontext_init_seconds", "le", ""), "p99"}},
		{"Responses", "ops", false, []string{"sum by (type) (rate(pilot_xds_pushes[5m]))", "{{type}}"}},
		{"Bytes sent", "Bps", false, []string{"sum by (type) (rate(pilot_xds_sent_bytes[5m]))", "{{type}}"}},
		{"Rejected", "ops", false, []string{"sum by (type) (rate(pilot_total_xds_rejects[5m]))", "{{type}}"}},
		{"Callers refused", "ops", false, []string{"sum(rate(pilot_xds_connections_refused[5m]))", ""}},
		{"Objects changed", "ops", false, []string{"sum by (type, event) (rate(pilot_k8s_cfg_events[5m]))", "{{type}} {{event}}"}},
		{"Objects validated", "ops", false, []string{"sum by (resource) (rate(galley_validation_passed[5m]))", "{{resource}} taken", "sum by (resource) (rate(galley_validation_failed[5m]))", "{{resource}} refused"}},
		{"Injection", "ops", false, []string{"sum(rate(sidecar_injection_success_total[5m]))", "injected", "sum(rate(sidecar_injection_skip_total[5m]))", "without a sidecar", "sum(rate(sidecar_injection_failure_total[5m]))", "failed"}},
		{"Certificates", "ops", false, []string{"sum(rate(citadel_server_csr_count[5m]))", "asked", "sum(rate(citadel_server_success_cert_issuance_count[5m]))", "signed", "sum(rate(citadel_server_authentication_failure_count[5m]))", "refused"}},
		{"Root certificate ends in", "s", true, []string{"min(citadel_server_root_cert_expiry_timestamp) - time()", ""}},
		{"Processor", "none", false, []string{`rate(process_cpu_seconds_total{app="istiod"}[5m])`, "{{pod}}"}},
		{"Memory", "bytes", false, []string{`process_resident_memory_bytes{app="istiod"}`, "{{pod}} resident", `go_memstats_heap_inuse_bytes{app="istiod"}`, "{{pod}} heap"}},
		{"Goroutines", "none", false, []string{`go_goroutines{app="istiod"}`, "{{pod}}"}},
	}},
	{"operator", "Slipway: operator", nil, []panel{
		{"IstioOperators", "none", false, []string{"sum by (namespace, name, status) (istio_install_operator_status)", "{{namespace}}/{{name}} {{status}}"}},
		{"In this state for", "s", false, []string{"time() - istio_install_operator_status_since_seconds", "{{namespace}}/{{name}}"}},
		{"Changed by others", "none", false, []string{"istio_install_operator_drifted_resources", "{{namespace}}/{{name}}"}},
		{"What was done", "ops", false, []string{"sum by (action) (rate(istio_install_operator_resource_changes_total[5m]))", "{{action}}"}},
		{"Specs refused", "ops", false, []string{"sum(rate(istio_install_operator_cr_validation_error_total[5m]))", ""}},
		{"Steps", "ops", false, []string{`sum by (result) (rate(controller_runtime_reconcile_total{controller="istiooperator"}[5m]))`, "{{result}}"}},
		{"Step errors", "ops", false, []string{`sum(rate(controller_runtime_reconcile_errors_total{controller="istiooperator"}[5m]))`, ""}},
		{"Step time", "s", false, []string{quantile("0.99", "controller_runtime_reconcile_time_seconds", "le", `controller="istiooperator"`), "p99"}},
		{"Queue", "none", false, []string{`workqueue_depth{name="istiooperator"}`, ""}},
		{"Processor", "none", false, []string{`rate(process_cpu_seconds_total{app="istio-operator"}[5m])`, "{{pod}}"}},
		{"Memory", "bytes", false, []string{`process_resident_memory_bytes{app="istio-operator"}`, "{{pod}}"}},
	}},
}

type object = map[string]any

func main() {
	for _, b := range boards {
		text, err := json.MarshalIndent(b.json(), "", " ")
		if err == nil {
			err = os.WriteFile(filepath.Join("monitoring/dashboards", b.file+".json"), append(text, '\n'), 0o644) //nolint:gosec // it is to be read
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "genboards:", err)
			os.Exit(1)
		}
	}
}

var source = object{"type": "prometheus", "uid": "${datasource}"}

func (b board) json() object {
	variables := []object{{"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"}}
	for _, v := range b.variables {
		variables = append(variables, object{"name": v.name, "type": "query", "datasource": source, "query": v.query, "definition": v.query, "refresh": 2, "includeAll": true, "multi": true})
	}
	var panels []object
	x, y := 0, 0
	for i, p := range b.panels {
		width, height, kind := 12, 8, "timeseries"
		if p.stat {
			width, height, kind = 6, 4, "stat"
		}
		if x+width > 24 {
			x, y = 0, y+height
		}
		panels = append(panels, object{"id": i + 1, "title": p.title, "type": kind, "datasource": source, "targets": targets(p.queries),
			"fieldConfig": object{"defaults": object{"unit": p.unit}, "overrides": []any{}}, "gridPos": object{"x": x, "y": y, "w": width, "h": height}})
		if x += width; x == 24 {
			x, y = 0, y+height
		}
	}
	return object{"uid": "slipway-" + b.file, "title": b.title, "tags": []string{"slipway", "istio"}, "schemaVersion": 39, "editable": true,
		"time": object{"from": "now-1h", "to": "now"}, "refresh": "30s", "templating": object{"list": variables}, "panels": panels}
}

func targets(queries []string) []object {
	var list []object
	for i := 0; i+1 < len(queries); i += 2 {
		list = append(list, object{"refId": string(rune('A' + i/2)), "datasource": source, "expr": queries[i], "legendFormat": queries[i+1]})
	}
	return list
}
