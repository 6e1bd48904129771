package mesh

import (
	"google.golang.org/protobuf/encoding/protojson"
	meshapi "istio.io/api/mesh/v1alpha1"
)

// Settings are what proxies' own ProxyConfig says of how they treat requests; nil is nothing.
// https://istio.io/latest/docs/reference/config/istio.mesh.v1alpha1/#ProxyConfig
type Settings struct {
	Topology *meshapi.Topology // of what is before a gateway
	Headers  *meshapi.ProxyConfig_ProxyHeaders
}

// ParseSettings reads JSON of ProxyConfig's fields, as Proxy has it. What cannot be read says nothing: whoever wrote it is told by the
// agent, which does not start with it.
func ParseSettings(text string) *Settings {
	var api meshapi.ProxyConfig
	if text == "" || (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal([]byte(text), &api) != nil {
		return nil
	}
	return &Settings{Topology: api.GatewayTopology, Headers: api.ProxyHeaders}
}

// RouteSettings are what of Settings changes routes; equal ones change them alike.
type RouteSettings struct {
	Uncounted bool // requests are not told how often they were tried
	TellsHost bool // of a request whose host is rewritten, the application is told the one it was for
}

// OfRoutes is what is said of routes.
func (s *Settings) OfRoutes() RouteSettings {
	headers := s.GetHeaders()
	return RouteSettings{Uncounted: headers.GetAttemptCount().GetDisabled().GetValue(), TellsHost: headers.GetXForwardedHost().GetEnabled().GetValue()}
}

// KeepsCase says whether the names of headers are left as they were written, in HTTP/1.1.
func (s *Settings) KeepsCase() bool { return s.GetHeaders().GetPreserveHttp1HeaderCase().GetValue() }

// GetTopology is nil where nothing is said.
func (s *Settings) GetTopology() *meshapi.Topology {
	if s == nil {
		return nil
	}
	return s.Topology
}

// GetHeaders is nil where nothing is said.
func (s *Settings) GetHeaders() *meshapi.ProxyConfig_ProxyHeaders {
	if s == nil {
		return nil
	}
	return s.Headers
}
