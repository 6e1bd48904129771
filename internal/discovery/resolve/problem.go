package resolve

import (
	"fmt"
	"slices"

	"github.com/slipway-mesh/slipway/internal/discovery/world"
)

// Problem is a mistake in a user's object: which object, where in it, and what to do.
type Problem struct {
	Kind, Namespace, Name string
	// Field is a path such as spec.http[1].route.
	Field string
	// Reason is one word for programs.
	Reason  string
	Message string
	// Refuse says that the object can never work as written, so that admission refuses it.
	Refuse bool
}

// String is a line for people.
func (p Problem) String() string {
	return fmt.Sprintf("%s %s/%s: %s: %s", p.Kind, p.Namespace, p.Name, p.Field, p.Message)
}

// The reasons.
const (
	ReasonInvalid     = "Invalid"
	ReasonMissing     = "Missing"
	ReasonUnsupported = "Unsupported"
	ReasonDeprecated  = "Deprecated"
	// ReasonUnreachable is of a rule that another one stands before, ReasonIneffective of a match that another one has already.
	ReasonUnreachable = "Unreachable"
	ReasonIneffective = "Ineffective"
	// ReasonHost is of hosts that no server of a Gateway takes, ReasonPort of a destination of many ports that names none.
	ReasonHost = "HostNotTaken"
	ReasonPort = "PortNeeded"
	// ReasonPortName is of a port whose name tells no protocol, ReasonDuplicate of two objects of which one can count.
	ReasonPortName  = "PortName"
	ReasonDuplicate = "Duplicate"
	// ReasonReference is of an object that another one names and that is not there.
	ReasonReference = "ReferenceNotFound"
)

// codes are Istio's, where it has one for the reason. https://istio.io/latest/docs/reference/config/analysis/
var codes = map[string]string{
	ReasonReference: "IST0101", ReasonInvalid: "IST0106", ReasonMissing: "IST0106", ReasonDeprecated: "IST0002", ReasonUnreachable: "IST0130", ReasonIneffective: "IST0131", ReasonHost: "IST0132",
	ReasonPort: "IST0112", ReasonPortName: "IST0118", ReasonDuplicate: "IST0111", ReasonUnsupported: "SLW0001",
}

// The levels, as istioctl has them.
const (
	LevelError   = "Error"
	LevelWarning = "Warning"
	LevelInfo    = "Info"
)

// Reasons lists what is looked for, a line each: the code and the reason.
func Reasons() []string {
	var lines []string
	for reason, code := range codes {
		lines = append(lines, code+" "+reason)
	}
	slices.Sort(lines)
	return lines
}

// Code is the message's number.
func (p Problem) Code() string { return codes[p.Reason] }

// Level says how bad it is: an Error keeps something from working.
func (p Problem) Level() string {
	switch {
	case p.Refuse || p.Reason == ReasonReference:
		return LevelError
	case p.Reason == ReasonPortName || p.Reason == ReasonDeprecated:
		return LevelInfo
	}
	return LevelWarning
}

// report collects the problems of one object.
type report struct {
	kind, namespace, name string
	list                  []Problem
}

// refuse notes what can never work.
func (r *report) refuse(field, format string, args ...any) {
	r.add(field, ReasonInvalid, true, fmt.Sprintf(format, args...))
}

// warn notes what may not work as meant.
func (r *report) warn(field, reason, format string, args ...any) {
	r.add(field, reason, false, fmt.Sprintf(format, args...))
}

func (r *report) add(field, reason string, refuse bool, message string) {
	r.list = append(r.list, Problem{Kind: r.kind, Namespace: r.namespace, Name: r.name, Field: field, Reason: reason, Message: message, Refuse: refuse})
}

// keepProblems replaces what is known to be wrong with one object.
func (s *step) keepProblems(r *report) {
	s.problems = put(s.problems, world.Key(r.kind, r.namespace, r.name), r.list, len(r.list) > 0)
}
