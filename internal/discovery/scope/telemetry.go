package scope

import (
	"strings"

	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
	"github.com/slipway-mesh/slipway/internal/discovery/world"
)

// telemetryKey is equal for the same objects in the same form.
func telemetryKey(list []*mesh.Telemetry) string {
	var parts []string
	for _, t := range list {
		parts = append(parts, t.Namespace+"/"+t.Name+"@"+t.Form)
	}
	return strings.Join(parts, " ")
}

// telemetries are the objects that the scope's key names.
func (s *Scope) telemetries(w *world.World) []*mesh.Telemetry {
	var out []*mesh.Telemetry
	for _, part := range strings.Fields(s.Telemetry) {
		path, _, _ := strings.Cut(part, "@")
		namespace, name, _ := strings.Cut(path, "/")
		if t, ok := w.Telemetries.Get(world.Key(namespace, name)); ok {
			out = append(out, t)
		}
	}
	return out
}

// watched is the mesh's configuration with what objects say of telemetry.
func watched(w *world.World, list []*mesh.Telemetry) *mesh.Config {
	if len(list) == 0 {
		return w.Config
	}
	observers := w.Config.Observers
	observers.Known = w.HasService
	out := *w.Config
	out.Of = w.Config
	for _, t := range list {
		out.Watches = out.Watches.With(t, observers)
	}
	return &out
}

// Config is the mesh's configuration as it counts for what a proxy takes.
func Config(w *world.World, proxy *mesh.Proxy) *mesh.Config {
	return withSettings(watched(w, w.TelemetriesOf(proxy.Namespace, proxy.Labels)), proxy.Settings)
}

// ConfigKey is equal for proxies whose Config is the same. It costs less.
func ConfigKey(w *world.World, proxy *mesh.Proxy) string {
	return telemetryKey(w.TelemetriesOf(proxy.Namespace, proxy.Labels)) + "|" + proxy.Settings
}

// withSettings is a configuration with what the proxies' own ProxyConfig says.
func withSettings(config *mesh.Config, text string) *mesh.Config {
	if text == "" {
		return config
	}
	out := *config
	out.Of, out.Settings = config.Plain(), mesh.ParseSettings(text)
	return &out
}
