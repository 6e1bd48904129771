package resolve

import (
	"reflect"
	"slices"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"
	meshapi "istio.io/api/mesh/v1alpha1"
	networking "istio.io/api/networking/v1alpha3"
	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/yaml"

	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
)

func defaultConfig(options Options) *mesh.Config {
	return &mesh.Config{
		RootNamespace: options.RootNamespace, TrustDomain: "cluster.local", Domain: options.Domain, AllowAny: true, AutoMTLS: true,
		ConnectTimeoutMillis: 10_000, DNSRefreshMillis: 60_000, IngressService: "istio-ingressgateway",
		IngressClass: "istio", IngressSelector: "ingressgateway", Observers: observers(&meshapi.MeshConfig{}), Compliance: options.Compliance,
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
	visibility := (*meshapi.ServiceEntryVisibility)(nil)
	if object != nil {
		api, err := ReadMeshConfig(object)
		if err != nil {
			r.refuse("data.mesh", "cannot be read, so what was read before stands: %v", err)
			return
		}
		readConfig(config, api)
		notFollowed(api, r)
		if _, err := selectors(api); err != nil {
			r.refuse("data.mesh.discoverySelectors", "%v; all namespaces are read", err)
		}
		readOutside(config, api.OutboundTrafficPolicy, r)
		config.TrustedRoots, config.Bundles = trustedRoots(config, api, r)
		config.BundleRoots = s.bundleRoots(config.Bundles)
		config.Observers = observers(api)
		visibility = api.ServiceEntryVisibility
		if config.Traffic != nil {
			config.Traffic = sound(config.Traffic, "data.mesh.defaultTrafficPolicy", r)
		}
		if config.Keepalive != nil {
			config.Keepalive = sound(config.Keepalive, "data.mesh.tcpKeepalive", r)
		}
	}
	s.setVisibility(visibility, r)
	if reflect.DeepEqual(config, s.base) {
		return
	}
	if !reflect.DeepEqual(config.ZoneAware, s.base.ZoneAware) {
		s.countPlaces(nil, s.base.ZoneAware, nil, -1)
		s.countPlaces(nil, config.ZoneAware, nil, 1)
	}
	s.countSources(s.base.Bundles, -1)
	s.countSources(config.Bundles, 1)
	identities := config.TrustDomain != s.base.TrustDomain || config.RootNamespace != s.base.RootNamespace
	s.base = config
	s.dirty.All = true
	s.watch()
	s.allIngresses()
	if identities {
		s.allStale()
	}
}

// allStale makes the endpoints of every service be computed anew.
func (s *step) allStale() {
	s.services.Root().Walk(func(_ []byte, service *corev1.Service) bool {
		s.stale[s.hostOf(service.Namespace, service.Name)] = staleService{service.Namespace, service.Name}
		return false
	})
	s.entries.Root().Walk(func(_ []byte, entry *networkingv1.ServiceEntry) bool {
		for _, host := range entry.Spec.Hosts {
			s.staleEntries[staleEntry{host, entry.Namespace}] = true
		}
		return false
	})
}

// unfollowed are the fields that change nothing here.
var unfollowed = []protoreflect.Name{"proxy_listen_port", "proxy_inbound_listen_port", "proxy_http_port", "hbone_idle_timeout",
	"disable_envoy_listener_log", "config_sources", "certificates", "service_settings", "service_scope_configs", "verify_certificate_at_client", "ca"}

// notFollowed tells of settings that have no effect.
func notFollowed(api *meshapi.MeshConfig, r *report) {
	api.ProtoReflect().Range(func(field protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
		if slices.Contains(unfollowed, field.Name()) {
			r.warn("data.mesh."+field.JSONName(), ReasonUnsupported, "is not carried out; take it out")
		}
		return true
	})
}

// ReadMeshConfig reads what the mesh's ConfigMap says.
func ReadMeshConfig(object *corev1.ConfigMap) (*meshapi.MeshConfig, error) {
	text, err := yaml.YAMLToJSON([]byte(object.Data["mesh"]))
	if err != nil {
		return nil, err
	}
	api := &meshapi.MeshConfig{}
	return api, protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(text, api)
}

// DiscoverySelectors are those of the mesh's ConfigMap, as MeshConfig has them: a namespace that none of them selects is not read. None is
// all namespaces, and so is what cannot be read.
func DiscoverySelectors(object *corev1.ConfigMap) []labels.Selector {
	api, err := ReadMeshConfig(object)
	if err != nil {
		return nil
	}
	out, err := selectors(api)
	if err != nil {
		return nil // told by meshConfig
	}
	return out
}

func selectors(api *meshapi.MeshConfig) ([]labels.Selector, error) {
	var out []labels.Selector
	for _, one := range api.DiscoverySelectors {
		parsed, err := selectorOf(one)
		if err != nil {
			return nil, err
		}
		out = append(out, parsed)
	}
	return out, nil
}

// readOutside reads what happens to calls of hosts in no registry.
func readOutside(config *mesh.Config, policy *meshapi.MeshConfig_OutboundTrafficPolicy, r *report) {
	if policy == nil {
		return
	}
	const field = "data.mesh.outboundTrafficPolicy.tls"
	config.AllowAny = policy.Mode != meshapi.MeshConfig_OutboundTrafficPolicy_REGISTRY_ONLY
	config.ResolveOutside = policy.Mode == meshapi.MeshConfig_OutboundTrafficPolicy_ALLOW_ANY_DYNAMIC_DNS
	switch {
	case policy.Tls == nil:
	case !config.ResolveOutside:
		r.warn(field, ReasonUnsupported, "has an effect with mode ALLOW_ANY_DYNAMIC_DNS only")
	case policy.Tls.Mode == networking.ClientTLSSettings_ISTIO_MUTUAL:
		r.refuse(field+".mode", "ISTIO_MUTUAL is for workloads of the mesh; use SIMPLE or MUTUAL")
	default:
		checkClientTLS(policy.Tls, field, r)
		config.OutsideTLS = sound(policy.Tls, field, r)
	}
}

var ingressModes = map[meshapi.MeshConfig_IngressControllerMode]mesh.IngressMode{
	meshapi.MeshConfig_DEFAULT: mesh.IngressDefault, meshapi.MeshConfig_OFF: mesh.IngressOff,
}

var pathNormalizations = map[meshapi.MeshConfig_ProxyPathNormalization_NormalizationType]mesh.PathNormalization{
	meshapi.MeshConfig_ProxyPathNormalization_NONE: mesh.PathsNone, meshapi.MeshConfig_ProxyPathNormalization_MERGE_SLASHES: mesh.PathsMergeSlashes,
	meshapi.MeshConfig_ProxyPathNormalization_DECODE_AND_MERGE_SLASHES: mesh.PathsDecode,
}

func readConfig(config *mesh.Config, api *meshapi.MeshConfig) {
	if api.TrustDomain != "" {
		config.TrustDomain = api.TrustDomain
	}
	config.TrustAliases = api.TrustDomainAliases
	if api.RootNamespace != "" {
		config.RootNamespace = api.RootNamespace
	}
	if api.EnableAutoMtls != nil {
		config.AutoMTLS = api.EnableAutoMtls.Value
	}
	if t := api.ConnectTimeout; t != nil {
		config.ConnectTimeoutMillis = t.AsDuration().Milliseconds()
	}
	if t := api.ProtocolDetectionTimeout; t != nil {
		config.DetectionTimeoutMillis = t.AsDuration().Milliseconds()
	}
	if t := api.DnsRefreshRate; t != nil {
		config.DNSRefreshMillis = t.AsDuration().Milliseconds()
	}
	config.H2Upgrade = api.H2UpgradePolicy == meshapi.MeshConfig_UPGRADE
	config.Keepalive, config.LocalityLB, config.ZoneAware, config.Retries = api.TcpKeepalive, api.LocalityLbSetting, api.ZoneAwareLbSetting, api.DefaultHttpRetryPolicy
	if p := api.DefaultTrafficPolicy; p != nil {
		config.Traffic = &networking.TrafficPolicy{ConnectionPool: p.ConnectionPool, OutlierDetection: p.OutlierDetection}
	}
	config.IngressMode = ingressModes[api.IngressControllerMode]
	if api.IngressClass != "" {
		config.IngressClass = api.IngressClass
	}
	if api.IngressSelector != "" {
		config.IngressSelector = api.IngressSelector
	}
	config.Paths = pathNormalizations[api.GetPathNormalization().GetNormalization()]
	config.Providers = map[string]*meshapi.MeshConfig_ExtensionProvider{}
	for _, p := range api.ExtensionProviders {
		config.Providers[p.Name] = p
	}
	config.ExportRoutes, config.ExportRules, config.ExportServices = api.DefaultVirtualServiceExportTo, api.DefaultDestinationRuleExportTo, api.DefaultServiceExportTo
	if api.IngressService != "" {
		config.IngressService = api.IngressService
	}
	config.InboundLocalhost = api.GetInboundTrafficPolicy().GetMode() == meshapi.MeshConfig_InboundTrafficPolicy_LOCALHOST
	config.InboundStatName, config.OutboundStatName = api.InboundClusterStatName, api.OutboundClusterStatName
	config.MeshTLS, config.OtherTLS = api.MeshMTLS, api.TlsDefaults
}
