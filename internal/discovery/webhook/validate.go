// Package webhook answers admission reviews of mesh objects with what resolve says is wrong with them. What can never work
// is refused; the rest is warned of.
package webhook

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	admission "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/slipway-mesh/slipway/internal/discovery/resolve"
	"github.com/slipway-mesh/slipway/internal/discovery/source"
)

// maxReview is the largest review that is read, in bytes.
const maxReview = 10 << 20

// Validator answers reviews.
type Validator struct {
	Options resolve.Options
	// State is what else there is; nil while that is not known.
	State func() *resolve.State
	// Istio's names: galley was the part that did this.
	passed, failed, malformed *prometheus.CounterVec
}

// NewValidator registers its metrics.
func NewValidator(options resolve.Options, state func() *resolve.State, registry prometheus.Registerer) *Validator {
	v := &Validator{Options: options, State: state,
		passed:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "galley_validation_passed", Help: "Objects that were taken."}, []string{"group", "version", "resource"}),
		failed:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "galley_validation_failed", Help: "Objects that were refused."}, []string{"group", "version", "resource"}),
		malformed: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "galley_validation_http_error", Help: "Requests that are no reviews, by the status that they are answered with."}, []string{"status"}),
	}
	registry.MustRegister(v.passed, v.failed, v.malformed)
	return v
}

// ServeHTTP answers one review.
func (v *Validator) ServeHTTP(out http.ResponseWriter, request *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(out, request.Body, maxReview))
	review := admission.AdmissionReview{}
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		v.misread(out, fmt.Sprintf("a review of more than %d bytes is not read", tooLarge.Limit), http.StatusRequestEntityTooLarge)
		return
	case err != nil || json.Unmarshal(body, &review) != nil || review.Request == nil:
		v.misread(out, "the body is not an AdmissionReview", http.StatusBadRequest)
		return
	}
	answer := admission.AdmissionReview{TypeMeta: review.TypeMeta, Response: v.review(review.Request)}
	answer.Response.UID = review.Request.UID
	count := v.failed
	if answer.Response.Allowed {
		count = v.passed
	}
	asked := review.Request.Resource
	count.WithLabelValues(asked.Group, asked.Version, asked.Resource).Inc()
	out.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(out).Encode(answer); err != nil {
		slog.Warn("validate: cannot answer", "error", err)
	}
}

func (v *Validator) misread(out http.ResponseWriter, why string, status int) {
	v.malformed.WithLabelValues(strconv.Itoa(status)).Inc()
	http.Error(out, why, status)
}

// check looks at the object by itself, and among the others where they are known.
func (v *Validator) check(request *admission.AdmissionRequest, object any) []resolve.Problem {
	if v.State != nil {
		if state := v.State(); state != nil {
			return resolve.CheckIn(state, request.Kind.Kind, request.Namespace, request.Name, object)
		}
	}
	return resolve.Check(v.Options, request.Kind.Kind, request.Namespace, request.Name, object)
}

func (v *Validator) review(request *admission.AdmissionRequest) *admission.AdmissionResponse {
	if source.NewObject(request.Kind.Kind) == nil { // the schema's business alone
		return &admission.AdmissionResponse{Allowed: true}
	}
	object, err := source.Decode(request.Kind.Kind, request.Object.Raw)
	if err != nil {
		return refused(fmt.Sprintf("cannot be read: %v", err))
	}
	response := &admission.AdmissionResponse{Allowed: true}
	var refusals []string
	for _, problem := range v.check(request, object) {
		line := problem.Field + ": " + problem.Message
		if problem.Refuse {
			refusals = append(refusals, line)
		} else {
			response.Warnings = append(response.Warnings, line)
		}
	}
	if len(refusals) > 0 {
		return refused(strings.Join(refusals, "; "))
	}
	return response
}

func refused(message string) *admission.AdmissionResponse {
	return &admission.AdmissionResponse{Result: &metav1.Status{Message: "configuration is invalid: " + message, Reason: metav1.StatusReasonInvalid, Code: http.StatusUnprocessableEntity}}
}
