package identity

import (
	"context"
	"log/slog"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	security "istio.io/api/security/v1alpha1"
)

// Service answers Istio's certificate requests, istio.v1.auth.IstioCertificateService.
type Service struct {
	security.UnimplementedIstioCertificateServiceServer
	Authority *Authority
	Reviewer  *Reviewer
}

// CreateCertificate signs for whom the caller's token says, whatever the request says.
func (s *Service) CreateCertificate(ctx context.Context, request *security.IstioCertificateRequest) (*security.IstioCertificateResponse, error) {
	id, err := s.Reviewer.Identify(ctx)
	if err != nil {
		slog.Warn("certificate refused", "error", err)
		return nil, status.Error(codes.Unauthenticated, "request authenticate failure")
	}
	chain, err := s.Authority.Sign([]byte(request.Csr), id, workloadIn(request.Metadata), time.Duration(request.ValidityDuration)*time.Second, time.Now())
	if err != nil {
		slog.Warn("certificate refused", "identity", id.String(), "error", err)
		return nil, status.Errorf(codes.InvalidArgument, "%v", err)
	}
	return &security.IstioCertificateResponse{CertChain: chain}, nil
}
