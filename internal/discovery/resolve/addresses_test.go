package resolve

import (
	"testing"
	"time"

	api "istio.io/api/networking/v1alpha3"
	networking "istio.io/client-go/pkg/apis/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/slipway-mesh/slipway/internal/discovery/source"
)

// entryOf is a ServiceEntry that is as many seconds old as after says less.
func entryOf(name string, after int64, change func(*networking.ServiceEntry)) *networking.ServiceEntry {
	entry := &networking.ServiceEntry{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: name, CreationTimestamp: metav1.NewTime(time.Unix(after, 0))},
		Spec: api.ServiceEntry{Hosts: []string{name + ".test"}, Resolution: api.ServiceEntry_DNS, Ports: []*api.ServicePort{{Number: 443, Name: "tls", Protocol: "TLS"}}}}
	if change != nil {
		change(entry)
	}
	return entry
}

// written puts what is to be written into the entries, as the API server has it then.
func written(state *State, entries map[string]*networking.ServiceEntry) *State {
	var changes []source.Change
	for _, one := range state.Allocate() {
		entry := entries[one.Name].DeepCopy()
		entry.Status.Addresses = one.Addresses
		entries[one.Name] = entry
		changes = append(changes, source.Change{Kind: "ServiceEntry", Namespace: "a", Name: one.Name, Object: entry})
	}
	next, _ := Next(state, changes)
	return next
}

func started(entries map[string]*networking.ServiceEntry) *State {
	var changes []source.Change
	for name, entry := range entries {
		changes = append(changes, source.Change{Kind: "ServiceEntry", Namespace: "a", Name: name, Object: entry})
	}
	state, _ := Next(Start(testOptions), changes)
	return state
}

func TestAllocate(t *testing.T) {
	entries := map[string]*networking.ServiceEntry{
		"one": entryOf("one", 1, nil), "two": entryOf("two", 2, func(e *networking.ServiceEntry) { e.Spec.Hosts = append(e.Spec.Hosts, "other.test", "*.wild.test") }),
		"own": entryOf("own", 3, func(e *networking.ServiceEntry) { e.Spec.Addresses = []string{"10.0.0.1"} }), "none": entryOf("none", 4, func(e *networking.ServiceEntry) { e.Spec.Resolution = api.ServiceEntry_NONE }),
		"out": entryOf("out", 5, func(e *networking.ServiceEntry) { e.Labels = map[string]string{labelAllocate: "false"} }),
	}
	state := written(started(entries), entries)
	if left := state.Allocate(); len(left) != 0 {
		t.Errorf("what is written is to be written again: %+v", left)
	}
	seen := map[string]string{}
	for name, want := range map[string]int{"one": 2, "two": 4, "own": 0, "none": 0, "out": 0} {
		addresses := entries[name].Status.Addresses
		if len(addresses) != want {
			t.Errorf("%s has %v, not %d addresses", name, addresses, want)
		}
		for _, address := range addresses {
			if seen[address.Value] != "" {
				t.Errorf("%s is given to %s and %s", address.Value, seen[address.Value], address.Host)
			}
			seen[address.Value] = address.Host
		}
	}
	service := state.World.Service("one.test", "a", nil)
	if len(service.Allocated) != 2 || len(service.Addresses) != 0 {
		t.Errorf("the service has %v and %v", service.Allocated, service.Addresses)
	}
}

func TestAllocationsStay(t *testing.T) {
	entries := map[string]*networking.ServiceEntry{"one": entryOf("one", 1, nil)}
	state := written(started(entries), entries)
	had := entries["one"].Status.Addresses[0].Value
	// A younger one, restored from a copy, says that it has the same.
	entries["copy"] = entryOf("copy", 9, func(e *networking.ServiceEntry) {
		e.Status.Addresses = []*api.ServiceEntryAddress{{Host: "copy.test", Value: had}}
	})
	state, _ = Next(state, []source.Change{{Kind: "ServiceEntry", Namespace: "a", Name: "copy", Object: entries["copy"]}})
	state = written(state, entries)
	if got := entries["one"].Status.Addresses[0].Value; got != had {
		t.Errorf("the older one's address became %s", got)
	}
	if got := entries["copy"].Status.Addresses[0].Value; got == had {
		t.Error("two have one address")
	}
	// One that wants none any more gives them back.
	entries["one"] = entries["one"].DeepCopy()
	entries["one"].Spec.Addresses = []string{"10.0.0.1"}
	state, _ = Next(state, []source.Change{{Kind: "ServiceEntry", Namespace: "a", Name: "one", Object: entries["one"]}})
	written(state, entries)
	if got := entries["one"].Status.Addresses; len(got) != 0 {
		t.Errorf("still has %v", got)
	}
}
