package mesh

// ProxyKind is what a proxy is for. The set is open.
type ProxyKind string

// The kinds, with the names that node IDs begin with.
const (
	Sidecar ProxyKind = "sidecar"
	Router  ProxyKind = "router"
)

// Flavour is which build of Envoy a proxy is.
type Flavour string

// The flavours. Stock Envoy is what needs no saying.
const (
	Stock      Flavour = ""
	IstioProxy Flavour = "istio-proxy" // has Istio's own filters
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
}

// Config is what MeshConfig says that changes what proxies are sent.
type Config struct {
	RootNamespace   string
	TrustDomain     string
	TrustAliases    []string
	Domain          string // cluster.local
	AllowAny        bool   // outboundTrafficPolicy
	AutoMTLS        bool
	AccessLogFile   string
	AccessLogFormat string
	AccessLogJSON   bool
	// ConnectTimeoutMillis and DetectionTimeoutMillis are of new connections and of protocol sniffing.
	ConnectTimeoutMillis   int64
	DetectionTimeoutMillis int64
	IngressService         string
}
