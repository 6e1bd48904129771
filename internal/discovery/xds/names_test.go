package xds

import (
	"fmt"
	"math/rand/v2"
	"testing"

	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"github.com/slipway-mesh/slipway/internal/discovery/envoy"
)

// TestNamesAreASet: whatever is added and removed, and whatever Section it is counted from, the set is what a plain one is.
func TestNamesAreASet(t *testing.T) {
	for seed := range uint64(40) {
		r := rand.New(rand.NewPCG(seed, 5))
		section, plain, set := envoy.EmptySection(), map[string]bool{}, names{}
		name := func() string { return fmt.Sprintf("n%d", r.IntN(400)) }
		for range 60 {
			changes := map[string]*envoy.Resource{}
			for range r.IntN(80) {
				one := name()
				changes[one] = nil
				if r.IntN(4) > 0 {
					changes[one] = envoy.NewResource(one, &route.VirtualHost{Name: one})
				}
			}
			section = section.Next(changes)
			var list []string
			for range r.IntN(100) {
				list = append(list, name())
			}
			adding := r.IntN(3) > 0
			for _, one := range list {
				plain[one] = adding
			}
			if adding {
				set.add(list, section)
			} else {
				set.remove(list, section)
			}
			want, visited := 0, 0
			for one := range 400 {
				if key := fmt.Sprintf("n%d", one); plain[key] {
					want++
					if !set.has(key) {
						t.Fatalf("seed %d: %s is lost", seed, key)
					}
				}
			}
			set.each(func(one string) {
				visited++
				if !plain[one] {
					t.Fatalf("seed %d: %s is too much", seed, one)
				}
			})
			if visited != want {
				t.Fatalf("seed %d: %d names, not %d", seed, visited, want)
			}
		}
	}
}

// TestNamesOfAllAreSmall: who wants all that there is costs a pointer.
func TestNamesOfAllAreSmall(t *testing.T) {
	changes := map[string]*envoy.Resource{}
	var all []string
	for i := range 1000 {
		one := fmt.Sprintf("n%d", i)
		changes[one] = envoy.NewResource(one, &route.VirtualHost{Name: one})
		all = append(all, one)
	}
	section := envoy.EmptySection().Next(changes)
	set := names{}
	set.add(append(all, "other"), section)
	if set.base != section || len(set.except) != 0 || len(set.also) != 1 || !set.has("n7") || !set.has("other") {
		t.Errorf("%d deviations", len(set.except)+len(set.also))
	}
}
