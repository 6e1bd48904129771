// Package explain says where a request goes, and what a proxy holds. What Envoy tells of its configuration enters; what
// was decided, and by which object, leaves. It evaluates what the proxy was sent, and must not know how that was made.
package explain

import (
	"encoding/json"
	"fmt"
	"time"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// Config is what a proxy holds, as its admin interface tells it.
type Config struct {
	Bootstrap json.RawMessage
	Listeners []*listener.Listener
	Clusters  []*cluster.Cluster
	Routes    []*route.RouteConfiguration
	Endpoints []*endpoint.ClusterLoadAssignment
	Secrets   []Secret
}

// Secret is what can be told of a secret: its certificates, and never a key.
type Secret struct {
	Name string `json:"name"`
	// State is ACTIVE or WARMING.
	State       string    `json:"state"`
	LastUpdated time.Time `json:"lastUpdated"`
	// Chain and Trusted are PEM certificates.
	Chain   []byte `json:"-"`
	Trusted []byte `json:"-"`
}

// section is one entry of a config dump; a kind of resource uses some of its fields.
type section struct {
	Type                   string          `json:"@type"`
	Bootstrap              json.RawMessage `json:"bootstrap"`
	StaticListeners        []held          `json:"static_listeners"`
	DynamicListeners       []held          `json:"dynamic_listeners"`
	StaticClusters         []held          `json:"static_clusters"`
	DynamicActiveClusters  []held          `json:"dynamic_active_clusters"`
	StaticRouteConfigs     []held          `json:"static_route_configs"`
	DynamicRouteConfigs    []held          `json:"dynamic_route_configs"`
	StaticEndpointConfigs  []held          `json:"static_endpoint_configs"`
	DynamicEndpointConfigs []held          `json:"dynamic_endpoint_configs"`
	StaticSecrets          []held          `json:"static_secrets"`
	DynamicActiveSecrets   []held          `json:"dynamic_active_secrets"`
	DynamicWarmingSecrets  []held          `json:"dynamic_warming_secrets"`
}

// held is one resource, with what the dump says of it.
type held struct {
	Name           string          `json:"name"`
	LastUpdated    time.Time       `json:"last_updated"`
	ActiveState    *held           `json:"active_state"`
	Listener       json.RawMessage `json:"listener"`
	Cluster        json.RawMessage `json:"cluster"`
	RouteConfig    json.RawMessage `json:"route_config"`
	EndpointConfig json.RawMessage `json:"endpoint_config"`
	Secret         json.RawMessage `json:"secret"`
}

// Parse reads what Envoy answers to /config_dump?include_eds.
func Parse(dump []byte) (*Config, error) {
	var document struct {
		Configs []section `json:"configs"`
	}
	if err := json.Unmarshal(dump, &document); err != nil {
		return nil, fmt.Errorf("read the config dump: %w", err)
	}
	if len(document.Configs) == 0 {
		return nil, fmt.Errorf("read the config dump: it has no configs")
	}
	out := &Config{}
	for _, s := range document.Configs {
		if err := out.take(s); err != nil {
			return nil, fmt.Errorf("read the config dump: %w", err)
		}
	}
	return out, nil
}

func (c *Config) take(s section) error {
	if s.Bootstrap != nil {
		c.Bootstrap = s.Bootstrap
	}
	for _, h := range append(s.StaticListeners, s.DynamicListeners...) {
		if h.ActiveState != nil {
			h.Listener = h.ActiveState.Listener
		}
		if err := take(&c.Listeners, h.Listener, &listener.Listener{}); err != nil {
			return err
		}
	}
	for _, h := range append(s.StaticClusters, s.DynamicActiveClusters...) {
		if err := take(&c.Clusters, h.Cluster, &cluster.Cluster{}); err != nil {
			return err
		}
	}
	for _, h := range append(s.StaticRouteConfigs, s.DynamicRouteConfigs...) {
		if err := take(&c.Routes, h.RouteConfig, &route.RouteConfiguration{}); err != nil {
			return err
		}
	}
	for _, h := range append(s.StaticEndpointConfigs, s.DynamicEndpointConfigs...) {
		if err := take(&c.Endpoints, h.EndpointConfig, &endpoint.ClusterLoadAssignment{}); err != nil {
			return err
		}
	}
	for _, h := range append(s.StaticSecrets, s.DynamicActiveSecrets...) {
		c.Secrets = append(c.Secrets, secret(h, "ACTIVE"))
	}
	for _, h := range s.DynamicWarmingSecrets {
		c.Secrets = append(c.Secrets, secret(h, "WARMING"))
	}
	return nil
}

// take reads a resource and appends it; none is nothing.
func take[M proto.Message](list *[]M, text json.RawMessage, message M) error {
	if len(text) == 0 {
		return nil
	}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true, Resolver: lenient{protoregistry.GlobalTypes}}).Unmarshal(text, message); err != nil {
		return err
	}
	*list = append(*list, message)
	return nil
}

func secret(h held, state string) Secret {
	var body struct {
		TLSCertificate struct {
			CertificateChain struct {
				InlineBytes []byte `json:"inline_bytes"`
			} `json:"certificate_chain"`
		} `json:"tls_certificate"`
		ValidationContext struct {
			TrustedCA struct {
				InlineBytes []byte `json:"inline_bytes"`
			} `json:"trusted_ca"`
		} `json:"validation_context"`
	}
	_ = json.Unmarshal(h.Secret, &body) // a secret of another kind has no certificate
	return Secret{Name: h.Name, State: state, LastUpdated: h.LastUpdated,
		Chain: body.TLSCertificate.CertificateChain.InlineBytes, Trusted: body.ValidationContext.TrustedCA.InlineBytes}
}

// lenient reads extensions that are not known here as empty messages: their fields are not needed.
type lenient struct{ *protoregistry.Types }

func (l lenient) FindMessageByURL(url string) (protoreflect.MessageType, error) {
	known, err := l.Types.FindMessageByURL(url)
	if err == nil {
		return known, nil
	}
	return (&core.ControlPlane{}).ProtoReflect().Type(), nil
}
