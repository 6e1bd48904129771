package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"
)

// scrape is where the application's metrics are, as injection found it in the pod's annotations.
type scrape struct{ Scrape, Path, Port string }

// scrapeTimeout leaves Prometheus, which waits ten seconds by default, time for the rest.
const scrapeTimeout = 5 * time.Second

func (o Options) scrape() scrape {
	var out scrape
	text := o.Environment["ISTIO_PROMETHEUS_ANNOTATIONS"]
	if text == "" {
		return out
	}
	if err := json.Unmarshal([]byte(text), &out); err != nil {
		slog.Warn("metrics: ISTIO_PROMETHEUS_ANNOTATIONS cannot be read; the application's metrics are not merged", "error", err)
		return scrape{}
	}
	if out.Port == "" {
		out.Port = "80"
	}
	if out.Path == "" {
		out.Path = "/metrics"
	}
	return out
}

// copyTo adds the application's metrics. What cannot be had is left out and told of: the proxy's own are worth having without.
func (s scrape) copyTo(ctx context.Context, w io.Writer) {
	if s.Scrape != "true" {
		return
	}
	if err := s.get(ctx, w); err != nil {
		slog.Warn("metrics: the application's cannot be read", "port", s.Port, "path", s.Path, "error", err)
	}
}

func (s scrape) get(ctx context.Context, w io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, scrapeTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort("127.0.0.1", s.Port)+"/"+strings.TrimPrefix(s.Path, "/"), nil)
	if err != nil {
		return err
	}
	request.Header.Set("Accept", "text/plain;version=0.0.4") // one format, as parts of several would not make a whole
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("answered %s", response.Status)
	}
	buffered := bufio.NewWriter(w)
	if err := eachLine(response.Body, func(line []byte) error { return copyLine(buffered, line) }); err != nil {
		return err
	}
	return buffered.Flush()
}
