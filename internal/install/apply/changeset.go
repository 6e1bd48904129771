package apply

import (
	"fmt"
	"strings"
)

// Action is what happened to an object.
type Action string

// The actions, in kubectl's words.
const (
	Created    Action = "created"
	Configured Action = "configured"
	Unchanged  Action = "unchanged"
	Pruned     Action = "pruned"
	// Kept is an object that was left as it is, on purpose: a CRD that is newer than ours, or what another owner shares.
	Kept Action = "kept"
	// Corrected is an object that somebody had changed or deleted; Drifted is one that was left so.
	Corrected Action = "corrected"
	Drifted   Action = "drifted"
)

// Change is what happened to one object.
type Change struct {
	Ref    Ref
	Action Action
	// Fields are what differs between what was there and what is, for Configured, Corrected and Drifted.
	Fields []Field
	// Manager is who changed an object that is Corrected or Drifted, as far as the object says.
	Manager string
	// Reason is why an object is Kept.
	Reason string
	// Record is what the inventory is to keep of the object.
	Record string
}

// Wrote says whether the cluster was changed.
func (c Change) Wrote() bool {
	return c.Action != Unchanged && c.Action != Kept && c.Action != Drifted
}

// Paths are those of the fields that differ.
func (c Change) Paths() []string {
	var paths []string
	for _, field := range c.Fields {
		paths = append(paths, field.Path)
	}
	return paths
}

// ChangeSet is what happened to each object, in order. Log, events, status and plans all print it.
type ChangeSet []Change

// Wrote says whether anything in the cluster was changed.
func (s ChangeSet) Wrote() bool {
	for _, change := range s {
		if change.Wrote() {
			return true
		}
	}
	return false
}

// String is a line such as "3 created, 31 unchanged".
func (s ChangeSet) String() string {
	counts := map[Action]int{}
	for _, change := range s {
		counts[change.Action]++
	}
	var parts []string
	for _, action := range []Action{Created, Configured, Corrected, Drifted, Pruned, Kept, Unchanged} {
		if counts[action] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", counts[action], action))
		}
	}
	return strings.Join(parts, ", ")
}
