package identity

import (
	"strings"
	"testing"
)

func TestWorkloadInACertificate(t *testing.T) {
	for _, w := range []Workload{
		{Name: "reviews-v1", Service: "reviews", Revision: "v1"}, {Name: "a", Service: "b", Revision: "latest", App: "c_d", Version: "1.0"},
		{Name: strings.Repeat("n", 63), Service: strings.Repeat("s", 63), Revision: strings.Repeat("r", 63)},
	} {
		name := w.DNSName()
		for _, label := range strings.Split(name, ".") {
			if len(label) == 0 || len(label) > 63 {
				t.Errorf("%q has a label of %d characters", name, len(label))
			}
		}
		if got, ok := ParseWorkload(name); !ok || got != w {
			t.Errorf("%+v is read back as %+v, %v", w, got, ok)
		}
	}
	for _, name := range []string{"", "www.example.com", "!.workload.slipway.internal", ".workload.slipway.internal"} {
		if w, ok := ParseWorkload(name); ok {
			t.Errorf("%q is read as %+v", name, w)
		}
	}
	if name := (Workload{}).DNSName(); name != "" {
		t.Errorf("nothing is written as %q", name)
	}
}
