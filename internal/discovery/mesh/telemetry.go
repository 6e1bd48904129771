package mesh

import (
	"maps"
	"slices"
	"strings"

	meshapi "istio.io/api/mesh/v1alpha1"
	telemetry "istio.io/api/telemetry/v1alpha1"
)

// Telemetry says what is told of the calls of some workloads.
type Telemetry struct {
	Owner
	Selector map[string]string
	Created  int64
	Spec     *telemetry.Telemetry
	// Form is equal for equal specs.
	Form string
}

// Watch is what is told of calls at one end of them.
type Watch struct {
	Logs  []LogTo
	Trace *Trace // nil where no spans are reported
	// Metrics are those that are not counted as ever.
	Metrics map[telemetry.MetricSelector_IstioMetric]Counting
}

// Counting is how a metric is counted.
type Counting struct {
	Off bool
	// Labels are CEL expressions of what labels say, by name; an empty one takes the label away.
	Labels map[string]string
}

// LogTo is one access log. The provider without a name is MeshConfig's own file.
type LogTo struct {
	Provider *meshapi.MeshConfig_ExtensionProvider
	// Filter is a CEL expression of what is logged; empty is all.
	Filter string
}

// Trace is how calls are traced.
type Trace struct {
	Provider *meshapi.MeshConfig_ExtensionProvider
	// Percent of the calls that nobody has decided about before are traced.
	Percent float64
	Tags    map[string]*telemetry.Tracing_CustomTag
	// IstioTags adds what Istio tells of workloads.
	IstioTags bool
	// MaxTagLength of a path in characters; 0 is Envoy's.
	MaxTagLength uint32
	// ByRequestID says that who has no trace is traced by its request ID.
	ByRequestID bool
	// Alone keeps the trace from those who are called.
	Alone bool
}

// The ends of a call, as Watches are indexed.
const (
	AtCaller = iota
	AtCalled
)

// Watches are what is told at both ends.
type Watches [2]Watch

// Uses says whether something is told to a host.
func (w Watches) Uses(host string) bool {
	for _, end := range w {
		if end.Trace != nil && TraceService(end.Trace.Provider).is(host) {
			return true
		}
		if slices.ContainsFunc(end.Logs, func(l LogTo) bool { return LogService(l.Provider).is(host) }) {
			return true
		}
	}
	return false
}

// Observers are what MeshConfig says of telemetry.
type Observers struct {
	Providers map[string]*meshapi.MeshConfig_ExtensionProvider
	// Logs and Tracing name the providers where nobody names others.
	Logs, Tracing []string
	// OtherLogs are in the place of Logs where there are none.
	OtherLogs []string
	// Trace is how calls are traced where nobody says.
	Trace Trace
	// Known says whether a provider's service is there: Envoy would refuse what leads to none.
	Known func(service string, port uint32) bool
}

// Default is what is told where no Telemetry says.
func (o Observers) Default() Watches {
	var out Watches
	logs := o.Logs
	if len(logs) == 0 {
		logs = o.OtherLogs
	}
	for i := range out {
		for _, name := range logs {
			if p := o.provider(name); p != nil {
				out[i].Logs = append(out[i].Logs, LogTo{Provider: p})
			}
		}
		if len(o.Tracing) > 0 {
			out[i].Trace = o.trace(o.provider(o.Tracing[0]))
		} else {
			out[i].Trace = o.trace(o.Trace.Provider)
		}
	}
	return out
}

// trace is the default with a provider; nil without one that can be reached.
func (o Observers) trace(p *meshapi.MeshConfig_ExtensionProvider) *Trace {
	if p == nil || TraceService(p) == nil {
		return nil
	}
	out := o.Trace
	out.Provider = p
	return &out
}

// provider finds a provider that can be reached.
func (o Observers) provider(name string) *meshapi.MeshConfig_ExtensionProvider {
	p := o.Providers[name]
	if p == nil {
		return nil
	}
	for _, at := range []*ServicePort{LogService(p), TraceService(p)} {
		if at != nil && !o.Known(at.Service, at.Port) {
			return nil
		}
	}
	return p
}

// ServicePort is where a provider is.
type ServicePort struct {
	Service string // HOST or NAMESPACE/HOST
	Port    uint32
}

func (s *ServicePort) is(host string) bool { return s != nil && ProviderHost(s.Service) == host }

// ProviderHost is the host of a provider's service, which is HOST or NAMESPACE/HOST.
func ProviderHost(service string) string {
	if _, host, qualified := strings.Cut(service, "/"); qualified {
		return host
	}
	return service
}

// Reports says whether a provider of logs or of tracing is at one of the hosts.
func Reports(p *meshapi.MeshConfig_ExtensionProvider, hosts map[string]struct{}) bool {
	for _, at := range []*ServicePort{LogService(p), TraceService(p)} {
		if at != nil {
			if _, there := hosts[ProviderHost(at.Service)]; there {
				return true
			}
		}
	}
	return false
}

// LogService is where a provider of logs is; nil for others, and for files.
func LogService(p *meshapi.MeshConfig_ExtensionProvider) *ServicePort {
	switch v := p.GetProvider().(type) {
	case *meshapi.MeshConfig_ExtensionProvider_EnvoyOtelAls:
		return &ServicePort{v.EnvoyOtelAls.Service, v.EnvoyOtelAls.Port}
	case *meshapi.MeshConfig_ExtensionProvider_EnvoyHttpAls:
		return &ServicePort{v.EnvoyHttpAls.Service, v.EnvoyHttpAls.Port}
	case *meshapi.MeshConfig_ExtensionProvider_EnvoyTcpAls:
		return &ServicePort{v.EnvoyTcpAls.Service, v.EnvoyTcpAls.Port}
	}
	return nil
}

// TraceService is where a provider of tracing is; nil for others.
func TraceService(p *meshapi.MeshConfig_ExtensionProvider) *ServicePort {
	switch v := p.GetProvider().(type) {
	case *meshapi.MeshConfig_ExtensionProvider_Opentelemetry:
		return &ServicePort{v.Opentelemetry.Service, v.Opentelemetry.Port}
	case *meshapi.MeshConfig_ExtensionProvider_Zipkin:
		return &ServicePort{v.Zipkin.Service, v.Zipkin.Port}
	}
	return nil
}

// ofMode says whether a setting is for an end of calls.
func ofMode(mode telemetry.WorkloadMode, end int) bool {
	return mode == telemetry.WorkloadMode_CLIENT_AND_SERVER || (mode == telemetry.WorkloadMode_CLIENT) == (end == AtCaller)
}

// With is what is told when an object of a narrower place speaks as well.
func (w Watches) With(t *Telemetry, o Observers) Watches {
	for end := range w {
		w[end].Logs = withLogs(w[end].Logs, t.Spec.AccessLogging, end, o)
		w[end].Trace = withTracing(w[end].Trace, t.Spec.Tracing, end, o)
		w[end].Metrics = withMetrics(w[end].Metrics, t.Spec.Metrics, end)
	}
	return w
}

// withLogs: where providers are named they take the place of those before; otherwise those of before, or the default ones, are meant.
func withLogs(logs []LogTo, settings []*telemetry.AccessLogging, end int, o Observers) []LogTo {
	settings = slices.DeleteFunc(slices.Clone(settings), func(s *telemetry.AccessLogging) bool { return !ofMode(s.GetMatch().GetMode(), end) })
	out := slices.Clone(logs)
	if slices.ContainsFunc(settings, func(s *telemetry.AccessLogging) bool { return len(s.Providers) > 0 && !s.GetDisabled().GetValue() }) {
		out = nil
	}
	for _, s := range settings {
		var meant []*meshapi.MeshConfig_ExtensionProvider
		for _, ref := range s.Providers {
			if p := o.provider(ref.Name); p != nil {
				meant = append(meant, p)
			}
		}
		if len(s.Providers) == 0 {
			for _, l := range logs {
				meant = append(meant, l.Provider)
			}
		}
		for _, p := range meant {
			out = slices.DeleteFunc(out, func(l LogTo) bool { return l.Provider.Name == p.Name })
			if !s.GetDisabled().GetValue() {
				out = append(out, LogTo{p, s.GetFilter().GetExpression()})
			}
		}
	}
	return out
}

func withTracing(trace *Trace, settings []*telemetry.Tracing, end int, o Observers) *Trace {
	for _, s := range settings {
		if !ofMode(s.GetMatch().GetMode(), end) {
			continue
		}
		if len(s.Providers) > 0 {
			next := o.trace(o.provider(s.Providers[0].Name))
			if next != nil && trace != nil { // what is said otherwise stays
				kept := *trace
				kept.Provider = next.Provider
				next = &kept
			}
			trace = next
		}
		if trace == nil {
			continue
		}
		next := *trace
		if s.RandomSamplingPercentage != nil {
			next.Percent = s.RandomSamplingPercentage.Value
		}
		if len(s.CustomTags) > 0 {
			next.Tags = s.CustomTags
		}
		if s.EnableIstioTags != nil {
			next.IstioTags = s.EnableIstioTags.Value
		}
		if s.UseRequestIdForTraceSampling != nil {
			next.ByRequestID = s.UseRequestIdForTraceSampling.Value
		}
		if s.DisableContextPropagation != nil {
			next.Alone = s.DisableContextPropagation.Value
		}
		if trace = &next; s.GetDisableSpanReporting().GetValue() {
			trace = nil
		}
	}
	return trace
}

func withMetrics(metrics map[telemetry.MetricSelector_IstioMetric]Counting, settings []*telemetry.Metrics, end int) map[telemetry.MetricSelector_IstioMetric]Counting {
	for _, s := range settings {
		for _, override := range s.Overrides {
			if override.Disabled == nil && len(override.TagOverrides) == 0 || !ofMode(override.GetMatch().GetMode(), end) || override.GetMatch().GetCustomMetric() != "" {
				continue
			}
			metrics = maps.Clone(metrics)
			if metrics == nil {
				metrics = map[telemetry.MetricSelector_IstioMetric]Counting{}
			}
			for number := range telemetry.MetricSelector_IstioMetric_name {
				metric := telemetry.MetricSelector_IstioMetric(number)
				if asked := override.GetMatch().GetMetric(); asked == telemetry.MetricSelector_ALL_METRICS || asked == metric {
					metrics[metric] = metrics[metric].with(override)
				}
			}
		}
	}
	return metrics
}

// with is how a metric is counted when more is said of it: what was said of other labels stays.
func (c Counting) with(override *telemetry.MetricsOverrides) Counting {
	if override.Disabled != nil {
		c.Off = override.Disabled.Value
	}
	if len(override.TagOverrides) == 0 {
		return c
	}
	c.Labels = maps.Clone(c.Labels)
	if c.Labels == nil {
		c.Labels = map[string]string{}
	}
	for name, tag := range override.TagOverrides {
		c.Labels[name] = tag.Value
		if tag.Operation == telemetry.MetricsOverrides_TagOverride_REMOVE {
			c.Labels[name] = ""
		}
	}
	return c
}
