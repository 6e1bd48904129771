package identity

import "testing"

func TestParse(t *testing.T) {
	if id, err := Parse("spiffe://td/ns/a/sa/b"); err != nil || id != (ID{"td", "a", "b"}) {
		t.Errorf("%v %v", id, err)
	}
	for _, bad := range []string{"", "http://td/ns/a/sa/b", "spiffe://td/ns/a/sa", "spiffe://td/ns//sa/b", "spiffe://td/ns/a/sa/b/c"} {
		if _, err := Parse(bad); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}
