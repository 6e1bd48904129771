package agent

import (
	"strings"
	"testing"

	"github.com/slipway-mesh/slipway/internal/identity"
)

func TestTranslateMetrics(t *testing.T) {
	peer := identity.Workload{Name: "reviews-v1", Service: "reviews", Revision: "v1"}.DNSName()
	series := func(subset, more string) string {
		return `{call="source~spiffe://cluster.local/ns/shop/sa/reviews~` + peer + "~outbound|80|" + subset + `|reviews.shop.svc.cluster.local~-~200~-"` + more + "} "
	}
	input := "# TYPE envoy_server_live gauge\nenvoy_server_live{} 1\n# TYPE envoy_slipway_requests_total counter\n" +
		"envoy_slipway_requests_total" + series("", "") + "3\n" +
		"envoy_slipway_requests_total" + series("v1", "") + "4\n" +
		"# TYPE envoy_slipway_request_bytes histogram\n" +
		"envoy_slipway_request_bytes_bucket" + series("", `,le="5"`) + "1\n" +
		"envoy_slipway_request_bytes_bucket" + series("", `,le="+Inf"`) + "3\n" +
		"envoy_slipway_request_bytes_bucket" + series("", `,le="0.5"`) + "0\n"
	var out strings.Builder
	s := self{Workload: identity.Workload{Name: "client", Service: "client", Revision: "latest"}, namespace: "default", principal: "spiffe://cluster.local/ns/default/sa/client", cluster: "Kubernetes"}
	if err := s.translate(&out, strings.NewReader(input)); err != nil {
		t.Fatal(err)
	}
	text := out.String()
	const want = `istio_requests_total{reporter="source",source_workload="client",source_canonical_service="client",source_canonical_revision="latest",source_workload_namespace="default",source_principal="spiffe://cluster.local/ns/default/sa/client",` +
		`source_app="client",source_version="latest",source_cluster="Kubernetes",destination_workload="reviews-v1",destination_workload_namespace="shop",destination_principal="spiffe://cluster.local/ns/shop/sa/reviews",` +
		`destination_app="reviews",destination_version="v1",destination_service="reviews.shop.svc.cluster.local",destination_canonical_service="reviews",destination_canonical_revision="v1",destination_service_name="reviews",` +
		`destination_service_namespace="shop",destination_cluster="Kubernetes",request_protocol="http",response_code="200",grpc_response_status="",response_flags="-",connection_security_policy="unknown"} 7`
	for _, line := range []string{"envoy_server_live{} 1\n", "# TYPE istio_requests_total counter\n", want + "\n", "# TYPE istio_request_bytes histogram\n"} {
		if !strings.Contains(text, line) {
			t.Errorf("%q is not in\n%s", line, text)
		}
	}
	low, middle, high := strings.Index(text, `le="0.5"`), strings.Index(text, `le="5"`), strings.Index(text, `le="+Inf"`)
	if low < 0 || low > middle || middle > high {
		t.Errorf("the buckets are not in order:\n%s", text)
	}
	if strings.Contains(text, "envoy_slipway") {
		t.Errorf("Envoy's own names are left:\n%s", text)
	}
}

// What is set is another label's value or a label more, what is taken away is none, and series that become one are added up.
func TestRelabel(t *testing.T) {
	const series = `envoy_slipway_requests_total{call="source~~~outbound|80||reviews.shop.svc.cluster.local~-~CODE~-",set_who="jason \"s\"~",set_role="a,le=\"1",set_request_protocol="-",drop="response_code,nothing"} `
	input := strings.Replace(series, "CODE", "200", 1) + "3\n" + strings.Replace(series, "CODE", "503", 1) + "4\n"
	var out strings.Builder
	if err := (self{}).translate(&out, strings.NewReader(input)); err != nil {
		t.Fatal(err)
	}
	text := out.String()
	for _, want := range []string{`role="a,le=\"1"`, `who="jason \"s\"~"`, `request_protocol="unknown"`, "} 7\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("%s is not in %s", want, text)
		}
	}
	if strings.Contains(text, "response_code=") || strings.Count(text, "istio_requests_total{") != 1 {
		t.Errorf("the label is left: %s", text)
	}
}
