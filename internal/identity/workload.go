package identity

import (
	"encoding/base32"
	"strings"

	"google.golang.org/protobuf/types/known/structpb"
)

// Workload is what telemetry calls a workload by. It stands in its certificate beside its identity, so that the other side of a
// connection knows it without being told in each request. It is what the workload says of itself: nothing is decided by it.
type Workload struct {
	Name, Service, Revision string // of the Deployment, and canonical
	App, Version            string // the labels of these names, where they differ from Service and Revision
}

// workloadSuffix ends the DNS name that a Workload is written as. No resolver is ever asked for it.
const workloadSuffix = ".workload.slipway.internal"

// longestPart is how long each of a Workload's texts may be; what is longer is cut off.
const longestPart = 63

var workloadEncoding = base32.HexEncoding.WithPadding(base32.NoPadding)

// DNSName writes the workload as a name for a certificate; empty if nothing is known.
func (w Workload) DNSName() string {
	if w == (Workload{}) {
		return ""
	}
	parts := []string{w.Name, w.Service, w.Revision, w.App, w.Version}
	for i, part := range parts {
		parts[i] = strings.ReplaceAll(part[:min(len(part), longestPart)], ";", "_")
	}
	text := strings.ToLower(workloadEncoding.EncodeToString([]byte(strings.Join(parts, ";"))))
	var labels []string
	for len(text) > longestPart {
		labels, text = append(labels, text[:longestPart]), text[longestPart:]
	}
	return strings.Join(append(labels, text), ".") + workloadSuffix
}

// ParseWorkload reads what DNSName wrote.
func ParseWorkload(name string) (Workload, bool) {
	text, ok := strings.CutSuffix(name, workloadSuffix)
	if !ok {
		return Workload{}, false
	}
	raw, err := workloadEncoding.DecodeString(strings.ToUpper(strings.ReplaceAll(text, ".", "")))
	parts := strings.Split(string(raw), ";")
	if err != nil || len(parts) != 5 {
		return Workload{}, false
	}
	return Workload{Name: parts[0], Service: parts[1], Revision: parts[2], App: parts[3], Version: parts[4]}, true
}

// The keys of a certificate request's metadata.
const (
	workloadKey = "WORKLOAD_NAME"
	serviceKey  = "CANONICAL_SERVICE"
	revisionKey = "CANONICAL_REVISION"
	appKey      = "APP"
	versionKey  = "VERSION"
)

func (w Workload) metadata() *structpb.Struct {
	fields := map[string]*structpb.Value{}
	for key, value := range map[string]string{workloadKey: w.Name, serviceKey: w.Service, revisionKey: w.Revision, appKey: w.App, versionKey: w.Version} {
		if value != "" {
			fields[key] = structpb.NewStringValue(value)
		}
	}
	return &structpb.Struct{Fields: fields}
}

// WorkloadIn reads what a certificate request says of its workload.
func WorkloadIn(metadata *structpb.Struct) Workload {
	text := func(key string) string { return metadata.GetFields()[key].GetStringValue() }
	return Workload{Name: text(workloadKey), Service: text(serviceKey), Revision: text(revisionKey), App: text(appKey), Version: text(versionKey)}
}
