package mesh

import (
	"net/netip"

	meshapi "istio.io/api/mesh/v1alpha1"
	networking "istio.io/api/networking/v1alpha3"

	"github.com/slipway-mesh/slipway/internal/compliance"
)

// ProxyKind is what a proxy is for. The set is open.
type ProxyKind string

// The kinds, with the names that node IDs begin with.
const (
	SidecarProxy ProxyKind = "sidecar"
	Router       ProxyKind = "router"
)

// Flavour is which build of Envoy a proxy is.
type Flavour string

// The flavours. Stock Envoy is what needs no saying.
const (
	Stock      Flavour = ""
	IstioProxy Flavour = "istio-proxy" // has Istio's own filters
	Proxyless  Flavour = "grpc"        // no Envoy, but gRPC in an application
)

// Proxy is one connected proxy, as far as what it is sent depends on it.
type Proxy struct {
	ID        string // the node's
	Kind      ProxyKind
	Namespace string
	Name      string // of the pod
	Addresses []string
	Account   string // service account's name
	Labels    map[string]string
	Cluster   string
	Network   string
	Locality  Locality
	Node      string
	// VHDS says that virtual hosts are sent one by one.
	VHDS bool
	// Flavour says whether Istio's own filters may be named: Envoy refuses what it does not know.
	Flavour Flavour
	Build   string // version of Envoy, such as 1.40.0
	// Unprivileged says that ports below 1024 cannot be opened.
	Unprivileged bool
	// Capture is REDIRECT, TPROXY or NONE.
	Capture string
	Version string
	// Metadata are the texts that the node tells of itself.
	Metadata map[string]string
	// Settings are those fields of its ProxyConfig that change what it is sent, as JSON; see ParseSettings. Equal ones are equal texts.
	Settings string
	// TellsHealth says that the agent will tell of the workload's health.
	TellsHealth bool
}

// Group is the WorkloadGroup whose member the workload is; empty for others.
func (p *Proxy) Group() string { return p.Metadata["AUTO_REGISTER_GROUP"] }

// FindsPeers says that the proxy asks where the other instances of its workload run, as zone-aware balancing needs.
func (p *Proxy) FindsPeers() bool { return p.Metadata["ENABLE_SELF_DISCOVERY"] == "true" }

// Names says for which families of addresses the agent beside it answers the workload's DNS questions: 4, 6, 46, or none.
func (p *Proxy) Names() string {
	if p.Metadata["DNS_CAPTURE"] != "true" {
		return ""
	}
	has := map[bool]bool{}
	for _, text := range p.Addresses {
		if address, err := netip.ParseAddr(text); err == nil {
			has[address.Is6()] = true
		}
	}
	switch {
	case has[true] && has[false]:
		return "46"
	case has[true]:
		return "6"
	}
	return "4"
}

// PathNormalization is what is done to a request's path before anything looks at it.
type PathNormalization int

// The values. The zero value is Istio's default.
const (
	PathsBase PathNormalization = iota // dots, as in /a/../b
	PathsNone                          // nothing, not even those
	PathsMergeSlashes
	PathsDecode // %2F and %5C as well
)

// IngressMode says which Ingresses are served.
type IngressMode int

// The modes.
const (
	IngressStrict  IngressMode = iota // those of the mesh's class
	IngressDefault                    // and those without one
	IngressOff
)

// Config is what MeshConfig says that changes what proxies are sent.
type Config struct {
	RootNamespace string
	TrustDomain   string
	TrustAliases  []string
	Domain        string // cluster.local
	AllowAny      bool   // outboundTrafficPolicy
	// ResolveOutside looks requests' hosts up that are in no registry, in the place of going where the caller meant; with OutsideTLS, if
	// that is not nil.
	ResolveOutside bool
	OutsideTLS     *networking.ClientTLSSettings
	// EgressProxy is where calls of hosts in no registry go, if its host is not empty.
	EgressProxy Destination
	AutoMTLS    bool
	// ConnectTimeoutMillis and DetectionTimeoutMillis are of new connections and of protocol sniffing.
	ConnectTimeoutMillis   int64
	DetectionTimeoutMillis int64
	IngressService         string
	Paths                  PathNormalization
	IngressMode            IngressMode
	IngressClass           string
	IngressSelector        string // of label istio: which gateways serve Ingresses
	DNSRefreshMillis       int64
	H2Upgrade              bool // HTTP/1.1 is spoken to clusters as HTTP/2
	// InboundLocalhost sends what comes for a workload to 127.0.0.1 in the place of its own address.
	InboundLocalhost bool
	// InboundStatName and OutboundStatName are patterns of the names by which clusters are counted; empty is Envoy's own.
	InboundStatName, OutboundStatName string
	// MeshTLS is what TLS between workloads keeps to, OtherTLS all other; Compliance goes before both.
	MeshTLS, OtherTLS *meshapi.MeshConfig_TLSConfig
	Compliance        compliance.Policy
	// TrustedRoots are those that workloads trust beside the control plane's, in PEM.
	TrustedRoots []string
	// Bundles are where SPIFFE bundles are fetched, whose roots are trusted too: BundleRoots, as far as they are known.
	Bundles, BundleRoots []string
	// Settings are those of the proxies themselves.
	Settings *Settings
	// Of is the mesh's own configuration where this is that of some workloads; see Plain.
	Of *Config
	// Observers and Watches are what is told of calls: by MeshConfig, and all in all.
	Observers Observers
	Watches   Watches
	// Providers are the extension providers that policies name.
	Providers map[string]*meshapi.MeshConfig_ExtensionProvider
	// Keepalive, LocalityLB, Traffic and Retries are what counts where no rule says; nil where MeshConfig does not either.
	Keepalive  *networking.ConnectionPoolSettings_TCPSettings_TcpKeepalive
	LocalityLB *networking.LocalityLoadBalancerSetting
	ZoneAware  *networking.ZoneAwareLoadBalancerSetting
	Traffic    *networking.TrafficPolicy
	Retries    *networking.HTTPRetry
	// ExportRoutes, ExportRules and ExportServices are the exportTo of objects that have none.
	ExportRoutes, ExportRules, ExportServices []string
}

// Plain is the mesh's own configuration. What says nothing of telemetry or of hosts in no registry is the same by it.
func (c *Config) Plain() *Config {
	if c.Of != nil {
		return c.Of
	}
	return c
}
