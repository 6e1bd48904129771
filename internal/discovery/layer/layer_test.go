package layer

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

func equal(a, b int) bool { return a == b }

// TestRandom changes a map and two that lie over it at random, and compares each with a plain Go map.
func TestRandom(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		below, belowWant := New(equal), map[string]int{}
		mutate := func(m Map[int], want map[string]int, steps int) Map[int] {
			txn := m.Txn()
			for range steps {
				key := fmt.Sprintf("%c%d", 'a'+r.IntN(3), r.IntN(12))
				if r.IntN(3) == 0 {
					txn.Delete([]byte(key))
					delete(want, key)
				} else {
					want[key] = r.IntN(3)
					txn.Insert([]byte(key), want[key])
				}
			}
			return txn.Commit()
		}
		below = mutate(below, belowWant, 20)
		var over [2]Map[int]
		var want [2]map[string]int
		for i := range over {
			over[i], want[i] = below.Over(), maps.Clone(belowWant)
		}
		for range 60 {
			switch i := r.IntN(4); i {
			case 0, 1:
				over[i] = mutate(over[i], want[i], 1+r.IntN(3))
			case 2:
				below = mutate(below, belowWant, 1+r.IntN(3))
			case 3:
				k := r.IntN(2)
				over[k] = over[k].Onto(below)
			}
			check(t, seed, below, belowWant)
			for i := range over {
				check(t, seed, over[i], want[i])
			}
			if t.Failed() {
				return
			}
		}
	}
}

func check(t *testing.T, seed uint64, m Map[int], want map[string]int) {
	t.Helper()
	if m.Len() != len(want) {
		t.Errorf("seed %d: %d keys, want %d", seed, m.Len(), len(want))
	}
	var keys []string
	m.WalkPrefix([]byte("b"), func(key []byte, value int) bool {
		keys = append(keys, string(key))
		if want[string(key)] != value {
			t.Errorf("seed %d: walk gives %s the value %d, want %d", seed, key, value, want[string(key)])
		}
		return false
	})
	var wantKeys []string
	for _, key := range slices.Sorted(maps.Keys(want)) {
		if key[0] == 'b' {
			wantKeys = append(wantKeys, key)
		}
		if value, there := m.Get([]byte(key)); !there || value != want[key] {
			t.Errorf("seed %d: %s is %d, %t; want %d", seed, key, value, there, want[key])
		}
	}
	if !slices.Equal(keys, wantKeys) {
		t.Errorf("seed %d: walk of b: %v, want %v", seed, keys, wantKeys)
	}
}

// TestHoldsOnlyDifferences looks at what a map keeps for itself: it follows the one below for free where both change alike.
func TestHoldsOnlyDifferences(t *testing.T) {
	put := func(m Map[int], key string, value int) Map[int] {
		txn := m.Txn()
		txn.Insert([]byte(key), value)
		return txn.Commit()
	}
	below := put(put(New(equal), "a", 1), "b", 1)
	over := put(below.Over(), "b", 2)
	if over.own.Len() != 1 {
		t.Errorf("%d entries, want b alone", over.own.Len())
	}
	for step := range 2 * historyLength { // further than the history goes
		below = put(below, "c", step)
		over = put(over.Onto(below), "c", step)
		if over.own.Len() != 1 {
			t.Fatalf("step %d: %d entries, want b alone", step, over.own.Len())
		}
	}
	for step := range 2 * historyLength {
		below = put(below, "a", step)
	}
	if over = over.Onto(below); over.own.Len() != 2 {
		t.Errorf("%d entries, want a and b", over.own.Len())
	}
	over = put(put(over, "a", 2*historyLength-1), "b", 1)
	if over.own.Len() != 0 {
		t.Errorf("%d entries, want none", over.own.Len())
	}
}
