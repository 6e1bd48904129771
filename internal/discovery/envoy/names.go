package envoy

import (
	"net/netip"
	"slices"

	"google.golang.org/protobuf/types/known/anypb"

	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
	"github.com/slipway-mesh/slipway/internal/nametable"
)

// NameType is of the names that an agent's DNS proxy answers for: a resource a host.
const NameType = nametable.TypeURL

// name is what the DNS proxy beside a caller is to know of a host; none where it has no addresses that are known here, so that the
// cluster's own DNS is asked.
func name(o *mesh.Outbound, endpoints *mesh.Endpoints) []*Resource {
	if o == nil || o.Service == nil {
		return nil
	}
	entry := nametable.Entry{Host: o.Host, Registry: nametable.External}
	if o.Service.Kubernetes {
		entry.Registry, entry.Short, entry.Namespace = nametable.Kubernetes, o.Service.Name, o.Service.Namespace
	}
	add := func(address string) {
		if _, err := netip.ParseAddr(address); err == nil && !slices.Contains(entry.Addresses, address) {
			entry.Addresses = append(entry.Addresses, address)
		}
	}
	for _, address := range o.Service.Addresses {
		add(address)
	}
	if o.Service.Headless && endpoints != nil { // its callers mean its pods
		for _, port := range o.Service.Ports {
			for _, e := range endpoints.ByPort[port.Number] {
				if e.Healthy {
					add(e.Address)
				}
			}
		}
	}
	if len(entry.Addresses) == 0 {
		return nil
	}
	return []*Resource{seal(o.Host, &anypb.Any{TypeUrl: NameType, Value: nametable.Marshal(entry)})}
}

// WholeNameTable is all names in one resource, made of their bytes, for clients that know no other way.
func WholeNameTable(names []*Section) *Resource {
	var table []byte
	for _, section := range names {
		section.Each(func(r *Resource) { table = append(table, r.Body.Value...) })
	}
	return seal("", &anypb.Any{TypeUrl: NameType, Value: table})
}
