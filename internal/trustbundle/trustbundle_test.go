package trustbundle

import (
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"
	meshconfig "istio.io/api/mesh/v1alpha1"
)

// TestWire: the bytes are those of Istio's message, in both directions.
func TestWire(t *testing.T) {
	roots := []string{"one\n", "two\n"}
	message := &meshconfig.ProxyConfig{}
	if err := proto.Unmarshal(Marshal(roots), message); err != nil || !slices.Equal(message.CaCertificatesPem, roots) {
		t.Errorf("%v %v", message, err)
	}
	message.ConfigPath, message.StatusPort = "elsewhere", 15020
	bytes, err := proto.Marshal(message)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Unmarshal(bytes); err != nil || !slices.Equal(got, roots) {
		t.Errorf("%v %v", got, err)
	}
	for n := range bytes {
		if got, err := Unmarshal(bytes[:n]); err == nil && len(got) == len(roots) && n < len(bytes)-20 {
			t.Errorf("%d of %d bytes are read as whole", n, len(bytes))
		}
	}
	if _, err := Unmarshal([]byte{0x92, 0x02, 0x7f, 'x'}); err == nil {
		t.Error("a root that is cut off is accepted")
	}
}
