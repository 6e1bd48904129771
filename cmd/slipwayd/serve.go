package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	security "istio.io/api/security/v1alpha1"

	"github.com/slipway-mesh/slipway/internal/discovery/page"
	"github.com/slipway-mesh/slipway/internal/discovery/webhook"
	"github.com/slipway-mesh/slipway/internal/discovery/xds"
	"github.com/slipway-mesh/slipway/internal/identity/ca"
	"github.com/slipway-mesh/slipway/internal/version"
)

// anonymous asks nobody who they are: on 15010 there is nothing secret.
type anonymous struct{}

func (anonymous) Authenticate(context.Context) (*xds.Identity, error) { return nil, nil }

// proved asks for a token or a certificate.
type proved struct{ callers *ca.Callers }

func (b proved) Authenticate(ctx context.Context) (*xds.Identity, error) {
	id, err := b.callers.OfRPC(ctx)
	if err != nil {
		return nil, err
	}
	return &xds.Identity{Namespace: id.Namespace, Account: id.Account}, nil
}

func (p *plane) grpcOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ForceServerCodecV2(xds.Codec{}),
		grpc.MaxRecvMsgSize(64 << 20), grpc.MaxSendMsgSize(math.MaxInt32), grpc.MaxConcurrentStreams(100_000),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 10 * time.Second, MaxConnectionAge: p.options.maxConnectionAge, MaxConnectionAgeGrace: 10 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
	}
}

func (p *plane) servePlain(ctx context.Context) error {
	if p.options.grpcAddress == "" {
		return nil
	}
	// gRPC takes a buffer to read from a plain connection from a pool, and only while something comes. One smaller than a frame would
	// make the connection keep the last frame.
	server := grpc.NewServer(append(p.grpcOptions(), grpc.ReadBufferSize(32<<10))...)
	p.engine.Server.Register(server, anonymous{})
	return p.serveGRPC(ctx, server, p.options.grpcAddress)
}

func (p *plane) serveSecure(ctx context.Context) error {
	transport := credentials.NewTLS(p.serverTLS())
	// Each connection over TLS has a buffer of its own.
	server := grpc.NewServer(append(p.grpcOptions(), grpc.Creds(transport), grpc.ReadBufferSize(8<<10))...)
	p.engine.Server.Register(server, proved{p.callers})
	security.RegisterIstioCertificateServiceServer(server, ca.NewService(p.callers, p.options.certificateRate, p.registry))
	return p.serveGRPC(ctx, server, p.options.secureAddress)
}

// serveGRPC serves until the context ends, and then while the streams are ended one by one.
func (p *plane) serveGRPC(ctx context.Context, server *grpc.Server, address string) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		<-ctx.Done()
		p.drain()
		server.Stop()
	}()
	err = server.Serve(p.patient(listener))
	if ctx.Err() != nil {
		<-ended
	}
	if err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("serve %s: %w", address, err)
	}
	return nil
}

// serverTLS is how others reach the control plane. Who they are is asked where it counts.
func (p *plane) serverTLS() *tls.Config {
	return p.options.compliance.Limit(&tls.Config{GetCertificate: p.serving.Certificate, ClientAuth: tls.RequestClientCert, MinVersion: tls.VersionTLS12})
}

// patient is a listener whose connections gRPC does not know to be TCP. It would let the kernel cut off every proxy that reads nothing for
// as long as a keep-alive may take, though that may be one whose node has no time for it: whoever is gone does not answer pings either.
// https://github.com/grpc/grpc-go/blob/master/internal/transport/http2_server.go sets TCP_USER_TIMEOUT.
func (*plane) patient(listener net.Listener) net.Listener { return patientListener{listener} }

type patientListener struct{ net.Listener }

func (l patientListener) Accept() (net.Conn, error) {
	connection, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return struct{ net.Conn }{connection}, nil
}

// drain ends the streams of all listeners, once.
func (p *plane) drain() {
	p.drainOnce.Do(func() {
		slog.Info("xDS: the streams are ended", "over", p.options.drain)
		p.engine.Server.Drain(context.Background(), p.options.drain)
	})
}

func (p *plane) serveHTTP(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, _ *http.Request) {
		if !p.ready() {
			http.Error(w, "the mesh is not known yet", http.StatusServiceUnavailable)
		}
	})
	mux.Handle("GET /debug/", p.guarded(p.debugRoutes()))
	shown := p.guarded(p.page())
	mux.Handle("GET "+page.Path, shown)
	mux.Handle("GET "+page.Path+"/", shown)
	return serve(ctx, &http.Server{Addr: p.options.httpAddress, Handler: mux})
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
	mux.Handle("GET /debug/", p.guarded(p.debugRoutes())) // for other replicas
	// The API server may show a certificate of an authority of its own: what one proves is looked at where it matters.
	server := &http.Server{Addr: p.options.webhooks, Handler: mux, TLSConfig: p.serverTLS()}
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
