package inject

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"gomodules.xyz/jsonpatch/v2"
	admission "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// maxReview is the largest admission review that is read, in bytes: three times what the API server takes.
const maxReview = 10 << 20

// Webhook answers admission reviews of new pods.
type Webhook struct {
	// Config returns the configuration in force; nil before it has been read.
	Config func() *Config
	Native func() bool
	// Revision and Compliance are told to every proxy; see Request.
	Revision, Compliance string
	results              *prometheus.CounterVec
	// Istio's dashboards read a counter of each result.
	injected, skipped, failed prometheus.Counter
	answers                   answers
}

// NewWebhook registers its metrics.
func NewWebhook(config func() *Config, native func() bool, registry prometheus.Registerer) *Webhook {
	results := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "sidecar_injection_requests_total", Help: "Admission reviews of pods, by result."}, []string{"result"})
	w := &Webhook{Config: config, Native: native, results: results,
		injected: prometheus.NewCounter(prometheus.CounterOpts{Name: "sidecar_injection_success_total", Help: "Pods that got a sidecar."}),
		skipped:  prometheus.NewCounter(prometheus.CounterOpts{Name: "sidecar_injection_skip_total", Help: "Pods that are to have no sidecar."}),
		failed:   prometheus.NewCounter(prometheus.CounterOpts{Name: "sidecar_injection_failure_total", Help: "Pods that should have got a sidecar and were refused."})}
	registry.MustRegister(results, w.injected, w.skipped, w.failed)
	return w
}

// failure counts a review that failed and answers it.
func (w *Webhook) failure(err error) *admission.AdmissionResponse {
	w.results.WithLabelValues("error").Inc()
	w.failed.Inc()
	return denied(err)
}

// ServeHTTP answers a review in kind.
func (w *Webhook) ServeHTTP(out http.ResponseWriter, request *http.Request) {
	if request.Header.Get("Content-Type") != "application/json" {
		w.results.WithLabelValues("malformed").Inc()
		http.Error(out, "invalid Content-Type, want `application/json`", http.StatusUnsupportedMediaType)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(out, request.Body, maxReview))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		w.results.WithLabelValues("malformed").Inc()
		http.Error(out, fmt.Sprintf("a review of more than %d bytes is not read", tooLarge.Limit), http.StatusRequestEntityTooLarge)
		return
	case err != nil || len(body) == 0:
		w.results.WithLabelValues("malformed").Inc()
		http.Error(out, "no body found", http.StatusBadRequest)
		return
	}
	review := admission.AdmissionReview{}
	answer := admission.AdmissionReview{TypeMeta: metav1.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"}}
	err = json.Unmarshal(body, &review)
	if err == nil && review.Request == nil {
		err = errors.New("there is no request in it")
	}
	if err != nil {
		w.results.WithLabelValues("malformed").Inc()
		answer.Response = denied(fmt.Errorf("could not decode body: %w", err))
	} else {
		answer.TypeMeta = review.TypeMeta
		answer.Response = w.review(review.Request)
		answer.Response.UID = review.Request.UID
	}
	out.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(out).Encode(answer); err != nil {
		slog.Warn("inject: cannot answer", "error", err)
	}
}

func denied(err error) *admission.AdmissionResponse {
	return &admission.AdmissionResponse{Result: &metav1.Status{Message: err.Error()}}
}

func (w *Webhook) review(request *admission.AdmissionRequest) *admission.AdmissionResponse {
	config, native := w.Config(), w.Native()
	if config == nil {
		return w.failure(fmt.Errorf("the injector's configuration is not there yet"))
	}
	key := keyOf(config, native, request)
	if answer := w.answers.get(key); answer != nil {
		return w.success(answer)
	}
	pod := &corev1.Pod{}
	if err := json.Unmarshal(request.Object.Raw, pod); err != nil {
		return w.failure(fmt.Errorf("read the pod: %w", err))
	}
	if wanted, why := Wanted(config, pod, request.Namespace); !wanted {
		w.results.WithLabelValues("skipped").Inc()
		w.skipped.Inc()
		return &admission.AdmissionResponse{Allowed: true, Warnings: []string{"istio: no sidecar is injected: " + why}}
	}
	answer, err := w.inject(config, pod, native, request.Namespace)
	if err != nil {
		slog.Error("inject: failed", "namespace", request.Namespace, "pod", pod.GenerateName+pod.Name, "error", err)
		return w.failure(err)
	}
	w.answers.put(key, answer)
	return w.success(answer)
}

// success counts a review whose pod gets a sidecar. The answer stays as it is for the next pod that is alike.
func (w *Webhook) success(answer *admission.AdmissionResponse) *admission.AdmissionResponse {
	w.results.WithLabelValues("injected").Inc()
	w.injected.Inc()
	out := *answer
	return &out
}

func (w *Webhook) inject(config *Config, pod *corev1.Pod, native bool, namespace string) (*admission.AdmissionResponse, error) {
	injected, err := Pod(config, Request{Pod: pod, Namespace: namespace, Revision: w.Revision, Native: native, Compliance: w.Compliance})
	if err != nil {
		return nil, err
	}
	patch, err := difference(pod, injected)
	if err != nil {
		return nil, err
	}
	kind := admission.PatchTypeJSONPatch
	return &admission.AdmissionResponse{Allowed: true, Patch: patch, PatchType: &kind, Warnings: told(Warnings(pod))}, nil
}

// told marks warnings as the mesh's: kubectl prints those of all webhooks alike.
func told(warnings []string) []string {
	for i := range warnings {
		warnings[i] = "istio: " + warnings[i]
	}
	return warnings
}

// difference is the JSON patch from a pod to another. Both are written by Go's type: what that adds to an empty pod is no change.
func difference(before, after *corev1.Pod) ([]byte, error) {
	was, err := json.Marshal(before)
	if err != nil {
		return nil, err
	}
	is, err := json.Marshal(after)
	if err != nil {
		return nil, err
	}
	operations, err := jsonpatch.CreatePatch(was, is)
	if err != nil {
		return nil, err
	}
	return json.Marshal(operations)
}
