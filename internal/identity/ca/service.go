package ca

import (
	"context"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	security "istio.io/api/security/v1alpha1"

	"github.com/slipway-mesh/slipway/internal/identity"
)

// Service answers Istio's certificate requests, istio.v1.auth.IstioCertificateService.
type Service struct {
	security.UnimplementedIstioCertificateServiceServer
	callers *Callers
	limiter *limiter
	metrics *metrics
}

// metrics have istiod's names.
type metrics struct{ asked, signed, unknown, mistaken, limited prometheus.Counter }

// NewService registers its metrics, and those of the root. No identity gets more certificates than perSecond, but for ten seconds' worth
// at once; 0 is no limit.
func NewService(callers *Callers, perSecond float64, registry prometheus.Registerer) *Service {
	counter := func(name, help string) prometheus.Counter {
		made := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
		registry.MustRegister(made)
		return made
	}
	registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "citadel_server_root_cert_expiry_timestamp", Help: "When the root certificate ends, in seconds since 1970."},
		func() float64 { return float64(callers.Authorities.Current().RootEnds().Unix()) }))
	return &Service{callers: callers, limiter: newLimiter(perSecond), metrics: &metrics{
		asked:    counter("citadel_server_csr_count", "Certificates that were asked for."),
		signed:   counter("citadel_server_success_cert_issuance_count", "Certificates that were signed."),
		unknown:  counter("citadel_server_authentication_failure_count", "Requests whose caller was not who it said."),
		limited:  counter("citadel_server_rate_limited_count", "Requests of identities that ask for too many certificates."),
		mistaken: counter("citadel_server_csr_parsing_err_count", "Requests that could not be signed."),
	}}
}

// CreateCertificate signs for who the caller is, whatever the request says.
func (s *Service) CreateCertificate(ctx context.Context, request *security.IstioCertificateRequest) (*security.IstioCertificateResponse, error) {
	s.metrics.asked.Inc()
	id, err := s.callers.OfRPC(ctx)
	if err != nil {
		s.metrics.unknown.Inc()
		slog.Warn("certificate refused", "error", err)
		return nil, status.Error(codes.Unauthenticated, "request authenticate failure")
	}
	if !s.limiter.allows(id) {
		s.metrics.limited.Inc()
		return nil, status.Errorf(codes.ResourceExhausted, "%s asks for too many certificates; try again later", id)
	}
	chain, err := s.callers.Authorities.Current().Sign([]byte(request.Csr), id, identity.WorkloadIn(request.Metadata), time.Duration(request.ValidityDuration)*time.Second, time.Now())
	if err != nil {
		s.metrics.mistaken.Inc()
		slog.Warn("certificate refused", "identity", id.String(), "error", err)
		return nil, status.Errorf(codes.InvalidArgument, "%v", err)
	}
	s.metrics.signed.Inc()
	return &security.IstioCertificateResponse{CertChain: chain}, nil
}
