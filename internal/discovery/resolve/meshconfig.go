package resolve

import (
	"reflect"

	"google.golang.org/protobuf/encoding/protojson"
	meshapi "istio.io/api/mesh/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
)

func defaultConfig(options Options) *mesh.Config {
	return &mesh.Config{
		RootNamespace: options.RootNamespace, TrustDomain: "cluster.local", Domain: options.Domain, AllowAny: true, AutoMTLS: true,
		ConnectTimeoutMillis: 10_000, IngressService: "istio-ingressgateway",
	}
}

// meshConfig reads the mesh's ConfigMap. One that cannot be read leaves what was read before.
func (s *step) meshConfig(name string, object *corev1.ConfigMap) {
	if name != s.options.MeshConfigMap {
		return
	}
	r := &report{kind: "ConfigMap", namespace: s.options.RootNamespace, name: name}
	defer s.keepProblems(r)
	config := defaultConfig(s.options)
	if object != nil {
		text, err := yaml.YAMLToJSON([]byte(object.Data["mesh"]))
		var api meshapi.MeshConfig
		if err == nil {
			err = protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(text, &api)
		}
		if err != nil {
			r.refuse("data.mesh", "cannot be read, so what was read before stands: %v", err)
			return
		}
		readConfig(config, &api)
	}
	if reflect.DeepEqual(config, s.World.Config) {
		return
	}
	identities := config.TrustDomain != s.World.Config.TrustDomain
	s.World.Config = config
	s.dirty.All = true
	if identities {
		for _, service := range s.allServices() {
			s.stale[s.hostOf(service.Namespace, service.Name)] = staleService{service.Namespace, service.Name}
		}
	}
}

func (s *step) allServices() []*corev1.Service {
	var all []*corev1.Service
	s.services.Root().Walk(func(_ []byte, service *corev1.Service) bool {
		all = append(all, service)
		return false
	})
	return all
}

func readConfig(config *mesh.Config, api *meshapi.MeshConfig) {
	if api.TrustDomain != "" {
		config.TrustDomain = api.TrustDomain
	}
	config.TrustAliases = api.TrustDomainAliases
	if api.RootNamespace != "" {
		config.RootNamespace = api.RootNamespace
	}
	if policy := api.OutboundTrafficPolicy; policy != nil {
		config.AllowAny = policy.Mode != meshapi.MeshConfig_OutboundTrafficPolicy_REGISTRY_ONLY
	}
	if api.EnableAutoMtls != nil {
		config.AutoMTLS = api.EnableAutoMtls.Value
	}
	config.AccessLogFile, config.AccessLogFormat = api.AccessLogFile, api.AccessLogFormat
	config.AccessLogJSON = api.AccessLogEncoding == meshapi.MeshConfig_JSON
	if t := api.ConnectTimeout; t != nil {
		config.ConnectTimeoutMillis = t.AsDuration().Milliseconds()
	}
	if t := api.ProtocolDetectionTimeout; t != nil {
		config.DetectionTimeoutMillis = t.AsDuration().Milliseconds()
	}
	if api.IngressService != "" {
		config.IngressService = api.IngressService
	}
}
