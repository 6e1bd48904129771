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
	// Kept is an object that was left as it is, on purpose: a CRD that is newer than ours.
	Kept Action = "kept"
)

// Change is what happened to one object.
type Change struct {
	Ref    Ref
	Action Action
}

// ChangeSet is what happened to each object, in order. Log, events, status and plans all print it.
type ChangeSet []Change

// Wrote says whether anything in the cluster was changed.
func (s ChangeSet) Wrote() bool {
	for _, change := range s {
		if change.Action != Unchanged && change.Action != Kept {
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
	for _, action := range []Action{Created, Configured, Pruned, Kept, Unchanged} {
		if counts[action] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", counts[action], action))
		}
	}
	return strings.Join(parts, ", ")
}
