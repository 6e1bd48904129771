package xds

import (
	"time"

	"github.com/slipway-mesh/slipway/internal/discovery/envoy"
	"github.com/slipway-mesh/slipway/internal/discovery/envoy/patch"
)

// The resource types, in the order in which they are pushed.
const (
	clusterIndex = iota
	endpointIndex
	listenerIndex
	routeIndex
	hostIndex
	nameIndex
	extensionIndex
	typeCount
)

var typeURLs = [typeCount]string{envoy.ClusterType, envoy.EndpointType, envoy.ListenerType, envoy.RouteType, envoy.VirtualHostType, envoy.NameType, envoy.ExtensionType}

func indexOf(typeURL string) (int, bool) {
	for i, url := range typeURLs {
		if url == typeURL {
			return i, true
		}
	}
	return 0, false
}

// target is what a stream is to be sent: for each type the sections that together are its resources. It is immutable.
type target struct {
	step    uint64 // of the world that it was first computed of
	made    time.Time
	parts   [typeCount][]*envoy.Section
	hostsOf func(table string) []*envoy.Resource
	// finish is what becomes of a table with all its virtual hosts in it; nil is nothing.
	finish func(*envoy.Resource) *envoy.Resource
	// patches are those of the proxy; nil where there are none.
	patches *patch.Set
	// calls has what gRPC applications ask for by name, in the place of parts; nil for others.
	calls *calls
}

func (t *target) equal(other *target) bool {
	if t.calls != nil {
		return t.calls.equal(other.calls)
	}
	for i := range t.parts {
		if len(t.parts[i]) != len(other.parts[i]) {
			return false
		}
		for k := range t.parts[i] {
			if t.parts[i][k] != other.parts[i][k] {
				return false
			}
		}
	}
	return true
}

func get(parts []*envoy.Section, name string) (*envoy.Resource, bool) {
	for _, part := range parts {
		if r, ok := part.Get(name); ok {
			return r, true
		}
	}
	return nil, false
}

func each(parts []*envoy.Section, visit func(*envoy.Resource)) {
	for _, part := range parts {
		part.Each(visit)
	}
}

// diff is the difference between two sets of sections; from may be nil.
func diff(to, from []*envoy.Section) (changed []*envoy.Resource, removed []string) {
	for i, part := range to {
		var before *envoy.Section
		if i < len(from) {
			before = from[i]
		}
		c, r := part.Diff(before)
		changed, removed = append(changed, c...), append(removed, r...)
	}
	for _, gone := range from[min(len(to), len(from)):] {
		gone.Each(func(r *envoy.Resource) { removed = append(removed, r.Name) })
	}
	return changed, removed
}
