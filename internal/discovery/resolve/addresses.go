package resolve

import (
	"hash/fnv"
	"net/netip"
	"slices"
	"strings"

	api "istio.io/api/networking/v1alpha3"
	networking "istio.io/client-go/pkg/apis/networking/v1"

	"github.com/slipway-mesh/slipway/internal/discovery/world"
)

// A ServiceEntry without addresses gets some of the mesh's own, by which callers whose DNS is captured tell its connections from those of
// others on the same port. They stand in the entry's status, so that every replica and every reader has the same.
// https://istio.io/latest/docs/ops/configuration/traffic-management/dns-proxy/

// labelAllocate on a ServiceEntry is "false" where it is to get no addresses.
const labelAllocate = "networking.istio.io/enable-autoallocate-ip"

// The networks of allocated addresses; the n-th of each belong together.
var (
	network4 = netip.MustParseAddr("240.240.0.0").As4()
	network6 = netip.MustParseAddr("2001:2::").As16()
)

// addressCount is how many hosts can have addresses: those of a /16 without its ends.
const addressCount = 1<<16 - 2

// Addresses are what the status of a ServiceEntry is to say.
type Addresses struct {
	Namespace, Name string
	Addresses       []*api.ServiceEntryAddress
}

// wantsAddress says whether a host of an entry gets addresses of the mesh's own.
func wantsAddress(entry *networking.ServiceEntry, host string) bool {
	return len(entry.Spec.Addresses) == 0 && entry.Spec.Resolution != api.ServiceEntry_NONE && !strings.HasPrefix(host, "*") && entry.Labels[labelAllocate] != "false"
}

// Entries is another value whenever some ServiceEntry is another one.
func (s *State) Entries() any { return s.entries }

// Allocate returns what is to be written into which entries: addresses for hosts that lack them, and none for those that want none any
// more. What an entry has it keeps, unless an older one has it as well.
func (s *State) Allocate() []Addresses {
	var entries []*networking.ServiceEntry
	s.entries.Root().Walk(func(_ []byte, entry *networking.ServiceEntry) bool {
		entries = append(entries, entry)
		return false
	})
	slices.SortStableFunc(entries, func(a, b *networking.ServiceEntry) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
	taken := map[int]string{} // by which host of which entry
	kept := map[string]int{}
	for _, entry := range entries {
		for _, address := range entry.Status.GetAddresses() {
			index, ok := indexOf(address.Value)
			key := hostKey(entry, address.Host)
			if ok && taken[index] == "" && wantsAddress(entry, address.Host) && slices.Contains(entry.Spec.Hosts, address.Host) {
				taken[index], kept[key] = key, index
			}
		}
	}
	var out []Addresses
	for _, entry := range entries {
		var want []*api.ServiceEntryAddress
		for _, host := range entry.Spec.Hosts {
			if wantsAddress(entry, host) {
				if index, ok := place(hostKey(entry, host), kept, taken); ok {
					want = append(want, addressesAt(index, host)...)
				}
			}
		}
		if !equalAddresses(want, entry.Status.GetAddresses()) {
			out = append(out, Addresses{entry.Namespace, entry.Name, want})
		}
	}
	return out
}

func hostKey(entry *networking.ServiceEntry, host string) string {
	return string(world.Key(entry.Namespace, entry.Name, host))
}

// place finds an index for a host: its own, or the first that is free from where its name says; false if all are taken.
func place(key string, kept map[string]int, taken map[int]string) (int, bool) {
	if index, ok := kept[key]; ok {
		return index, true
	}
	hash := fnv.New32a()
	_, _ = hash.Write([]byte(key))
	first := int(hash.Sum32() % addressCount)
	for i := range addressCount {
		if index := (first + i) % addressCount; taken[index] == "" {
			taken[index], kept[key] = key, index
			return index, true
		}
	}
	return 0, false
}

func addressesAt(index int, host string) []*api.ServiceEntryAddress {
	four, six := network4, network6
	four[2], four[3] = byte((index+1)>>8), byte(index+1)
	six[14], six[15] = byte((index+1)>>8), byte(index+1)
	return []*api.ServiceEntryAddress{{Host: host, Value: netip.AddrFrom4(four).String()}, {Host: host, Value: netip.AddrFrom16(six).String()}}
}

// indexOf reads which addresses one is of; false if it is not the mesh's own.
func indexOf(text string) (int, bool) {
	address, err := netip.ParseAddr(text)
	if err != nil {
		return 0, false
	}
	bytes := address.AsSlice()
	last := len(bytes) - 2
	number := int(bytes[last])<<8 | int(bytes[last+1])
	network := network6[:]
	if address.Is4() {
		network = network4[:]
	}
	return number - 1, slices.Equal(bytes[:last], network[:last]) && number > 0 && number <= addressCount
}

func equalAddresses(a, b []*api.ServiceEntryAddress) bool {
	return slices.EqualFunc(a, b, func(x, y *api.ServiceEntryAddress) bool { return x.Host == y.Host && x.Value == y.Value })
}
