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
	// ReasonNobody is of a selector that selects no workload; the two after it are of selectors that select the same.
	ReasonNobody             = "NoMatchingWorkloads"
	ReasonSidecarSelectors   = "ConflictingSidecars"
	ReasonTelemetrySelectors = "ConflictingTelemetries"
	ReasonTelemetries        = "MultipleTelemetries"
	// ReasonMeshHosts is of a host that two VirtualServices have, ReasonGateways of hosts that two Gateways have, ReasonCertificate of
	// a certificate that two have.
	ReasonMeshHosts   = "ConflictingHosts"
	ReasonGateways    = "ConflictingGateways"
	ReasonCertificate = "DuplicateCertificate"
	// ReasonServicePort is of a Gateway's port that no Service has, ReasonShared of a port that two Services have in different ways.
	ReasonServicePort = "PortNotOnService"
	ReasonShared      = "SharedPort"
	// ReasonConflict is of a rule and a PeerAuthentication that cannot both be, ReasonAddresses of an entry that needs addresses.
	ReasonConflict  = "MTLSConflict"
	ReasonAddresses = "AddressesNeeded"
	// ReasonPatch is of an operation without effect, ReasonRelative of one that depends on others.
	ReasonPatch    = "PatchWithoutEffect"
	ReasonRelative = "RelativePatch"
	// ReasonClaims is of claims at gateways that look at no tokens, ReasonProvider of a provider that is not there.
	ReasonClaims   = "ClaimsWithoutTokens"
	ReasonProvider = "UnknownProvider"
	// ReasonRegexp is of an expression that cannot be read.
	ReasonRegexp = "InvalidRegexp"

	// What follows is of objects that no proxy is told of, and is found out by an analysis alone.

	// ReasonNamespace is of a namespace without sidecars, ReasonLabels of one whose labels say two things, ReasonProxy of a pod that
	// should have a sidecar.
	ReasonNamespace = "NamespaceNotInjected"
	ReasonLabels    = "NamespaceLabels"
	ReasonProxy     = "PodWithoutProxy"
	// ReasonDeploymentPorts is of a Deployment whose port two Services have by two numbers, ReasonUser of an application that runs as the
	// proxy's user, ReasonImage of an image that injection would fill in.
	ReasonDeploymentPorts = "ConflictingPorts"
	ReasonUser            = "ApplicationUser"
	ReasonImage           = "ImageAuto"
	// ReasonCredential is of a Secret that is no certificate, ReasonWebhook of a webhook that nobody answers.
	ReasonCredential = "InvalidCredential"
	ReasonWebhook    = "InvalidWebhook"
	// ReasonAnnotation is of an annotation of Istio's that there is not, ReasonMisplaced of one on the wrong kind of object,
	// ReasonOldAnnotation of one that is to go.
	ReasonAnnotation    = "UnknownAnnotation"
	ReasonMisplaced     = "MisplacedAnnotation"
	ReasonOldAnnotation = "DeprecatedAnnotation"
)

// codes are Istio's, where it has one for the reason. https://istio.io/latest/docs/reference/config/analysis/
var codes = map[string]string{
	ReasonReference: "IST0101", ReasonInvalid: "IST0106", ReasonMissing: "IST0106", ReasonDeprecated: "IST0002", ReasonUnreachable: "IST0130", ReasonIneffective: "IST0131", ReasonHost: "IST0132",
	ReasonNobody: "IST0127", ReasonSidecarSelectors: "IST0110", ReasonTelemetrySelectors: "IST0159", ReasonTelemetries: "IST0160", ReasonMeshHosts: "IST0109", ReasonGateways: "IST0145",
	ReasonCertificate: "IST0138", ReasonServicePort: "IST0162", ReasonShared: "IST0116", ReasonConflict: "IST0113", ReasonAddresses: "IST0134", ReasonPatch: "IST0152", ReasonRelative: "IST0151",
	ReasonClaims: "IST0149", ReasonProvider: "IST0157", ReasonRegexp: "IST0122",
	ReasonNamespace: "IST0102", ReasonLabels: "IST0123", ReasonProxy: "IST0103", ReasonDeploymentPorts: "IST0137", ReasonUser: "IST0144", ReasonImage: "IST0146", ReasonCredential: "IST0161",
	ReasonWebhook: "IST0139", ReasonAnnotation: "IST0108", ReasonMisplaced: "IST0107", ReasonOldAnnotation: "IST0135",
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
	switch p.Reason {
	case ReasonReference, ReasonMeshHosts, ReasonGateways, ReasonProvider, ReasonCredential, ReasonWebhook, ReasonImage:
		return LevelError
	case ReasonPortName, ReasonDeprecated, ReasonRelative, ReasonNamespace, ReasonOldAnnotation:
		return LevelInfo
	}
	if p.Refuse {
		return LevelError
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
