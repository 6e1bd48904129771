package resolve

import (
	"fmt"
	"math/big"
	"net/netip"
	"regexp"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
	api "istio.io/api/networking/v1alpha3"

	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
)

// Settings that Envoy would refuse are left out: it would refuse with them all else that stands in the same resource, such as everything
// that a workload serves.

// hostPattern is of hosts, which may begin with a wildcard.
var hostPattern = regexp.MustCompile(`^(\*|(\*[.-])?[a-zA-Z0-9_]([a-zA-Z0-9_.-]*[a-zA-Z0-9_])?\.?)$`)

// isHost says whether a text can be a host, an address included.
func isHost(text string) bool {
	if _, err := netip.ParseAddr(text); err == nil {
		return true
	}
	if _, err := netip.ParsePrefix(text); err == nil {
		return true
	}
	return len(text) <= 253 && hostPattern.MatchString(text)
}

// isPort says whether a number can be a port.
func isPort(number uint32) bool { return number > 0 && number <= 65535 }

const maglevTable = "istio.networking.v1alpha3.LoadBalancerSettings.ConsistentHashLB.MagLev.table_size"

// limits are Envoy's, of numbers that have some.
var limits = map[protoreflect.FullName]uint64{
	maglevTable: 5_000_011,
	"istio.networking.v1alpha3.LoadBalancerSettings.ConsistentHashLB.RingHash.minimum_ring_size": 8 << 20,
	"istio.networking.v1alpha3.LoadBalancerSettings.ConsistentHashLB.minimum_ring_size":          8 << 20,
}

// mayBeZero are durations where none means something.
var mayBeZero = map[protoreflect.Name]bool{"idle_timeout": true, "ttl": true}

// sound returns settings without what cannot be: durations below a millisecond, numbers below zero, shares above all. It tells of each, and
// returns the same settings where there is none.
func sound[M proto.Message](settings M, field string, r *report) M {
	var bad []func(protoreflect.Message)
	look(settings.ProtoReflect(), field, r, func(clear func(protoreflect.Message)) { bad = append(bad, clear) })
	if len(bad) == 0 {
		return settings
	}
	out, _ := proto.Clone(settings).(M)
	for _, clear := range bad {
		clear(out.ProtoReflect())
	}
	return out
}

// look finds the fields of a message that cannot stand, and hands on how each is cleared.
func look(m protoreflect.Message, field string, r *report, found func(func(protoreflect.Message))) {
	if !m.IsValid() {
		return
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		at := field + "." + f.JSONName()
		switch {
		case f.IsMap():
		case f.IsList() && f.Kind() == protoreflect.MessageKind:
			for i := range v.List().Len() {
				look(v.List().Get(i).Message(), fmt.Sprintf("%s[%d]", at, i), r, func(clear func(protoreflect.Message)) {
					found(func(m protoreflect.Message) { clear(m.Get(f).List().Get(i).Message()) })
				})
			}
		case f.IsList():
		default:
			if why := cannotBe(f, v); why != "" {
				r.refuse(at, "%s", why)
				found(func(m protoreflect.Message) { m.Clear(f) })
			} else if _, isDuration := duration(f, v); f.Kind() == protoreflect.MessageKind && !isDuration {
				look(v.Message(), at, r, func(clear func(protoreflect.Message)) {
					found(func(m protoreflect.Message) { clear(m.Get(f).Message()) })
				})
			}
		}
		return true
	})
}

// cannotBe says why a value cannot stand; empty where it can.
func cannotBe(f protoreflect.FieldDescriptor, v protoreflect.Value) string {
	if d, ok := duration(f, v); ok {
		if d < time.Millisecond && (d != 0 || !mayBeZero[f.Name()]) {
			return fmt.Sprintf("%s is too short; a millisecond is the least", d)
		}
		return ""
	}
	share := strings.HasSuffix(strings.ToLower(string(f.Name())), "percent")
	if f.Kind() == protoreflect.MessageKind && share && !f.IsList() && !f.IsMap() {
		if d, ok := v.Message().Interface().(*wrapperspb.DoubleValue); ok && (d.Value < 0 || d.Value > 100) {
			return fmt.Sprintf("%v is not between 0 and 100", d.Value)
		}
	}
	if most, limited := limits[f.FullName()]; limited && v.Uint() > most {
		return fmt.Sprintf("%d is more than %d", v.Uint(), most)
	}
	if f.FullName() == maglevTable && !big.NewInt(int64(v.Uint())).ProbablyPrime(10) { //nolint:gosec // limits has looked at it
		return fmt.Sprintf("%d is no prime number, which the size of a table must be", v.Uint())
	}
	switch f.Kind() {
	case protoreflect.Int32Kind:
		if v.Int() < 0 {
			return fmt.Sprintf("%d is below zero", v.Int())
		}
		if share && v.Int() > 100 {
			return fmt.Sprintf("%d is more than 100", v.Int())
		}
	case protoreflect.Uint32Kind:
		if share && v.Uint() > 100 {
			return fmt.Sprintf("%d is more than 100", v.Uint())
		}
	}
	return ""
}

func duration(f protoreflect.FieldDescriptor, v protoreflect.Value) (time.Duration, bool) {
	if f.Kind() != protoreflect.MessageKind || f.IsList() || f.IsMap() {
		return 0, false
	}
	d, ok := v.Message().Interface().(*durationpb.Duration)
	return d.AsDuration(), ok
}

// soundPool is sound for settings that may not be there.
func soundPool(pool *api.ConnectionPoolSettings, field string, r *report) *api.ConnectionPoolSettings {
	if pool == nil {
		return nil
	}
	return sound(pool, field, r)
}

// soundRule leaves out of a rule's policies what cannot be.
func soundRule(rule *mesh.DestinationRule, r *report) {
	if rule.Policy != nil {
		rule.Policy = sound(rule.Policy, "spec.trafficPolicy", r)
	}
	for i, subset := range rule.Subsets {
		if subset.Policy != nil {
			rule.Subsets[i].Policy = sound(subset.Policy, fmt.Sprintf("spec.subsets[%d].trafficPolicy", i), r)
		}
	}
}
