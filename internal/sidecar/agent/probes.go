package agent

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	health "google.golang.org/grpc/health/grpc_health_v1"
)

// probes answers the kubelet in the application's place: injection led its questions here, and wrote down what they were.
type probes map[string]prober

// prober is one question, as Kubernetes' API writes it.
type prober struct {
	HTTPGet *struct {
		Path, Host, Scheme string
		Port               int
		HTTPHeaders        []struct{ Name, Value string }
	}
	TCPSocket *struct {
		Host string
		Port int
	}
	GRPC *struct {
		Port    int
		Service *string
	}
	TimeoutSeconds int
}

// probePath is what a question may be asked at.
var probePath = regexp.MustCompile(`^/(app-health|app-lifecycle)/[^/]+/(livez|readyz|startupz|prestopz|poststartz)$`)

const (
	maxProbeBody  = 10 << 10 // what the kubelet reads
	maxRedirects  = 10
	passthroughIP = "127.0.0.6" // what comes from here is not captured on its way to the application
)

func (o Options) probes() probes {
	text := o.Environment["ISTIO_KUBE_APP_PROBERS"]
	if text == "" {
		return nil
	}
	var out probes
	if err := json.Unmarshal([]byte(text), &out); err != nil {
		slog.Error("probes: ISTIO_KUBE_APP_PROBERS cannot be read; the application will not be found healthy", "error", err)
		return nil
	}
	for path := range out {
		if !probePath.MatchString(path) {
			slog.Warn("probes: a path of ISTIO_KUBE_APP_PROBERS is not one that is asked", "path", path)
			delete(out, path)
		}
	}
	return out
}

// serve asks the application at the pod's address what the request's path stands for.
func (p probes) serve(address string) http.HandlerFunc {
	address = cmp.Or(address, "127.0.0.1")
	return func(w http.ResponseWriter, r *http.Request) {
		asked, known := p[r.URL.Path]
		if !known {
			http.NotFound(w, r)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), time.Duration(max(asked.TimeoutSeconds, 1))*time.Second)
		defer cancel()
		var err error
		switch {
		case asked.HTTPGet != nil:
			err = asked.get(ctx, address, w, r)
		case asked.TCPSocket != nil:
			err = connects(ctx, cmp.Or(asked.TCPSocket.Host, address), asked.TCPSocket.Port)
		case asked.GRPC != nil:
			err = asked.serving(ctx, address)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	}
}

// dialApplication dials without being captured.
func dialApplication(ctx context.Context, network, address string) (net.Conn, error) {
	dialer := &net.Dialer{}
	if host, _, err := net.SplitHostPort(address); err == nil && net.ParseIP(host).To4() != nil {
		dialer.LocalAddr = &net.TCPAddr{IP: net.ParseIP(passthroughIP)}
	}
	return dialer.DialContext(ctx, network, address)
}

// get asks over HTTP and passes the answer on.
func (p prober) get(ctx context.Context, address string, w http.ResponseWriter, r *http.Request) error {
	response, err := p.fetch(ctx, address, r.Header.Clone())
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	w.WriteHeader(response.StatusCode)
	_, _ = io.Copy(w, io.LimitReader(response.Body, maxProbeBody)) // the kubelet may have gone
	return nil
}

// fetch asks over HTTP. As of the kubelet's own questions, certificates are not checked, and a redirect to another host is a good answer.
func (p prober) fetch(ctx context.Context, address string, header http.Header) (*http.Response, error) {
	asked := p.HTTPGet
	scheme := strings.ToLower(cmp.Or(asked.Scheme, "http"))
	target := scheme + "://" + net.JoinHostPort(cmp.Or(asked.Host, address), strconv.Itoa(asked.Port)) + "/" + strings.TrimPrefix(asked.Path, "/")
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target, http.NoBody)
	if err != nil {
		return nil, err
	}
	request.Header = header
	for _, header := range asked.HTTPHeaders {
		if strings.EqualFold(header.Name, "host") {
			request.Host = header.Value
		}
	}
	client := http.Client{
		Transport: &http.Transport{DialContext: dialApplication, DisableKeepAlives: true, ForceAttemptHTTP2: true,
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}, //nolint:gosec // the kubelet does not check either
		CheckRedirect: func(next *http.Request, via []*http.Request) error {
			if next.URL.Hostname() != via[0].URL.Hostname() || len(via) >= maxRedirects {
				return http.ErrUseLastResponse
			}
			return nil
		},
	}
	return client.Do(request)
}

func connects(ctx context.Context, host string, port int) error {
	connection, err := dialApplication(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return err
	}
	return connection.Close()
}

// serving asks by gRPC's health protocol.
func (p prober) serving(ctx context.Context, address string) error {
	dial := func(ctx context.Context, target string) (net.Conn, error) { return dialApplication(ctx, "tcp", target) }
	connection, err := grpc.NewClient("passthrough:///"+net.JoinHostPort(address, strconv.Itoa(p.GRPC.Port)), grpc.WithContextDialer(dial),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithUserAgent("kube-probe"))
	if err != nil {
		return err
	}
	defer func() { _ = connection.Close() }()
	request := &health.HealthCheckRequest{}
	if p.GRPC.Service != nil {
		request.Service = *p.GRPC.Service
	}
	answer, err := health.NewHealthClient(connection).Check(ctx, request)
	if err != nil {
		return err
	}
	if answer.Status != health.HealthCheckResponse_SERVING {
		return fmt.Errorf("it says %s", answer.Status)
	}
	return nil
}
