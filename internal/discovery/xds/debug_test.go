package xds

import (
	"context"
	"fmt"
	"net"
	"testing"
	"testing/synctest"
	"time"

	admin "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	csds "github.com/envoyproxy/go-control-plane/envoy/service/status/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

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
	if reached, of := server.Reach(step); reached[0] != 0 || of != 1 {
		t.Errorf("before it has acknowledged anything, %d of %d are reached", reached, of)
	}
	c.settle()
	c.stream.noteStep()
	if reached, of := server.Reach(step); reached[0] != 1 || of != 1 {
		t.Errorf("after it has acknowledged all, %d of %d are reached", reached, of)
	}
	about := func(request *discovery.DiscoveryRequest, identity *Identity, from string) (*discovery.DiscoveryResponse, error) {
		ctx := peer.NewContext(t.Context(), &peer.Peer{Addr: &net.TCPAddr{IP: net.ParseIP(from)}})
		var got *discovery.DiscoveryResponse
		err := (&endpoint{Server: server, authenticator: anybody{identity}}).answerDebug(ctx, request, func(r *discovery.DiscoveryResponse) error { got = r; return nil })
		return got, err
	}
	ask := func(identity *Identity, from string) (*discovery.DiscoveryResponse, error) {
		return about(&discovery.DiscoveryRequest{TypeUrl: syncType}, identity, from)
	}
	dump := &discovery.DiscoveryRequest{TypeUrl: dumpType, ResourceNames: []string{"a.ns"}}
	got, err := about(dump, nil, "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	clusters := &admin.ClustersConfigDump{}
	if err := got.Resources[0].UnmarshalTo(clusters); err != nil || len(clusters.DynamicActiveClusters) != len(c.held[clusterIndex]) {
		t.Errorf("%d clusters are told, and the proxy holds %d (%v)", len(clusters.DynamicActiveClusters), len(c.held[clusterIndex]), err)
	}
	if _, err := about(dump, &Identity{Namespace: "other"}, "10.0.0.9"); status.Code(err) != codes.PermissionDenied {
		t.Errorf("somebody of another namespace is told what a proxy holds: %v", err)
	}
	if _, err := about(&discovery.DiscoveryRequest{TypeUrl: dumpType, ResourceNames: []string{"b.ns"}}, nil, "127.0.0.1"); status.Code(err) != codes.NotFound {
		t.Errorf("a proxy that is not there: %v", err)
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

// TestDrain: the streams of a replica that ends go one by one, over the time that is given, and no new ones come.
func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, state := emptyServer()
		server.Update(state.World, world.Dirty{All: true})
		var ended []time.Duration
		start := time.Now()
		for i := range 10 {
			st := join(t, server, &mesh.Proxy{ID: fmt.Sprint(i), Namespace: "ns"})
			go func() {
				if err := st.loop(nil, nil); status.Code(err) == codes.Unavailable {
					ended = append(ended, time.Since(start))
				}
				server.leave(st)
			}()
		}
		server.Drain(t.Context(), 5*time.Second)
		synctest.Wait()
		if len(ended) != 10 || ended[0] > time.Second || ended[9] < 4*time.Second || server.Ready() {
			t.Errorf("they end at %v; ready %t", ended, server.Ready())
		}
		st := server.newStream(t.Context(), &mesh.Proxy{ID: "late", Namespace: "ns"}, nil)
		if err := (&endpoint{Server: server, authenticator: nobody{}}).admit(t.Context(), st); status.Code(err) != codes.Unavailable {
			t.Errorf("one that comes late: %v", err)
		}
	})
}
