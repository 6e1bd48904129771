package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/slipway-mesh/slipway/internal/sidecar/dns"
)

// serveStatus offers readiness, merged metrics, draining and an end on the status port.
func serveStatus(ctx context.Context, o Options, s *secrets, names *dns.Server, e *envoy, quit func()) error {
	mux := http.NewServeMux()
	var wasReady atomic.Bool
	mux.HandleFunc("GET /healthz/ready", func(w http.ResponseWriter, r *http.Request) {
		if e.draining.Load() {
			http.Error(w, "draining", http.StatusServiceUnavailable)
			return
		}
		if wasReady.Load() {
			return
		}
		if reason := whyNotReady(r.Context(), o, s, names); reason != "" {
			http.Error(w, reason, http.StatusServiceUnavailable)
			return
		}
		wasReady.Store(true)
	})
	mux.HandleFunc("GET /stats/prometheus", mergedMetrics(o.self(), o.scrape()))
	mux.HandleFunc("GET /metrics", mergedMetrics(o.self(), o.scrape()))
	mux.HandleFunc("GET "+envoyMetrics, o.self().serveEnvoy("/stats/prometheus"))
	mux.HandleFunc("GET "+meshMetrics, o.self().serveEnvoy("/stats?format=prometheus&usedonly&type=Counters&filter=^slipway"))
	application := o.probes().serve(o.Environment["INSTANCE_IP"])
	mux.HandleFunc("GET /app-health/", application)
	mux.HandleFunc("GET /app-lifecycle/", application)
	mux.HandleFunc("GET /debug/ndsz", serveNames(names))
	mux.HandleFunc("POST /drain", local(func(w http.ResponseWriter, r *http.Request) {
		e.drain(r.Context())
		fmt.Fprintln(w, "draining")
	}))
	mux.HandleFunc("POST /quitquitquit", local(func(w http.ResponseWriter, _ *http.Request) { // a Job's last word
		fmt.Fprintln(w, "quitting")
		quit()
	}))
	server := &http.Server{Addr: ":" + strconv.Itoa(o.StatusPort), Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func whyNotReady(ctx context.Context, o Options, s *secrets, names *dns.Server) string {
	if certificate, _, err := s.state(); certificate == nil && !o.Served {
		if err != nil {
			return "no certificate yet: " + err.Error()
		}
		return "no certificate yet"
	}
	if names != nil && names.Waiting() {
		return "the control plane has told no names yet"
	}
	if o.NoEnvoy {
		return ""
	}
	return notReady(ctx)
}

// local lets only this pod's own processes in.
func local(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.RemoteAddr)
		if ip := net.ParseIP(host); err != nil || ip == nil || !ip.IsLoopback() {
			http.Error(w, "only requests from localhost are allowed", http.StatusForbidden)
			return
		}
		next(w, r)
	}
}

// envoyMetrics is where Envoy's own port for Prometheus leads.
const envoyMetrics = "/stats/envoy"

// meshMetrics has only what Envoy counts for the mesh, without histograms: who calls whom.
const meshMetrics = "/stats/mesh"

// serveEnvoy gives what Envoy counts, in the mesh's names.
func (s self) serveEnvoy(path string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), scrapeTimeout)
		defer cancel()
		response, err := askAdmin(ctx, http.MethodGet, path)
		if err != nil {
			http.Error(w, "Envoy's metrics: "+err.Error(), http.StatusServiceUnavailable)
			return
		}
		defer func() { _ = response.Body.Close() }()
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		if err := s.translate(w, response.Body); err != nil {
			slog.Debug("metrics: Envoy or whoever asked is gone", "error", err)
		}
	}
}

// mergedMetrics gives what Envoy counts, what the application does, and the agent's own.
func mergedMetrics(s self, application scrape) http.HandlerFunc {
	envoy := s.serveEnvoy("/stats/prometheus")
	return func(w http.ResponseWriter, r *http.Request) {
		envoy(w, r)
		application.copyTo(r.Context(), w)
		var memory runtime.MemStats
		runtime.ReadMemStats(&memory)
		fmt.Fprintf(w, "# TYPE istio_agent_go_memstats_sys_bytes gauge\nistio_agent_go_memstats_sys_bytes %d\n", memory.Sys)
		fmt.Fprintf(w, "# TYPE istio_agent_go_goroutines gauge\nistio_agent_go_goroutines %d\n", runtime.NumGoroutine())
	}
}
