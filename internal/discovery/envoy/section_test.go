package envoy

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
)

func randomStep(r *rand.Rand) map[string]*Resource {
	changes := map[string]*Resource{}
	for range 1 + r.IntN(4) {
		name := fmt.Sprintf("r%d", r.IntN(12))
		changes[name] = nil
		if r.IntN(3) > 0 {
			changes[name] = NewResource(name, &route.VirtualHost{Name: name, Domains: []string{fmt.Sprint(r.IntN(3))}})
		}
	}
	return changes
}

// apply does to what a client holds what a difference says.
func apply(held map[string]string, changed []*Resource, removed []string) map[string]string {
	held = maps.Clone(held)
	for _, r := range changed {
		held[r.Name] = r.Version
	}
	for _, name := range removed {
		delete(held, name)
	}
	return held
}

func versions(s *Section) map[string]string {
	out := map[string]string{}
	s.Each(func(r *Resource) { out[r.Name] = r.Version })
	return out
}

// TestDiff: a client that is sent differences holds what the Section has, whether the difference comes from the history or
// from a comparison; and nothing that it holds already is in it.
func TestDiff(t *testing.T) {
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 1))
		chain := []*Section{EmptySection()}
		for range historyLength + 20 {
			chain = append(chain, chain[len(chain)-1].Next(randomStep(r)))
		}
		last := chain[len(chain)-1]
		stranger := EmptySection().Next(map[string]*Resource{"x": NewResource("x", &route.VirtualHost{Name: "x"})})
		for _, from := range append(slices.Clone(chain), stranger) {
			changed, removed := last.Diff(from)
			if diff := cmp.Diff(versions(last), apply(versions(from), changed, removed)); diff != "" {
				t.Fatal(diff)
			}
			for _, r := range changed {
				if before, ok := from.Get(r.Name); ok && before.Version == r.Version {
					t.Fatalf("%s is sent again", r.Name)
				}
			}
		}
	}
}

func TestNextReturnsItselfWhenNothingDiffers(t *testing.T) {
	host := func() *Resource { return NewResource("a", &route.VirtualHost{Name: "a"}) }
	s := EmptySection().Next(map[string]*Resource{"a": host()})
	if s.Next(map[string]*Resource{"a": host(), "b": nil}) != s {
		t.Error("the same content made another Section")
	}
}

// TestWholeTable: a table made of bytes is what a marshalled one would be, with Istio's names.
func TestWholeTable(t *testing.T) {
	hosts := []*Resource{
		tableResource("80", &route.VirtualHost{Name: "a:80", Domains: []string{"a", "b"}}),
		tableResource("80", &route.VirtualHost{Name: "c:80", Domains: []string{"c"}}),
	}
	var got route.RouteConfiguration
	if err := proto.Unmarshal(WholeTable("80", hosts).Body.Value, &got); err != nil {
		t.Fatal(err)
	}
	if len(got.VirtualHosts) != 2 || got.VirtualHosts[0].Name != "a:80" || got.VirtualHosts[1].Domains[0] != "c" || got.Name != "80" {
		t.Errorf("the table is %v", &got)
	}
}
