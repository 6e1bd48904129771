package envoy

import (
	"math"
	"slices"
	"strings"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	networking "istio.io/api/networking/v1alpha3"

	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
)

// nearness is what makes some endpoints better than others for the proxies of one place.
// https://istio.io/latest/docs/tasks/traffic-management/locality-load-balancing/
type nearness struct {
	place *mesh.Place
	// shares are of localities, by pattern; nil where the rule does not distribute.
	shares map[string]uint32
	// labels are compared in this order: the more of the first ones agree, the nearer.
	labels []string
	// regions says that near localities come first; failover names the region that comes after the own one.
	regions  bool
	failover string
	// zones says that Envoy itself chooses among the zones of a region.
	zones bool
}

// nearnessOf is nil where all endpoints are equal: nothing is known of the place, or no rule says that it counts. Traffic goes to
// farther endpoints only when nearer ones are found to fail, so without outlier detection there is no order, unless the Service asks for it.
func nearnessOf(config *mesh.Config, o *mesh.Outbound, policy *networking.TrafficPolicy) *nearness {
	if zone := zoneAware(config, policy); zone != nil {
		return zoneNearness(zone, o)
	}
	setting := policy.GetLoadBalancer().GetLocalityLbSetting()
	if setting == nil {
		setting = config.LocalityLB
	}
	if o.Place == nil || setting.GetEnabled() != nil && !setting.Enabled.Value {
		return nil
	}
	n := &nearness{place: o.Place}
	for _, d := range setting.GetDistribute() {
		if matchesPlace(d.From, o.Place.Locality) {
			n.shares = d.To
			return n
		}
	}
	switch {
	case policy.GetOutlierDetection() == nil && len(o.Service.Near) > 0:
		n.labels = o.Service.Near
		return n
	case policy.GetOutlierDetection() == nil:
		return nil
	}
	n.labels = setting.GetFailoverPriority()
	n.regions = len(n.labels) == 0 || len(setting.GetFailover()) > 0
	n.failover = regionAfter(o.Place.Region, setting.GetFailover())
	return n
}

// regionAfter is the region that settings name for callers of a region; the last one counts.
func regionAfter[F interface {
	GetFrom() string
	GetTo() string
}](own string, settings []F) (next string) {
	for _, f := range settings {
		if f.GetFrom() == own {
			next = f.GetTo()
		}
	}
	return next
}

// zoneAware is nil where Envoy is not to choose by zones. A rule's own setting counts alone.
// https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/upstream/load_balancing/zone_aware
func zoneAware(config *mesh.Config, policy *networking.TrafficPolicy) *networking.ZoneAwareLoadBalancerSetting {
	setting := policy.GetLoadBalancer().GetZoneAwareLbSetting()
	if setting == nil && policy.GetLoadBalancer().GetLocalityLbSetting() == nil {
		setting = config.ZoneAware
	}
	if setting == nil || setting.Enabled != nil && !setting.Enabled.Value {
		return nil
	}
	return setting
}

// zoneNearness puts the own region before others, and within it all zones together.
func zoneNearness(setting *networking.ZoneAwareLoadBalancerSetting, o *mesh.Outbound) *nearness {
	if o.Place == nil {
		return nil
	}
	return &nearness{place: o.Place, labels: setting.FailoverPriority, regions: true, zones: true, failover: regionAfter(o.Place.Region, setting.Failover)}
}

// chooseZones lets Envoy send as much to its own zone as the other instances of the workload leave of it.
func chooseZones(c *cluster.Cluster, setting *networking.ZoneAwareLoadBalancerSetting) {
	if setting == nil || c.LbPolicy == cluster.Cluster_CLUSTER_PROVIDED {
		return
	}
	zones := &cluster.Cluster_CommonLbConfig_ZoneAwareLbConfig{RoutingEnabled: &typev3.Percent{Value: 100}}
	if setting.MinClusterSize != nil {
		zones.MinClusterSize = u64(uint64(setting.MinClusterSize.Value))
	}
	common(c).LocalityConfigSpecifier = &cluster.Cluster_CommonLbConfig_ZoneAwareLbConfig_{ZoneAwareLbConfig: zones}
}

// peersName is what a proxy's bootstrap calls the cluster of its own workload's instances.
const peersName = "local_cluster"

// Peers makes the Section of it next to an earlier one.
func Peers(before *Section, instances []mesh.Endpoint) *Section {
	all := &mesh.Endpoints{ByPort: map[uint32][]mesh.Endpoint{0: instances}}
	return before.Next(map[string]*Resource{peersName: NewResource(peersName, loadAssignment(peersName, all, 0, mesh.Subset{}, true, nil))})
}

// rank is 0 for the nearest; the numbers between are made consecutive later.
func (n *nearness) rank(e mesh.Endpoint) uint32 {
	rank := uint32(0)
	if len(n.labels) > 0 {
		agree := 0
		for _, label := range n.labels {
			name, want, given := strings.Cut(label, "=")
			if !given {
				want = n.place.Label(name)
			}
			if mesh.PlaceLabel(name, e) != want {
				break
			}
			agree++
		}
		rank = uint32(len(n.labels) - agree)
	}
	if n.regions {
		rank = rank*regionRanks + n.regionRank(e.Locality)
	}
	return rank
}

// regionRanks is how many ranks there are by region, zone and subzone.
const regionRanks = 5

func (n *nearness) regionRank(l mesh.Locality) uint32 {
	own := n.place.Locality
	switch {
	case n.zones && l.Region == own.Region:
		return 0
	case l == own:
		return 0
	case l.Region == own.Region && l.Zone == own.Zone:
		return 1
	case l.Region == own.Region:
		return 2
	case n.failover == "" || n.failover == l.Region:
		return 3
	}
	return 4
}

// arrange gives each group its priority by its rank, or its weight by its share.
func (n *nearness) arrange(out *endpoint.ClusterLoadAssignment, ranks map[*endpoint.LocalityLbEndpoints]uint32) {
	if n.shares != nil {
		n.distribute(out)
		return
	}
	var distinct []uint32
	for _, rank := range ranks {
		if !slices.Contains(distinct, rank) {
			distinct = append(distinct, rank)
		}
	}
	slices.Sort(distinct)
	for _, group := range out.Endpoints {
		group.Priority = uint32(slices.Index(distinct, ranks[group]))
	}
}

// shareScale makes room between shares of one percent for the localities that divide one.
const shareScale = 1000

// distribute divides each share among the localities that its pattern names; a locality that none names gets nothing.
func (n *nearness) distribute(out *endpoint.ClusterLoadAssignment) {
	var patterns []string
	for pattern := range n.shares {
		patterns = append(patterns, pattern)
	}
	slices.SortFunc(patterns, func(a, b string) int { // the more specific first
		if len(a) != len(b) {
			return len(b) - len(a)
		}
		return strings.Compare(a, b)
	})
	var kept []*endpoint.LocalityLbEndpoints
	rest := out.Endpoints
	for _, pattern := range patterns {
		var group, others []*endpoint.LocalityLbEndpoints
		total := uint32(0)
		for _, g := range rest {
			l := g.GetLocality()
			if matchesPlace(pattern, mesh.Locality{Region: l.GetRegion(), Zone: l.GetZone(), SubZone: l.GetSubZone()}) {
				group = append(group, g)
				total += g.LoadBalancingWeight.GetValue()
			} else {
				others = append(others, g)
			}
		}
		for _, g := range group {
			share := float64(n.shares[pattern]) * shareScale * float64(g.LoadBalancingWeight.GetValue()) / float64(max(total, 1))
			g.LoadBalancingWeight = u32(uint32(math.Max(1, math.Round(share))))
		}
		if n.shares[pattern] > 0 {
			kept = append(kept, group...)
		}
		rest = others
	}
	out.Endpoints = kept
}

// matchesPlace says whether a pattern such as region/zone/* or region names a locality.
func matchesPlace(pattern string, l mesh.Locality) bool {
	have := []string{l.Region, l.Zone, l.SubZone}
	for i, part := range strings.SplitN(pattern, "/", 3) {
		if part == "*" {
			return true
		}
		if part != have[i] {
			return false
		}
	}
	return true
}
