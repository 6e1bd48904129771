package apply

import (
	"sort"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// DriftMode is what becomes of an object that somebody changed or deleted after it was applied.
type DriftMode string

// The drift modes.
const (
	DriftCorrect DriftMode = "Correct" // it is made as it should be
	DriftWarn    DriftMode = "Warn"    // it is reported
	DriftIgnore  DriftMode = "Off"     // it is left, and not looked at
)

// Ignore leaves fields of objects to whoever sets them.
type Ignore struct {
	// Kind and Name say of which objects; empty is all.
	Kind, Name string
	// Paths are the steps of each field, such as spec, template, metadata, annotations, x.
	Paths [][]string
}

// Policy says what of the cluster's objects may differ from what is applied. Its zero value corrects everything and
// takes over what others own.
type Policy struct {
	Drift  DriftMode
	Ignore []Ignore
	// Yield names objects whose drift is reported and not corrected, whatever Drift says. Nil is none.
	Yield func(Ref) bool
	// Foreign names the other owner of a live object, if it has one, and whether they share it: then it stays as it is.
	Foreign func(live Object) (owner string, shared bool)
}

func (p Policy) foreign(live Object) (owner string, shared bool) {
	if p.Foreign == nil {
		return "", false
	}
	return p.Foreign(live)
}

// onDrift is what happens to an object that drifted: Corrected, Drifted or, if nobody looks, Unchanged.
func (p Policy) onDrift(ref Ref) Action {
	switch {
	case p.Drift == DriftIgnore:
		return Unchanged
	case p.Drift == DriftWarn, p.Yield != nil && p.Yield(ref):
		return Drifted
	}
	return Corrected
}

// leave makes the ignored fields of desired what they are in live; without live it takes them away.
func (p Policy) leave(desired, live Object) {
	for _, rule := range p.Ignore {
		if rule.Kind != "" && rule.Kind != desired.GetKind() || rule.Name != "" && rule.Name != desired.GetName() {
			continue
		}
		for _, path := range rule.Paths {
			unstructured.RemoveNestedField(desired.Object, path...)
			if live == nil {
				continue
			}
			// An error says that the path leads through a list or a scalar: nothing is there.
			if value, found, err := unstructured.NestedFieldCopy(live.Object, path...); err == nil && found {
				_ = unstructured.SetNestedField(desired.Object, value, path...)
			}
		}
	}
}

// lastManager is who changed the object last beside us; empty if nobody did.
func lastManager(live Object) string {
	entries := live.GetManagedFields()
	sort.SliceStable(entries, func(i, j int) bool {
		return entries[i].Time != nil && entries[j].Time != nil && entries[i].Time.After(entries[j].Time.Time)
	})
	for _, entry := range entries {
		if entry.Manager != FieldManager && entry.Subresource == "" {
			return entry.Manager
		}
	}
	return ""
}
