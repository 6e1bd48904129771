package conformance

import (
	"errors"
	"testing"
	"time"

	"github.com/slipway-mesh/slipway/test/kubetest"
)

// A feature is what a user writes, and a check that holds with it and does not hold without it: the negative control.
type feature struct {
	name string
	// proves lists the fields of the API that the case is about, as docs/features.md names them, separated by spaces.
	proves string
	with   string
	// without stands in place of with for the negative control; empty means that with is deleted.
	without string
	check   func(*mesh) error
}

// errHolds says that a check does not depend on what it is to prove.
var errHolds = errors.New("the check holds without the rule as well")

// followed is how long a rule may take to be followed, with checks that themselves wait for what does not come, on a machine that is busy.
const followed = 45 * time.Second

// prove runs each feature, then its negative control, and leaves what stood before.
func (m *mesh) prove(t *testing.T, features []feature) {
	t.Helper()
	for _, f := range features {
		if field := f.unknown(); field != "" {
			t.Fatalf("%s says that it proves %s, which is no field", f.name, field)
		}
	}
	for _, f := range features {
		t.Run(f.name, func(t *testing.T) {
			m.kube.Apply(t, f.with)
			kubetest.Eventually(t, followed, func() error { return f.check(m) })
			m.sound(t)
			if f.without == "" {
				m.kube.Delete(t, f.with)
			} else {
				m.kube.Apply(t, f.without)
			}
			kubetest.Eventually(t, followed, func() error {
				if f.check(m) == nil {
					return errHolds
				}
				return nil
			})
			f.passed()
			m.kube.Delete(t, f.with)
			m.kube.Apply(t, m.base)
		})
	}
}
