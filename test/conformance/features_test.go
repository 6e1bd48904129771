package conformance

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	meshapi "istio.io/api/mesh/v1alpha1"
	networking "istio.io/api/networking/v1alpha3"
	security "istio.io/api/security/v1beta1"
	telemetry "istio.io/api/telemetry/v1alpha1"

	"github.com/slipway-mesh/slipway/test/kubetest"
)

var update = flag.Bool("update", false, "write the proved features into docs/features.md")

// kind is one whose fields docs/features.md counts.
type kind struct {
	name    string
	message proto.Message
	shallow bool // of the mesh's own configuration each part is one field
}

func (k kind) fields() []string {
	d := k.message.ProtoReflect().Descriptor()
	if !k.shallow {
		return leaves(k.name, d, nil)
	}
	var out []string
	for i := range d.Fields().Len() {
		out = append(out, k.name+"."+d.Fields().Get(i).JSONName())
	}
	return out
}

var kinds = []kind{
	{"VirtualService", &networking.VirtualService{}, false}, {"DestinationRule", &networking.DestinationRule{}, false}, {"Gateway", &networking.Gateway{}, false},
	{"ServiceEntry", &networking.ServiceEntry{}, false}, {"Sidecar", &networking.Sidecar{}, false}, {"WorkloadEntry", &networking.WorkloadEntry{}, false},
	{"WorkloadGroup", &networking.WorkloadGroup{}, false}, {"EnvoyFilter", &networking.EnvoyFilter{}, false}, {"PeerAuthentication", &security.PeerAuthentication{}, false},
	{"RequestAuthentication", &security.RequestAuthentication{}, false}, {"AuthorizationPolicy", &security.AuthorizationPolicy{}, false}, {"Telemetry", &telemetry.Telemetry{}, false}, {"MeshConfig", &meshapi.MeshConfig{}, true},
}

// proved has the cases that passed, with their negative controls, by field.
var proved = struct {
	sync.Mutex
	cases map[string][]string
}{cases: map[string][]string{}}

// unknown returns a field that a case says it proves and that its kind does not have.
func (f feature) unknown() string {
	for _, field := range strings.Fields(f.proves) {
		for _, kind := range kinds {
			if strings.HasPrefix(field, kind.name+".") && !slices.Contains(kind.fields(), field) {
				return field
			}
		}
	}
	return ""
}

func (f feature) passed() {
	proved.Lock()
	defer proved.Unlock()
	for _, field := range strings.Fields(f.proves) {
		if !slices.Contains(proved.cases[field], f.name) {
			proved.cases[field] = append(proved.cases[field], f.name)
		}
	}
}

// leaves lists the fields below a message that hold values. What other APIs define is one value, and so are the ways in
// which a text can match.
func leaves(path string, d protoreflect.MessageDescriptor, above []protoreflect.FullName) []string {
	var out []string
	for i := range d.Fields().Len() {
		f := d.Fields().Get(i)
		name := path + "." + f.JSONName()
		if f.Kind() == protoreflect.MessageKind && !f.IsMap() && f.Message().Fields().Len() > 0 && strings.HasPrefix(string(f.Message().FullName()), "istio.") &&
			f.Message().Name() != "StringMatch" && !slices.Contains(above, f.Message().FullName()) {
			out = append(out, leaves(name, f.Message(), append(above, d.FullName()))...)
			continue
		}
		out = append(out, name)
	}
	return out
}

// meaningless are fields that do nothing, here as in Istio, by the beginnings of their names.
var meaningless = []string{
	"VirtualService.http.fault.delay.exponentialDelay", "VirtualService.http.fault.abort.http2Error", "VirtualService.tcp.match.sourceSubnet", // never implemented
	"Gateway.servers.defaultEndpoint", "EnvoyFilter.configPatches.patch.filterClass",
	"Gateway.servers.port.targetPort", "Sidecar.ingress.port.targetPort", "Sidecar.egress.port.targetPort", // of ServiceEntries only
	"Sidecar.ingress.port.name", "Sidecar.egress.port.name", "Sidecar.ingress.tls.httpsRedirect", // names, and what a sidecar has no use for
	"WorkloadGroup.template.address",                                       // it is the workload's own
	"EnvoyFilter.configPatches.match.listener.portName",                    // not implemented there either
	"EnvoyFilter.configPatches.match.waypoint.", "EnvoyFilter.targetRefs.", // of waypoints, which there are none of
}

func isMeaningless(field string) bool {
	return slices.ContainsFunc(meaningless, func(name string) bool { return strings.HasPrefix(field, name) })
}

const begin, end = "<!-- begin: written by the conformance tests -->\n", "<!-- end -->\n"

// table is what docs/features.md says of the fields.
func table() string {
	var out strings.Builder
	known := map[string]bool{}
	fmt.Fprint(&out, "| kind | fields | proved | without a meaning |\n|---|---|---|---|\n")
	rows, missing, idle := "", "", ""
	for _, kind := range kinds {
		fields := kind.fields()
		var unproved, useless []string
		for _, field := range fields {
			known[field] = true
			if cases := proved.cases[field]; len(cases) > 0 {
				slices.Sort(cases)
				rows += fmt.Sprintf("| `%s` | %s |\n", field, strings.Join(cases, "; "))
			} else if isMeaningless(field) {
				useless = append(useless, "`"+field+"`")
			} else {
				unproved = append(unproved, "`"+strings.TrimPrefix(field, kind.name+".")+"`")
			}
		}
		fmt.Fprintf(&out, "| %s | %d | %d | %d |\n", kind.name, len(fields), len(fields)-len(unproved)-len(useless), len(useless))
		if len(useless) > 0 {
			idle += strings.Join(useless, ", ") + "\n"
		}
		missing += fmt.Sprintf("\n**%s**: %s\n", kind.name, strings.Join(unproved, ", "))
	}
	for _, field := range slices.Sorted(maps.Keys(proved.cases)) {
		if known[field] {
			continue
		}
		slices.Sort(proved.cases[field])
		rows += fmt.Sprintf("| `%s` | %s |\n", field, strings.Join(proved.cases[field], "; "))
	}
	fmt.Fprintf(&out, "\nProved, by which case:\n\n| field | cases |\n|---|---|\n%s\nWithout a meaning, here as in Istio:\n\n%s\nWithout a case, whether there or not:\n%s", rows, idle, missing)
	return out.String()
}

// TestMain runs all tests; then docs/features.md must say what they proved.
func TestMain(m *testing.M) {
	code := m.Run()
	if code == 0 && flag.Lookup("test.run").Value.String() == "" {
		if err := writeFeatures(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

func writeFeatures() error {
	root, err := kubetest.FindRoot()
	if err != nil {
		return err
	}
	file := filepath.Join(root, "docs", "features.md")
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	before, rest, ok1 := strings.Cut(string(text), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok1 || !ok2 {
		return fmt.Errorf("%s has no place for the table", file)
	}
	if want := before + begin + "\n" + table() + "\n" + end + after; want != string(text) {
		if !*update {
			return fmt.Errorf("docs/features.md does not say what the tests prove; run go test ./test/conformance -update")
		}
		return os.WriteFile(file, []byte(want), 0o644) //nolint:gosec // a document
	}
	return nil
}
