package mesh

import (
	"slices"
	"strings"
)

// Place is where a scope's proxies run, as far as the choice of endpoints looks at it.
type Place struct {
	Locality
	Labels map[string]string
}

// The labels that say where something runs.
const (
	LabelNetwork  = "topology.istio.io/network"
	LabelCluster  = "topology.istio.io/cluster"
	LabelRegion   = "topology.kubernetes.io/region"
	LabelZone     = "topology.kubernetes.io/zone"
	LabelSubZone  = "topology.istio.io/subzone"
	LabelHostname = "kubernetes.io/hostname"
	// LabelLocality is Istio's own, on a Pod: REGION.ZONE.SUBZONE. It counts before what the node says.
	LabelLocality = "istio-locality"
)

// ParseLocality reads region, zone and subzone, of which the last ones may be missing.
func ParseLocality(text, separator string) Locality {
	var parts [3]string
	copy(parts[:], strings.SplitN(text, separator, 3))
	return Locality{Region: parts[0], Zone: parts[1], SubZone: parts[2]}
}

// Text is equal for equal places. ParsePlace reads it.
func (p Place) Text() string {
	parts := []string{p.Region, p.Zone, p.SubZone}
	names := make([]string, 0, len(p.Labels))
	for name := range p.Labels {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		parts = append(parts, name+"="+p.Labels[name])
	}
	return strings.Join(parts, "\x00")
}

// ParsePlace reads what Text wrote; nil for an empty text.
func ParsePlace(text string) *Place {
	parts := strings.Split(text, "\x00")
	if len(parts) < 3 {
		return nil
	}
	p := &Place{Locality: Locality{Region: parts[0], Zone: parts[1], SubZone: parts[2]}, Labels: map[string]string{}}
	for _, pair := range parts[3:] {
		name, value, _ := strings.Cut(pair, "=")
		p.Labels[name] = value
	}
	return p
}

// Label is a label's value at the place.
func (p *Place) Label(name string) string {
	if value, known := localityLabel(name, p.Locality); known {
		return value
	}
	return p.Labels[name]
}

// PlaceLabel is a label's value at an endpoint.
func PlaceLabel(name string, e Endpoint) string {
	if value, known := localityLabel(name, e.Locality); known {
		return value
	}
	switch {
	case name == LabelNetwork && e.Network != "":
		return e.Network
	case name == LabelCluster:
		return e.Cluster
	case name == LabelHostname:
		return e.Node
	}
	return e.Labels[name]
}

func localityLabel(name string, l Locality) (value string, known bool) {
	switch name {
	case LabelRegion:
		return l.Region, true
	case LabelZone:
		return l.Zone, true
	case LabelSubZone:
		return l.SubZone, true
	}
	return "", false
}
