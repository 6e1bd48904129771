// Command bookinfo is Istio's Bookinfo application in one program: bookinfo PART VERSION runs one of productpage,
// details, reviews and ratings on port 9080.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"time"
)

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: bookinfo productpage|details|reviews|ratings VERSION")
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) { answer(w, map[string]string{"status": "healthy"}) })
	switch part, version := os.Args[1], os.Args[2]; part {
	case "productpage":
		(&productpage{}).routes(mux)
	case "details":
		mux.HandleFunc("GET /details/{id}", details)
	case "reviews":
		mux.HandleFunc("GET /reviews/{id}", reviews(version))
	case "ratings":
		mux.HandleFunc("GET /ratings/{id}", ratings)
	default:
		log.Fatalf("unknown part %q", part)
	}
	server := &http.Server{Addr: ":9080", Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	log.Printf("%s %s listens on :9080", os.Args[1], os.Args[2])
	log.Fatal(server.ListenAndServe())
}

// passedOn are the headers that a service hands to those that it calls: who the user is, and the trace.
var passedOn = []string{"end-user", "user-agent", "x-request-id", "x-b3-traceid", "x-b3-spanid", "x-b3-parentspanid", "x-b3-sampled", "x-b3-flags",
	"x-ot-span-context", "traceparent", "tracestate", "baggage", "x-datadog-trace-id", "x-datadog-parent-id", "x-datadog-sampling-priority", "cookie", "authorization", "jwt"}

var client = &http.Client{Timeout: 10 * time.Second}

// call asks another service, and passes the caller's headers on.
func call(from *http.Request, endUser, url string, into any) (int, error) {
	request, err := http.NewRequestWithContext(from.Context(), http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	for _, name := range passedOn {
		if value := from.Header.Get(name); value != "" {
			request.Header.Set(name, value)
		}
	}
	if endUser != "" {
		request.Header.Set("end-user", endUser)
	}
	response, err := client.Do(request)
	if err != nil {
		return http.StatusServiceUnavailable, err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return http.StatusServiceUnavailable, err
	}
	if response.StatusCode != http.StatusOK {
		return response.StatusCode, errors.New(string(body))
	}
	return http.StatusOK, json.Unmarshal(body, into)
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

// host is where a service is: Bookinfo's own variables may say elsewhere.
func host(service string) string {
	name, domain := service, os.Getenv("SERVICES_DOMAIN")
	if own := os.Getenv(map[string]string{"details": "DETAILS_HOSTNAME", "reviews": "REVIEWS_HOSTNAME", "ratings": "RATINGS_HOSTNAME"}[service]); own != "" {
		name = own
	}
	if domain != "" {
		name += "." + domain
	}
	return fmt.Sprintf("http://%s:9080", name)
}
