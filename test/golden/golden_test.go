// Package golden shows what users' objects become: each case in testdata is a txtar file with a comment that says why it is
// there, what a user writes (input.yaml), who asks (proxy.yaml), and the resources that the case is about. All that a case
// makes is also put to the real Envoy.
package golden

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/anypb"
	"sigs.k8s.io/yaml"

	"github.com/slipway-mesh/slipway/internal/discovery/envoy"
	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
	"github.com/slipway-mesh/slipway/internal/discovery/resolve"
	"github.com/slipway-mesh/slipway/internal/discovery/source"
	"github.com/slipway-mesh/slipway/internal/discovery/xds"
	"github.com/slipway-mesh/slipway/internal/sidecar/bootstrap"
	"github.com/slipway-mesh/slipway/test/envoytest"
	"github.com/slipway-mesh/slipway/test/xdscheck"
)

var update = flag.Bool("update", false, "write what is made into the cases")

// asker is who asks, and which resources the case is about: for each type a pattern of names.
type asker struct {
	Kind, Namespace, Address string
	Labels                   map[string]string
	Show                     map[string]string
}

var sections = map[string]string{"clusters": envoy.ClusterType, "endpoints": envoy.EndpointType, "listeners": envoy.ListenerType, "routes": envoy.RouteType}

func TestGolden(t *testing.T) {
	cases, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(cases) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, file := range cases {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) { golden(t, file) })
	}
}

func golden(t *testing.T, file string) {
	archive, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if len(archive.Comment) == 0 {
		t.Error("the case does not say why it is there")
	}
	var who asker
	if err := yaml.UnmarshalStrict(part(archive, "proxy.yaml"), &who); err != nil {
		t.Fatal(err)
	}
	resources, problems := resourcesFor(t, part(archive, "input.yaml"), who)
	got := &txtar.Archive{Comment: archive.Comment, Files: []txtar.File{{Name: "input.yaml", Data: part(archive, "input.yaml")}, {Name: "proxy.yaml", Data: part(archive, "proxy.yaml")}}}
	if len(problems) > 0 {
		got.Files = append(got.Files, txtar.File{Name: "problems", Data: []byte(strings.Join(problems, "\n") + "\n")})
	}
	for _, name := range slices.Sorted(maps.Keys(who.Show)) {
		got.Files = append(got.Files, txtar.File{Name: name + ".yaml", Data: shown(t, resources[sections[name]], who.Show[name])})
	}
	if *update {
		if err := os.WriteFile(file, txtar.Format(got), 0o600); err != nil {
			t.Fatal(err)
		}
	} else if diff := cmp.Diff(string(txtar.Format(archive)), string(txtar.Format(got))); diff != "" {
		t.Errorf("not what the case says (-case +made); if it is right, run go test ./test/golden -update:\n%s", diff)
	}
	for _, err := range xdscheck.Check(resources) {
		t.Error(err)
	}
	envoytest.Validate(t, configuration(t, resources))
}

func part(archive *txtar.Archive, name string) []byte {
	for _, f := range archive.Files {
		if f.Name == name {
			return f.Data
		}
	}
	return nil
}

// resourcesFor computes what a proxy is sent for objects, and what is wrong with them.
func resourcesFor(t *testing.T, input []byte, who asker) (map[string][]*envoy.Resource, []string) {
	t.Helper()
	changes, err := source.Read(input, "default")
	if err != nil {
		t.Fatal(err)
	}
	state, _ := resolve.Next(resolve.Start(resolve.Options{ClusterID: "Kubernetes", Domain: "cluster.local", RootNamespace: "istio-system", MeshConfigMap: "istio"}), changes)
	var problems []string
	for _, p := range state.Problems() {
		problems = append(problems, p.String())
	}
	proxy := &mesh.Proxy{Kind: mesh.ProxyKind(who.Kind), Namespace: who.Namespace, Labels: who.Labels, Addresses: []string{who.Address}}
	return xds.Resources(state.World, proxy), problems
}

// shown prints the resources whose names match the pattern.
func shown(t *testing.T, resources []*envoy.Resource, pattern string) []byte {
	t.Helper()
	var out strings.Builder
	names := regexp.MustCompile(pattern)
	for _, r := range resources {
		if !names.MatchString(r.Name) {
			continue
		}
		text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		asYAML, err := yaml.JSONToYAML(text)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&out, "# %s\n%s", r.Name, asYAML)
	}
	return []byte(out.String())
}

// configuration is a bootstrap that holds all the resources, for Envoy to read at once. Routes stand in their listeners, as
// Envoy does not look at others without a control plane.
func configuration(t *testing.T, resources map[string][]*envoy.Resource) []byte {
	t.Helper()
	text, err := bootstrap.JSON(bootstrap.Options{Kind: "sidecar", Address: "10.0.0.1", Pod: "p", Namespace: "n", Domain: "d", Service: "s", XDSSocket: "/tmp/xds", SDSSocket: "/tmp/sds",
		AdminPort: 15000, StatusPort: 15020, ReadyPort: 15021, PrometheusPort: 15090})
	if err != nil {
		t.Fatal(err)
	}
	var config map[string]any
	if err := json.Unmarshal(text, &config); err != nil {
		t.Fatal(err)
	}
	tables := map[string]*route.RouteConfiguration{}
	for _, r := range resources[envoy.RouteType] {
		table := &route.RouteConfiguration{}
		if err := r.Body.UnmarshalTo(table); err != nil {
			t.Fatal(err)
		}
		tables[r.Name] = table
	}
	static := config["static_resources"].(map[string]any)
	for _, r := range resources[envoy.ClusterType] {
		static["clusters"] = append(static["clusters"].([]any), object(t, r.Body))
	}
	for _, r := range resources[envoy.ListenerType] {
		static["listeners"] = append(static["listeners"].([]any), object(t, inlined(t, r.Body, tables)))
	}
	delete(config["dynamic_resources"].(map[string]any), "lds_config")
	delete(config["dynamic_resources"].(map[string]any), "cds_config")
	if text, err = json.Marshal(config); err != nil {
		t.Fatal(err)
	}
	return text
}

func object(t *testing.T, body *anypb.Any) map[string]any {
	t.Helper()
	text, err := protojson.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	var out map[string]any
	if err := json.Unmarshal(text, &out); err != nil {
		t.Fatal(err)
	}
	delete(out, "@type")
	return out
}

// inlined puts route tables where a listener names them.
func inlined(t *testing.T, body *anypb.Any, tables map[string]*route.RouteConfiguration) *anypb.Any {
	t.Helper()
	l := &listener.Listener{}
	if err := body.UnmarshalTo(l); err != nil {
		t.Fatal(err)
	}
	chains := l.FilterChains
	if l.DefaultFilterChain != nil {
		chains = append(chains, l.DefaultFilterChain)
	}
	for _, chain := range chains {
		for _, filter := range chain.Filters {
			manager := &hcm.HttpConnectionManager{}
			if !filter.GetTypedConfig().MessageIs(manager) {
				continue
			}
			if err := filter.GetTypedConfig().UnmarshalTo(manager); err != nil {
				t.Fatal(err)
			}
			if name := manager.GetRds().GetRouteConfigName(); name != "" {
				table := tables[name]
				if table == nil {
					t.Fatalf("listener %s names the route table %s, which is not there", l.Name, name)
				}
				manager.RouteSpecifier = &hcm.HttpConnectionManager_RouteConfig{RouteConfig: table}
				packed, err := anypb.New(manager)
				if err != nil {
					t.Fatal(err)
				}
				filter.ConfigType = &listener.Filter_TypedConfig{TypedConfig: packed}
			}
		}
	}
	packed, err := anypb.New(l)
	if err != nil {
		t.Fatal(err)
	}
	return packed
}
