package nametable

import (
	"reflect"
	"testing"
)

func TestTablesAreOneAfterTheOther(t *testing.T) {
	a := Entry{Host: "reviews.default.svc.cluster.local", Addresses: []string{"10.0.0.1", "fd00::1"}, Registry: Kubernetes, Short: "reviews", Namespace: "default"}
	b := Entry{Host: "*.wild.test", Addresses: []string{"240.240.0.1"}, Registry: External}
	got, err := Unmarshal(append(Marshal(a), Marshal(b)...))
	if err != nil || !reflect.DeepEqual(got, []Entry{a, b}) {
		t.Errorf("%+v, %v", got, err)
	}
}

func FuzzUnmarshal(f *testing.F) {
	f.Add(Marshal(Entry{Host: "a.test", Addresses: []string{"1.2.3.4"}}))
	f.Add([]byte{0x0a, 0xff})
	f.Fuzz(func(_ *testing.T, table []byte) { _, _ = Unmarshal(table) })
}
