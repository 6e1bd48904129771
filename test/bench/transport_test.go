//go:build bench

package bench

import (
	"context"
	"crypto/tls"
	"fmt"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	authentication "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

func plainly(*sidecar) []grpc.DialOption {
	return []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}
}

// identified makes an account and a token for each namespace, by which its sidecars connect over TLS. They do not look at who the
// server is: that would cost the clients.
func (b *bench) identified(t *testing.T, services int) func(*sidecar) []grpc.DialOption {
	t.Helper()
	tokens := map[string]bearer{}
	for s := 0; s < services; s += perNamespace {
		account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespaceOf(s), Name: "default"}}
		if err := b.kube.Client.Create(t.Context(), account); client.IgnoreAlreadyExists(err) != nil {
			t.Fatal(err)
		}
		request := &authentication.TokenRequest{Spec: authentication.TokenRequestSpec{Audiences: []string{"istio-ca"}}}
		if err := b.kube.Client.SubResource("token").Create(t.Context(), account, request); err != nil {
			t.Fatal(err)
		}
		tokens[namespaceOf(s)] = bearer(request.Status.Token)
	}
	secure := grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}))
	return func(c *sidecar) []grpc.DialOption {
		return []grpc.DialOption{secure, grpc.WithPerRPCCredentials(tokens[c.namespace])}
	}
}

// bearer is a token that goes with each call.
type bearer string

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(b)}, nil
}

func (bearer) RequireTransportSecurity() bool { return true }

// idleStream says how much of the heap one more stream takes that has all and waits: it connects as many sidecars again, in the same
// namespaces, after those that are there.
func (p *plane) idleStream(t *testing.T, f *fleet, shared *registry, address string) int64 {
	t.Helper()
	f.disconnect()
	p.rest(t)
	half := len(f.clients) / 2
	first, second := &fleet{options: f.options}, &fleet{options: f.options}
	for i, c := range f.clients[:half*2] {
		if i%2 == 0 {
			first.clients = append(first.clients, c)
		} else {
			second.clients = append(second.clients, c)
		}
	}
	connect := func(f *fleet) int64 {
		f.connect(t, address)
		f.until(t, f.connected, 0)
		p.rest(t)
		bytes, _ := p.heap(t)
		return bytes
	}
	before := connect(first)
	after := connect(second)
	first.disconnect()
	second.disconnect()
	return (after - before) / int64(half)
}

const gatewayHosts = 1000

// gateways measures gateways of many hosts.
func (b *bench) gateways(t *testing.T, services int) []row {
	t.Helper()
	b.kube.Apply(t, "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: bench, namespace: load-0}\nspec:\n  selector: {app: gateway}\n  servers: [{port: {number: 8080, name: http, protocol: HTTP}, hosts: ['*']}]\n")
	host := func(i, timeout int) string {
		return fmt.Sprintf("apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: host-%d, namespace: load-0}\nspec:\n  hosts: [host-%d.bench]\n  gateways: [bench]\n  http: [{timeout: %ds, route: [{destination: {host: %s.%s.svc.cluster.local}}]}]\n---\n",
			i, i, timeout, serviceName(i%services), namespaceOf(i%services))
	}
	all := ""
	for i := range gatewayHosts {
		all += host(i, 1)
	}
	b.kube.Apply(t, all)
	p := b.start(t)
	defer p.stop()
	f, shared := &fleet{options: plainly}, newRegistry()
	for i := range 20 {
		f.clients = append(f.clients, newRouter(shared, i))
	}
	event := func(name string, least int, do func()) row { return p.event(t, f, services, "plain", name, least, do) }
	rows := []row{event("connect", len(f.clients), func() { f.connect(t, p.address) })}
	for _, c := range f.clients {
		c.check(t, services, gatewayHosts)
	}
	rows = append(rows, event("reconnect", 0, func() { f.disconnect(); f.connect(t, p.address) }))
	for round := range 3 {
		rows = append(rows, event("VirtualService", len(f.clients), func() { b.kube.Apply(t, host(7, round+2)) }))
	}
	f.disconnect()
	b.kube.Delete(t, "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: bench, namespace: load-0}\n---\n"+all)
	return medians(rows)
}
