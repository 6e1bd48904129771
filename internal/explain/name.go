package explain

import (
	"strings"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
)

// ClusterName is a cluster's name taken apart: DIRECTION|PORT|SUBSET|HOST. Other names are hosts as they are.
type ClusterName struct {
	Direction, Port, Subset, Host string
}

// ParseCluster takes a cluster's name apart.
func ParseCluster(name string) ClusterName {
	parts := strings.SplitN(name, "|", 4)
	if len(parts) != 4 {
		return ClusterName{Host: name}
	}
	return ClusterName{Direction: parts[0], Port: parts[1], Subset: parts[2], Host: parts[3]}
}

// Owner is the object that a resource was made of, as its metadata says: KIND NAME.NAMESPACE; empty for none.
func Owner(metadata *core.Metadata) string {
	path := metadata.GetFilterMetadata()["istio"].GetFields()["config"].GetStringValue()
	// /apis/GROUP/VERSION/namespaces/NAMESPACE/KIND/NAME
	parts := strings.Split(strings.TrimPrefix(path, "/"), "/")
	if len(parts) != 7 {
		return path
	}
	return parts[5] + " " + parts[6] + "." + parts[4]
}
