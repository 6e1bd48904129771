package xds

import (
	"context"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/slipway-mesh/slipway/internal/discovery/envoy"
	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
	"github.com/slipway-mesh/slipway/internal/discovery/resolve"
	"github.com/slipway-mesh/slipway/internal/discovery/source"
	"github.com/slipway-mesh/slipway/internal/discovery/world"
)

type nobody struct{}

func (nobody) Authenticate(context.Context) (*Identity, error) { return nil, nil }

// join connects a proxy and returns its stream.
func join(t *testing.T, s *Server, proxy *mesh.Proxy) *stream {
	t.Helper()
	st := s.newStream(t.Context(), proxy, func(*response) error { return nil })
	if err := (&endpoint{Server: s, authenticator: nobody{}}).admit(t.Context(), st); err != nil {
		t.Fatal(err)
	}
	return st
}

func versions(st *stream) map[string]string {
	out := map[string]string{}
	for i, parts := range st.target.Load().parts {
		each(parts, func(r *envoy.Resource) { out[shortNames[i]+" "+r.Name] = r.Version })
	}
	return out
}

// TestFiltersFromScratch: what EnvoyFilters make of resources that change step by step is what they make of them at once.
func TestFiltersFromScratch(t *testing.T) {
	options := resolve.Options{ClusterID: "Kubernetes", Domain: "cluster.local", RootNamespace: "istio-system", MeshConfigMap: "istio"}
	proxies := []*mesh.Proxy{
		{ID: "1", Kind: mesh.SidecarProxy, Namespace: "a", Labels: map[string]string{"app": "client"}, VHDS: true}, {ID: "2", Kind: mesh.SidecarProxy, Namespace: "b"},
		{ID: "3", Kind: mesh.Router, Namespace: "a", Labels: map[string]string{"app": "gateway"}, VHDS: true},
	}
	patchedSteps := 0
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 9))
		state := resolve.Start(options)
		live := NewServer(NewMetrics(prometheus.NewRegistry()))
		live.Update(state.World, world.Dirty{All: true})
		var streams []*stream
		for _, proxy := range proxies {
			streams = append(streams, join(t, live, proxy))
		}
		for step := range 40 {
			changes := []source.Change{change(r)}
			if r.IntN(3) == 0 {
				filtered := change(r)
				for filtered.Kind != "EnvoyFilter" {
					filtered = change(r)
				}
				changes = append(changes, filtered)
			}
			next, dirty := resolve.Next(state, changes)
			state = next
			live.Update(state.World, dirty)
			scratch := NewServer(NewMetrics(prometheus.NewRegistry()))
			scratch.Update(state.World, world.Dirty{All: true})
			for k, proxy := range proxies {
				if diff := cmp.Diff(versions(join(t, scratch, proxy)), versions(streams[k])); diff != "" {
					t.Fatalf("seed %d, step %d: proxy %s (-scratch +steps):\n%s", seed, step, proxy.ID, diff)
				}
			}
			if len(live.patched) > 0 {
				patchedSteps++
			}
		}
	}
	if patchedSteps < 300 {
		t.Errorf("only %d steps had patches", patchedSteps)
	}
}
