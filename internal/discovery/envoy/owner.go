package envoy

import (
	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
)

// OwnerOf is the path of the object that a resource was made of, as its metadata says, or of the EnvoyFilter that changed
// it; empty where none is named.
func OwnerOf(r *Resource) string {
	if r.Patched != "" {
		return r.Patched
	}
	message, err := r.Body.UnmarshalNew()
	if err != nil {
		return ""
	}
	var hosts []*route.VirtualHost
	switch m := message.(type) {
	case *cluster.Cluster:
		return ownerIn(m.Metadata)
	case *route.VirtualHost:
		hosts = []*route.VirtualHost{m}
	case *route.RouteConfiguration:
		hosts = m.VirtualHosts
	}
	for _, host := range hosts {
		for _, one := range host.Routes {
			if owner := ownerIn(one.Metadata); owner != "" {
				return owner
			}
		}
	}
	return ""
}

func ownerIn(metadata *core.Metadata) string {
	return metadata.GetFilterMetadata()["istio"].GetFields()["config"].GetStringValue()
}
