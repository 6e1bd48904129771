package golden

import (
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	networking "istio.io/client-go/pkg/apis/networking/v1"
	filter "istio.io/client-go/pkg/apis/networking/v1alpha3"
	security "istio.io/client-go/pkg/apis/security/v1"
	telemetry "istio.io/client-go/pkg/apis/telemetry/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/slipway-mesh/slipway/internal/discovery"
	"github.com/slipway-mesh/slipway/internal/discovery/envoy"
	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
	"github.com/slipway-mesh/slipway/internal/discovery/resolve"
	"github.com/slipway-mesh/slipway/internal/discovery/source"
	"github.com/slipway-mesh/slipway/internal/discovery/xds"
	"github.com/slipway-mesh/slipway/test/envoytest"
	"github.com/slipway-mesh/slipway/test/xdscheck"
)

// randomKinds make an object of each kind, whose spec is filled at random.
var randomKinds = []func(metav1.ObjectMeta) (kind string, object any, spec proto.Message){
	func(m metav1.ObjectMeta) (string, any, proto.Message) {
		o := &networking.VirtualService{ObjectMeta: m}
		return "VirtualService", o, &o.Spec
	},
	func(m metav1.ObjectMeta) (string, any, proto.Message) {
		o := &networking.DestinationRule{ObjectMeta: m}
		return "DestinationRule", o, &o.Spec
	},
	func(m metav1.ObjectMeta) (string, any, proto.Message) {
		o := &networking.ServiceEntry{ObjectMeta: m}
		return "ServiceEntry", o, &o.Spec
	},
	func(m metav1.ObjectMeta) (string, any, proto.Message) {
		o := &networking.Gateway{ObjectMeta: m}
		return "Gateway", o, &o.Spec
	},
	func(m metav1.ObjectMeta) (string, any, proto.Message) {
		o := &networking.Sidecar{ObjectMeta: m}
		return "Sidecar", o, &o.Spec
	},
	func(m metav1.ObjectMeta) (string, any, proto.Message) {
		o := &networking.WorkloadEntry{ObjectMeta: m}
		return "WorkloadEntry", o, &o.Spec
	},
	func(m metav1.ObjectMeta) (string, any, proto.Message) {
		o := &filter.EnvoyFilter{ObjectMeta: m}
		return "EnvoyFilter", o, &o.Spec
	},
	func(m metav1.ObjectMeta) (string, any, proto.Message) {
		o := &security.PeerAuthentication{ObjectMeta: m}
		return "PeerAuthentication", o, &o.Spec
	},
	func(m metav1.ObjectMeta) (string, any, proto.Message) {
		o := &security.RequestAuthentication{ObjectMeta: m}
		return "RequestAuthentication", o, &o.Spec
	},
	func(m metav1.ObjectMeta) (string, any, proto.Message) {
		o := &telemetry.Telemetry{ObjectMeta: m}
		return "Telemetry", o, &o.Spec
	},
	func(m metav1.ObjectMeta) (string, any, proto.Message) {
		o := &security.AuthorizationPolicy{ObjectMeta: m}
		return "AuthorizationPolicy", o, &o.Spec
	},
}

// randomTexts are good and bad for most fields that there are.
var randomTexts = []string{"", "*", "a", "default", "http", "HTTP", "TCP", "TLS", "HTTPS", "HTTP_PROXY", "s0", "s1.default.svc.cluster.local", "*.test", "o1.test", "a.*.test", "-", "./*", "*/*", "other/s0", "~/*", "mesh", "g0", "v1", ".", "10.0.0.1",
	"10.0.0.0/8", "fd00::1", "300.1.1.1", "127.0.0.1:80", "unix:///tmp/x", "/", "/path", "x-header", ":authority", "set-cookie", "[a-z]+", "(", "2.5", "gateway-error,503", "v1/a=b", "\x00", "ü", "GET", "cluster.local/ns/a/sa/b", "request.headers[x]", "source.ip",
	"request.auth.claims[a][b]", "connection.sni", "{*}", "envoy.filters.http.router", "https://o1.test/keys", "{\"keys\":[]}", "%REQ(x)%", "%", "100", "region/zone/*", "topology.istio.io/network", "inbound|80||"}

var randomNumbers = []int64{0, 1, 2, 15, 80, 81, 443, 8080, 15001, 65535, 65536, 70000, 1 << 30, -1}

// fill sets fields of a message at random, to what may be right and to what may not.
func fill(r *rand.Rand, m protoreflect.Message, depth int) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		switch {
		case r.IntN(5) > 1 && depth > 0 || depth > 9:
			continue
		case f.IsMap():
			values := m.Mutable(f).Map()
			for range r.IntN(3) {
				key := protoreflect.ValueOfString(randomTexts[r.IntN(len(randomTexts))]).MapKey()
				if f.MapKey().Kind() == protoreflect.Uint32Kind {
					key = protoreflect.ValueOfUint32(uint32(80 + r.IntN(3))).MapKey()
				}
				if f.MapValue().Kind() == protoreflect.MessageKind {
					value := values.NewValue()
					fill(r, value.Message(), depth+1)
					values.Set(key, value)
				} else {
					values.Set(key, scalar(r, f.MapValue()))
				}
			}
		case f.IsList():
			list := m.Mutable(f).List()
			for range 1 + r.IntN(2) {
				if f.Kind() == protoreflect.MessageKind {
					element := list.NewElement()
					message(r, element.Message(), depth)
					list.Append(element)
				} else {
					list.Append(scalar(r, f))
				}
			}
		case f.Kind() == protoreflect.MessageKind:
			message(r, m.Mutable(f).Message(), depth)
		default:
			m.Set(f, scalar(r, f))
		}
	}
}

// message fills a message; those that are values have values.
func message(r *rand.Rand, m protoreflect.Message, depth int) {
	switch v := m.Interface().(type) {
	case *durationpb.Duration:
		d := []time.Duration{0, time.Millisecond, time.Second, 90 * time.Second, 100 * time.Hour, -time.Second}[r.IntN(6)]
		v.Seconds, v.Nanos = int64(d/time.Second), int32(d%time.Second)
	case *structpb.Struct:
		v.Fields = map[string]*structpb.Value{randomTexts[r.IntN(len(randomTexts))]: structpb.NewStringValue("x"), "name": structpb.NewStringValue("added")}
	default:
		fill(r, m, depth+1)
	}
}

func scalar(r *rand.Rand, f protoreflect.FieldDescriptor) protoreflect.Value {
	number := randomNumbers[r.IntN(len(randomNumbers))]
	switch f.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(randomTexts[r.IntN(len(randomTexts))])
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte(randomTexts[r.IntN(len(randomTexts))]))
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(r.IntN(2) == 0)
	case protoreflect.EnumKind:
		values := f.Enum().Values()
		return protoreflect.ValueOfEnum(values.Get(r.IntN(values.Len())).Number())
	case protoreflect.Int32Kind, protoreflect.Sint32Kind:
		return protoreflect.ValueOfInt32(int32(number))
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(uint32(number))
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(number)
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(uint64(number))
	case protoreflect.FloatKind:
		return protoreflect.ValueOfFloat32(float32([]float64{0, 1, 50, 100, 1000, -1}[r.IntN(6)]))
	}
	return protoreflect.ValueOfFloat64([]float64{0, 1, 50, 99.5, 100, 1000, -1, math.MaxFloat64}[r.IntN(8)])
}

// randomObjects are Services that are right, and objects of every kind that may be anything.
func randomObjects(seed uint64) []source.Change {
	r := rand.New(rand.NewPCG(seed, 21))
	var changes []source.Change
	for i := range 3 {
		name := fmt.Sprintf("s%d", i)
		changes = append(changes, source.Change{Kind: "Service", Namespace: "default", Name: name, Object: &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
			Spec: corev1.ServiceSpec{ClusterIP: fmt.Sprintf("10.0.0.%d", 1+i), Selector: map[string]string{"app": name}, Ports: []corev1.ServicePort{{Name: []string{"http", "tcp", "x"}[i], Port: 80, TargetPort: intstr.FromInt32(8080)}, {Name: "https", Port: 443}}}}})
	}
	changes = append(changes, source.Change{Kind: "ConfigMap", Namespace: "istio-system", Name: "istio", Object: &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "istio-system", Name: "istio"}, Data: map[string]string{"mesh": randomProviders}}})
	for range 1 + r.IntN(6) {
		meta := metav1.ObjectMeta{Namespace: []string{"default", "other", "istio-system"}[r.IntN(3)], Name: fmt.Sprintf("g%d", r.IntN(3)), CreationTimestamp: metav1.NewTime(time.Unix(int64(r.IntN(3)), 0))}
		kind, object, spec := randomKinds[r.IntN(len(randomKinds))](meta)
		fill(r, spec.ProtoReflect(), 0)
		changes = append(changes, source.Change{Kind: kind, Namespace: meta.Namespace, Name: meta.Name, Object: object})
	}
	return changes
}

// randomProviders are what names of randomTexts may mean.
const randomProviders = `{accessLogFile: /dev/stdout, accessLogEncoding: JSON, defaultProviders: {tracing: [a]}, extensionProviders: [
{name: a, opentelemetry: {service: s0.default.svc.cluster.local, port: 80}}, {name: http, envoyOtelAls: {service: s1.default.svc.cluster.local, port: 80}},
{name: v1, zipkin: {service: nowhere.test, port: 9411}}, {name: default, envoyHttpAls: {service: s2.default.svc.cluster.local, port: 443}}, {name: mesh, envoyTcpAls: {service: s2.default.svc.cluster.local, port: 443}}]}`

var randomProxies = []*mesh.Proxy{
	{ID: "sidecar", Kind: mesh.SidecarProxy, Namespace: "default", Labels: map[string]string{"app": "s0"}, Addresses: []string{"10.1.0.1"}, Metadata: map[string]string{"DNS_CAPTURE": "true"}},
	{ID: "gateway", Kind: mesh.Router, Namespace: "istio-system", Labels: map[string]string{"istio": "ingressgateway"}, Addresses: []string{"10.1.0.2"}},
}

// made is all that the proxies are sent for objects.
func made(changes []source.Change) []map[string][]*envoy.Resource {
	state, _ := resolve.Next(resolve.Start(resolve.Options{ClusterID: "Kubernetes", Domain: "cluster.local", RootNamespace: "istio-system", MeshConfigMap: "istio", Patches: discovery.PatchMistakes}), changes)
	_, _ = state.Problems(), state.Analyze()
	var out []map[string][]*envoy.Resource
	for _, proxy := range randomProxies {
		out = append(out, xds.Resources(state.World, proxy))
	}
	return out
}

// inspect makes what a seed stands for twice, and looks at it.
func inspect(t *testing.T, seed uint64) []map[string][]*envoy.Resource {
	t.Helper()
	first, second := made(randomObjects(seed)), made(randomObjects(seed))
	for i := range first {
		for url, list := range first[i] {
			for k, r := range list {
				if again := second[i][url]; len(again) != len(list) || again[k].Version != r.Version {
					t.Fatalf("seed %d: %s is another one the second time", seed, r.Name)
				}
			}
		}
		for _, err := range xdscheck.Check(first[i]) {
			t.Errorf("seed %d, %s: %v", seed, randomProxies[i].ID, err)
		}
	}
	return first
}

// FuzzObjects looks for objects that stop the control plane, or make it say what it may never say.
func FuzzObjects(f *testing.F) {
	f.Add(uint64(1))
	f.Fuzz(func(t *testing.T, seed uint64) { inspect(t, seed) })
}

var seeds = flag.Uint64("seeds", 3000, "how many sets of random objects to look at")

// TestRandomObjects does the same with a few thousand, and puts some of what comes out to the real Envoy.
func TestRandomObjects(t *testing.T) {
	for seed := range *seeds {
		resources := inspect(t, seed)
		if seed%150 == 0 {
			for _, r := range resources {
				envoytest.Validate(t, configuration(t, r))
			}
		}
	}
}
