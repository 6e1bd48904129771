package conformance

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authz "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	rpc "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
)

// serveAuthz decides about requests and connections, asked over HTTP or by gRPC.
func serveAuthz(listener net.Listener) {
	decides := grpc.NewServer()
	authz.RegisterAuthorizationServer(decides, decider{})
	server := &http.Server{ReadHeaderTimeout: time.Second, Protocols: &http.Protocols{}, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.Header.Get("content-type"), "application/grpc") {
			decides.ServeHTTP(w, r)
			return
		}
		decideHTTP(w, r)
	})}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	go func() { _ = server.Serve(listener) }()
}

// lets says whether a request may pass: one that says so in its header, its body, or before its path.
func lets(header, body, path string) bool {
	return header == "allow" || body == "allow" || strings.HasPrefix(path, "/check/")
}

func decideHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	if lets(r.Header.Get("x-ext"), string(body), r.URL.Path) {
		w.Header().Set("x-checked", "http")
		return
	}
	w.Header().Set("x-why", "http")
	w.WriteHeader(http.StatusForbidden)
}

type decider struct {
	authz.UnimplementedAuthorizationServer
}

// Check lets connections of the client's account pass.
func (decider) Check(_ context.Context, request *authz.CheckRequest) (*authz.CheckResponse, error) {
	header := func(name string) []*core.HeaderValueOption {
		return []*core.HeaderValueOption{{Header: &core.HeaderValue{Key: name, Value: "grpc"}}}
	}
	http := request.Attributes.GetRequest().GetHttp()
	if http == nil && strings.HasSuffix(request.Attributes.GetSource().GetPrincipal(), "/sa/client") || http != nil && lets(http.Headers["x-ext"], http.Body, "") {
		return &authz.CheckResponse{Status: &rpc.Status{Code: int32(codes.OK)}, HttpResponse: &authz.CheckResponse_OkResponse{OkResponse: &authz.OkHttpResponse{Headers: header("x-checked")}}}, nil
	}
	return &authz.CheckResponse{Status: &rpc.Status{Code: int32(codes.PermissionDenied)}, HttpResponse: &authz.CheckResponse_DeniedResponse{
		DeniedResponse: &authz.DeniedHttpResponse{Status: &typev3.HttpStatus{Code: typev3.StatusCode_Forbidden}, Headers: header("x-why")}}}, nil
}

// provided is a mesh with a provider, to which all for a path is left.
func provided(provider string) string {
	return meshConfig("{extensionProviders: [{name: ext, "+provider+"}]}") + authorization("{action: CUSTOM, provider: {name: ext}, rules: [{to: [{operation: {paths: [/guarded]}}]}]}")
}

func overHTTP(more string) string {
	return provided("envoyExtAuthzHttp: {service: legacy.default.svc.cluster.local, port: 8007" + more + "}")
}

func overGRPC(more string) string {
	return provided("envoyExtAuthzGrpc: {service: legacy.default.svc.cluster.local, port: 8011" + more + "}")
}

// posted sends a body with a request for what is guarded.
func posted(want int, body string) func(*mesh) error {
	return func(m *mesh) error {
		client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return m.pods.client.Dial(ctx, network, reviewsIP+":80")
		}}}
		response, err := client.Post("http://reviews/guarded", "text/plain", strings.NewReader(body))
		if err != nil {
			return err
		}
		_ = response.Body.Close()
		return expect(response.StatusCode == want, "%q is answered %s, not %d", body, response.Status, want)
	}
}

// carries looks at a header of the answer to a request, and at one that the application saw.
func carries(answer, seen, value string, headers ...string) func(*mesh) error {
	return func(m *mesh) error {
		response, got, err := m.from(m.pods.client, reviewsIP+":80", "reviews", "/guarded", headers...)
		if err != nil {
			return err
		}
		if answer != "" && response.Header.Get(answer) != value {
			return fmt.Errorf("the answer's headers are %v", response.Header)
		}
		return expect(seen == "" || got.Headers.Get(seen) == value, "the application saw %v", got.Headers)
	}
}

func externalAuthorizations() []feature {
	guarded := both(asked(200, "/open"), asked(403, "/guarded"), asked(200, "/guarded", "x-ext", "allow"))
	var out []feature
	add := func(name, with, without string, check func(*mesh) error) {
		out = append(out, feature{name: "AuthorizationPolicy CUSTOM " + name, proves: "AuthorizationPolicy.provider.name MeshConfig.extensionProviders", with: with, without: without, check: check})
	}
	const asks = ", includeRequestHeadersInCheck: [x-ext]"
	add("over HTTP", overHTTP(asks), overHTTP(""), guarded)
	add("by gRPC", overGRPC(""), overHTTP(""), guarded)
	add("by headers of an older name", overHTTP(", includeHeadersInCheck: [x-ext]"), overHTTP(""), guarded)
	add("with a header of its own", overHTTP(", includeAdditionalHeadersInCheck: {x-ext: allow}"), overHTTP(""), asked(200, "/guarded"))
	add("with a path of its own", overHTTP(", pathPrefix: /check"), overHTTP(""), asked(200, "/guarded"))
	add("headers to the application", overHTTP(asks+", headersToUpstreamOnAllow: [x-checked]"), overHTTP(asks), carries("", "x-checked", "http", "x-ext", "allow"))
	add("headers to the caller", overHTTP(asks+", headersToDownstreamOnAllow: [x-checked]"), overHTTP(asks), carries("x-checked", "", "http", "x-ext", "allow"))
	add("headers of a refusal", overHTTP(", headersToDownstreamOnDeny: [x-why]"), overHTTP(", headersToDownstreamOnDeny: [x-other]"), carries("x-why", "", "http"))
	add("headers by gRPC", overGRPC(""), overHTTP(asks), both(carries("", "x-checked", "grpc", "x-ext", "allow"), carries("x-why", "", "grpc")))
	lost := func(document string) string { return strings.Replace(document, "legacy.", "nowhere.", 1) }
	for name, over := range map[string]func(string) string{"over HTTP": overHTTP, "by gRPC": overGRPC} {
		add("with the body "+name, over(", includeRequestBodyInCheck: {maxRequestBytes: 1024}"), over(""), both(posted(200, "allow"), posted(403, "no")))
		add("with a part of the body "+name, over(", includeRequestBodyInCheck: {maxRequestBytes: 5, allowPartialMessage: true}"), over(", includeRequestBodyInCheck: {maxRequestBytes: 5}"), posted(200, "allowed"))
		add("that cannot be asked, "+name, lost(over(", statusOnError: \"502\"")), lost(over("")), asked(502, "/guarded"))
		add("that cannot be asked lets pass, "+name, lost(over(", failOpen: true")), lost(over("")), asked(200, "/guarded"))
	}
	connection := func(ports string) string {
		return meshConfig("{extensionProviders: [{name: ext, envoyExtAuthzGrpc: {service: legacy.default.svc.cluster.local, port: 8011}}]}") +
			authorization("{action: CUSTOM, provider: {name: ext}, rules: [{to: [{operation: {ports: [\""+ports+"\"]}}]}]}")
	}
	add("of connections", connection("9002"), connection("9009"), func(m *mesh) error {
		if got, err := m.tcpFrom(m.pods.client, reviewsIP+":9003", "hello"); err != nil || !strings.HasSuffix(got, "hello") {
			return fmt.Errorf("the client is answered %q: %w", got, err)
		}
		got, err := m.tcpFrom(m.pods.plain, m.pods.v1.Address+":9002", "hello")
		return expect(err != nil, "who has no certificate is answered %q", got)
	})
	return append(out, feature{name: "AuthorizationPolicy CUSTOM without its provider denies", proves: "AuthorizationPolicy.provider.name", check: both(asked(200, "/open"), asked(403, "/guarded")),
		with: authorization("{action: CUSTOM, provider: {name: ext}, rules: [{to: [{operation: {paths: [/guarded]}}]}]}")})
}
