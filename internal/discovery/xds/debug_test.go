package xds

import (
	"context"
	"net"
	"testing"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	csds "github.com/envoyproxy/go-control-plane/envoy/service/status/v3"
	"google.golang.org/grpc/peer"

	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
	"github.com/slipway-mesh/slipway/internal/discovery/world"
)

type anybody struct{ identity *Identity }

func (a anybody) Authenticate(context.Context) (*Identity, error) { return a.identity, nil }

// TestDebug: what istioctl asks over ADS is answered to a token and to a forwarded port, and to nobody else; and Reach says
// which clients have taken in all.
func TestDebug(t *testing.T) {
	server, state := emptyServer()
	step := server.Update(state.World, world.Dirty{All: true})
	c := newClient(t, server, &mesh.Proxy{ID: "sidecar~10.0.0.1~a.ns~ns.svc.cluster.local", Namespace: "ns", VHDS: true})
	c.stream.done.Store(0)
	if reached, of := server.Reach(step); reached != 0 || of != 1 {
		t.Errorf("before it has acknowledged anything, %d of %d are reached", reached, of)
	}
	c.settle()
	c.stream.noteStep()
	if reached, of := server.Reach(step); reached != 1 || of != 1 {
		t.Errorf("after it has acknowledged all, %d of %d are reached", reached, of)
	}
	ask := func(identity *Identity, from string) (*discovery.DiscoveryResponse, error) {
		ctx := peer.NewContext(t.Context(), &peer.Peer{Addr: &net.TCPAddr{IP: net.ParseIP(from)}})
		var got *discovery.DiscoveryResponse
		err := (&endpoint{Server: server, authenticator: anybody{identity}}).answerDebug(ctx, &discovery.DiscoveryRequest{TypeUrl: syncType},
			func(r *discovery.DiscoveryResponse) error { got = r; return nil })
		return got, err
	}
	if _, err := ask(nil, "10.0.0.9"); err == nil {
		t.Error("somebody without a token was answered")
	}
	for _, allowed := range []struct {
		identity *Identity
		from     string
	}{{nil, "127.0.0.1"}, {&Identity{Namespace: "ns", Account: "a"}, "10.0.0.9"}} {
		got, err := ask(allowed.identity, allowed.from)
		if err != nil || len(got.Resources) != 1 {
			t.Fatalf("%+v: %v %v", allowed, got, err)
		}
		config := &csds.ClientConfig{}
		if err := got.Resources[0].UnmarshalTo(config); err != nil {
			t.Fatal(err)
		}
		if config.Node.Metadata.Fields["NAME"].GetStringValue() != "a" || config.Node.Metadata.Fields["NAMESPACE"].GetStringValue() != "ns" {
			t.Errorf("who: %v", config.Node)
		}
		for _, one := range config.GenericXdsConfigs[:1] {
			if one.TypeUrl != typeURLs[clusterIndex] || one.ConfigStatus != csds.ConfigStatus_SYNCED {
				t.Errorf("how it stands: %v", one)
			}
		}
	}
}
