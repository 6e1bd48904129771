package conformance

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"testing"

	admin "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/slipway-mesh/slipway/internal/discovery/envoy"
	_ "github.com/slipway-mesh/slipway/internal/discovery/envoy/patch" // has all types that Envoy has
	"github.com/slipway-mesh/slipway/test/xdscheck"
)

// sound checks all that the connected proxies are sent now.
func (m *mesh) sound(t *testing.T) {
	t.Helper()
	for _, p := range m.connected(t) {
		resources, err := m.sent(p.ID)
		if err != nil {
			t.Fatal(err)
		}
		for _, err := range xdscheck.Check(resources) {
			t.Errorf("%s is sent: %v", p.ID, err)
		}
	}
}

// sent is what a proxy is sent, by type.
func (m *mesh) sent(id string) (map[string][]*envoy.Resource, error) {
	response, err := http.Get(m.debug + "/debug/config_dump?proxyID=" + url.QueryEscape(id))
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	if response.StatusCode == http.StatusNotFound { // it has gone since
		return nil, nil
	}
	dump := &admin.ConfigDump{}
	if err := protojson.Unmarshal(text, dump); err != nil {
		return nil, fmt.Errorf("config_dump of %s: %w: %.200s", id, err, text)
	}
	out := map[string][]*envoy.Resource{}
	add := func(bodies ...*anypb.Any) error {
		for _, body := range bodies {
			message, err := body.UnmarshalNew()
			if err != nil {
				return err
			}
			name := ""
			switch named := message.(type) {
			case interface{ GetName() string }:
				name = named.GetName()
			case interface{ GetClusterName() string }:
				name = named.GetClusterName()
			}
			out[body.TypeUrl] = append(out[body.TypeUrl], &envoy.Resource{Name: name, Body: body})
		}
		return nil
	}
	for _, part := range dump.Configs {
		message, err := part.UnmarshalNew()
		if err != nil {
			return nil, err
		}
		var bodies []*anypb.Any
		switch d := message.(type) {
		case *admin.ClustersConfigDump:
			for _, one := range d.DynamicActiveClusters {
				bodies = append(bodies, one.Cluster)
			}
		case *admin.ListenersConfigDump:
			for _, one := range d.DynamicListeners {
				bodies = append(bodies, one.ActiveState.Listener)
			}
		case *admin.RoutesConfigDump:
			for _, one := range d.DynamicRouteConfigs {
				bodies = append(bodies, one.RouteConfig)
			}
		case *admin.EndpointsConfigDump:
			for _, one := range d.DynamicEndpointConfigs {
				bodies = append(bodies, one.EndpointConfig)
			}
		}
		if err := add(bodies...); err != nil {
			return nil, err
		}
	}
	return out, nil
}
