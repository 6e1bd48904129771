package envoy

import (
	"sort"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/types/known/structpb"
	networking "istio.io/api/networking/v1alpha3"

	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
)

// loadAssignments makes the endpoints of a host's clusters, one resource a cluster.
func loadAssignments(config *mesh.Config, o *mesh.Outbound, endpoints *mesh.Endpoints) []*Resource {
	if o == nil || o.Service == nil || o.Service.Resolution.ByProxy() || passesThrough(o) {
		return nil
	}
	var out []*Resource
	for _, port := range o.Service.Ports {
		for _, subset := range subsetsOf(o) {
			policy := policyFor(config, o.Rule, port.Number, subset)
			plain := policy.GetTls() != nil && policy.Tls.Mode == networking.ClientTLSSettings_DISABLE
			names := []string{mesh.ClusterName(o.Host, subset.Name, port.Number)}
			if o.Through {
				names = append(names, mesh.SNI(o.Host, subset.Name, port.Number))
			}
			for _, name := range names {
				out = append(out, NewResource(name, loadAssignment(name, endpoints, port.Number, subset, plain, nearnessOf(config, o, policy))))
			}
		}
	}
	return out
}

// group is which endpoints stand together: those of one locality that are as near as one another.
type group struct {
	mesh.Locality
	rank uint32
}

// loadAssignment groups the endpoints of a port that have the subset's labels by locality. plain hides that they take
// mutual TLS; near may be nil.
func loadAssignment(name string, endpoints *mesh.Endpoints, port uint32, subset mesh.Subset, plain bool, near *nearness) *endpoint.ClusterLoadAssignment {
	out := &endpoint.ClusterLoadAssignment{ClusterName: name}
	if endpoints == nil {
		return out
	}
	groups, ranks := map[group]*endpoint.LocalityLbEndpoints{}, map[*endpoint.LocalityLbEndpoints]uint32{}
	for _, e := range endpoints.ByPort[port] {
		if !e.Healthy || !mesh.MatchesLabels(subset.Labels, e.Labels) {
			continue
		}
		key := group{Locality: e.Locality}
		if near != nil && near.shares == nil {
			key.rank = near.rank(e)
		}
		together := groups[key]
		if together == nil {
			together = &endpoint.LocalityLbEndpoints{LoadBalancingWeight: u32(0), // gRPC wants to be told even of a locality that is not known
				Locality: &core.Locality{Region: e.Locality.Region, Zone: e.Locality.Zone, SubZone: e.Locality.SubZone}}
			groups[key], ranks[together] = together, key.rank
			out.Endpoints = append(out.Endpoints, together)
		}
		together.LbEndpoints = append(together.LbEndpoints, lbEndpoint(e, plain))
		together.LoadBalancingWeight.Value += e.Weight
	}
	sort.SliceStable(out.Endpoints, func(i, j int) bool {
		a, b := out.Endpoints[i].GetLocality(), out.Endpoints[j].GetLocality()
		if x, y := ranks[out.Endpoints[i]], ranks[out.Endpoints[j]]; x != y {
			return x < y
		}
		return a.GetRegion()+"/"+a.GetZone()+"/"+a.GetSubZone() < b.GetRegion()+"/"+b.GetZone()+"/"+b.GetSubZone()
	})
	if near != nil {
		near.arrange(out, ranks)
	}
	return out
}

func lbEndpoint(e mesh.Endpoint, plain bool) *endpoint.LbEndpoint {
	out := &endpoint.LbEndpoint{
		HostIdentifier:      &endpoint.LbEndpoint_Endpoint{Endpoint: &endpoint.Endpoint{Address: address(e.Address, e.Port)}},
		LoadBalancingWeight: u32(e.Weight),
	}
	if e.MTLS && !plain {
		out.Metadata = &core.Metadata{FilterMetadata: map[string]*structpb.Struct{matchNamespace: tlsModeMatch()}}
	}
	return out
}
