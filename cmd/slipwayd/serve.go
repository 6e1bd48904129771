package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	security "istio.io/api/security/v1alpha1"

	"github.com/slipway-mesh/slipway/internal/discovery/webhook"
	"github.com/slipway-mesh/slipway/internal/discovery/xds"
	"github.com/slipway-mesh/slipway/internal/identity"
	"github.com/slipway-mesh/slipway/internal/version"
)

// anonymous asks nobody who they are: on 15010 there is nothing secret.
type anonymous struct{}

func (anonymous) Authenticate(context.Context) (*xds.Identity, error) { return nil, nil }

// byToken takes a service account's token.
type byToken struct{ reviewer *identity.Reviewer }

func (b byToken) Authenticate(ctx context.Context) (*xds.Identity, error) {
	id, err := b.reviewer.Identify(ctx)
	if err != nil {
		return nil, err
	}
	return &xds.Identity{Namespace: id.Namespace, Account: id.Account}, nil
}

func (p *plane) grpcOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ForceServerCodecV2(xds.Codec{}), grpc.ReadBufferSize(8 << 10),
		grpc.MaxRecvMsgSize(64 << 20), grpc.MaxSendMsgSize(math.MaxInt32), grpc.MaxConcurrentStreams(100_000),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 10 * time.Second, MaxConnectionAge: p.options.maxConnectionAge, MaxConnectionAgeGrace: 10 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
	}
}

func (p *plane) servePlain(ctx context.Context) error {
	if p.options.grpcAddress == "" {
		return nil
	}
	server := grpc.NewServer(p.grpcOptions()...)
	p.engine.Server.Register(server, anonymous{})
	return serveGRPC(ctx, server, p.options.grpcAddress)
}

func (p *plane) serveSecure(ctx context.Context) error {
	transport := credentials.NewTLS(&tls.Config{GetCertificate: p.serving.Certificate, MinVersion: tls.VersionTLS12})
	server := grpc.NewServer(append(p.grpcOptions(), grpc.Creds(transport))...)
	p.engine.Server.Register(server, byToken{p.reviewer})
	security.RegisterIstioCertificateServiceServer(server, identity.NewService(p.authority, p.reviewer, p.registry))
	return serveGRPC(ctx, server, p.options.secureAddress)
}

func serveGRPC(ctx context.Context, server *grpc.Server, address string) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, server.Stop)
	defer stop()
	if err := server.Serve(listener); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("serve %s: %w", address, err)
	}
	return nil
}

func (p *plane) serveHTTP(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, _ *http.Request) {
		if !p.ready() {
			http.Error(w, "the mesh is not known yet", http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("GET /debug/syncz", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, p.engine.Server.Report()) })
	mux.HandleFunc("GET /debug/rejections", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, p.engine.Server.Quarantine.List()) })
	mux.HandleFunc("GET /debug/reach/{kind}/{namespace}/{name}", func(w http.ResponseWriter, r *http.Request) {
		reach, known := p.engine.Reach(r.PathValue("kind"), r.PathValue("namespace"), r.PathValue("name"))
		if !known {
			http.Error(w, "the object is not known", http.StatusNotFound)
			return
		}
		writeJSON(w, reach)
	})
	for path, profile := range map[string]http.HandlerFunc{"": pprof.Index, "profile": pprof.Profile, "trace": pprof.Trace, "symbol": pprof.Symbol} {
		mux.HandleFunc("GET /debug/pprof/"+path, onlyLocal(profile))
	}
	mux.HandleFunc("GET /debug/problems", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, p.engine.Problems()) })
	return serve(ctx, &http.Server{Addr: p.options.httpAddress, Handler: mux})
}

// onlyLocal answers those who are in the pod, or come through a forwarded port: a profile costs processor time.
func onlyLocal(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.RemoteAddr)
		if ip := net.ParseIP(host); err != nil || ip == nil || !ip.IsLoopback() {
			http.Error(w, "only through a forwarded port", http.StatusForbidden)
			return
		}
		next(w, r)
	}
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		slog.Warn("debug: cannot answer", "error", err)
	}
}

func (p *plane) serveMetrics(ctx context.Context) error {
	mux := http.NewServeMux()
	p.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "istio_build", Help: "1, with the version as a label.",
			ConstLabels: prometheus.Labels{"component": "pilot", "tag": version.Version}}, func() float64 { return 1 }))
	mux.Handle("GET /metrics", promhttp.HandlerFor(p.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /version", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, version.String()) })
	return serve(ctx, &http.Server{Addr: p.options.monitoring, Handler: mux})
}

func (p *plane) serveWebhooks(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.Handle("POST /inject", p.injector.webhook)
	mux.Handle("POST /inject/", p.injector.webhook)
	mux.Handle("POST /validate", webhook.NewValidator(p.resolve, p.engine.State, p.registry))
	server := &http.Server{Addr: p.options.webhooks, Handler: mux, TLSConfig: &tls.Config{GetCertificate: p.serving.Certificate, MinVersion: tls.VersionTLS12}}
	return serve(ctx, server)
}

func serve(ctx context.Context, server *http.Server) error {
	server.ReadHeaderTimeout = 10 * time.Second
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	run := server.ListenAndServe
	if server.TLSConfig != nil {
		run = func() error { return server.ListenAndServeTLS("", "") }
	}
	if err := run(); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve %s: %w", server.Addr, err)
	}
	return nil
}
