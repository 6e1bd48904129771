package agent

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
)

// TestProbes: what the kubelet asks the agent is what the application answers.
func TestProbes(t *testing.T) {
	var from, header, host string
	application := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		from, header, host = r.RemoteAddr, r.Header.Get("X-Probe"), r.Host
		switch r.URL.Path {
		case "/good":
			fmt.Fprint(w, "fine")
		case "/moved":
			http.Redirect(w, r, "/good", http.StatusFound)
		case "/away":
			http.Redirect(w, r, "http://elsewhere.test/", http.StatusFound)
		default:
			http.Error(w, "bad", http.StatusServiceUnavailable)
		}
	}))
	t.Cleanup(application.Close)
	secure := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "secret") }))
	t.Cleanup(secure.Close)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	checks := health.NewServer()
	checks.SetServingStatus("down", healthv1.HealthCheckResponse_NOT_SERVING)
	server := grpc.NewServer()
	healthv1.RegisterHealthServer(server, checks)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	port := func(address net.Addr) int { return address.(*net.TCPAddr).Port }
	web, tls, rpc := port(application.Listener.Addr()), port(secure.Listener.Addr()), port(listener.Addr())
	get := func(path string) string {
		return fmt.Sprintf(`{"httpGet": {"path": %q, "port": %d, "httpHeaders": [{"name": "Host", "value": "named.test"}]}}`, path, web)
	}
	o := Options{Environment: map[string]string{"ISTIO_KUBE_APP_PROBERS": "{" + strings.Join([]string{
		`"/app-health/good/readyz": ` + get("/good"), `"/app-health/bad/livez": ` + get("/bad"), `"/app-health/moved/startupz": ` + get("/moved"),
		`"/app-lifecycle/away/prestopz": ` + get("/away"), `"/app-health/tls/readyz": ` + fmt.Sprintf(`{"httpGet": {"path": "/", "port": %d, "scheme": "HTTPS"}}`, tls),
		`"/app-health/tcp/readyz": ` + fmt.Sprintf(`{"tcpSocket": {"port": %d}}`, web), `"/app-health/closed/readyz": {"tcpSocket": {"port": 1}}`,
		`"/app-health/rpc/readyz": ` + fmt.Sprintf(`{"grpc": {"port": %d, "service": null}}`, rpc),
		`"/app-health/down/readyz": ` + fmt.Sprintf(`{"grpc": {"port": %d, "service": "down"}}`, rpc),
		`"/anything": ` + get("/good")}, ",") + "}"}}
	agent := httptest.NewServer(o.probes().serve("127.0.0.1"))
	t.Cleanup(agent.Close)
	for path, want := range map[string]int{
		"/app-health/good/readyz": 200, "/app-health/bad/livez": 503, "/app-health/moved/startupz": 200, "/app-lifecycle/away/prestopz": 302,
		"/app-health/tls/readyz": 200, "/app-health/tcp/readyz": 200, "/app-health/closed/readyz": 500, "/app-health/rpc/readyz": 200, "/app-health/down/readyz": 500,
		"/app-health/unknown/readyz": 404, "/anything": 404,
	} {
		request, err := http.NewRequest(http.MethodGet, agent.URL+path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("X-Probe", "yes")
		client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
		response, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(response.Body)
		_ = response.Body.Close()
		if response.StatusCode != want {
			t.Errorf("%s: %d %s, not %d", path, response.StatusCode, body, want)
		}
		if path == "/app-health/good/readyz" && (string(body) != "fine" || !strings.HasPrefix(from, "127.0.0.6:") || header != "yes" || host != "named.test") {
			t.Errorf("the application was asked by %s with X-Probe %q for host %q, and answered %q", from, header, host, body)
		}
	}
}
