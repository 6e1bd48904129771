package apply

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strconv"
)

// What is recorded of an applied object is two hashes: of what was rendered, and of what the server made of those
// fields. The second differs from the first where the server writes a value in another way (2000m is 2) or adds
// elements to a list; comparing with it tells an edit from that without asking the server.

const recordMark = "."

// record is what the inventory keeps: hash is of the rendered object, and what live has of the shape's fields follows.
// Of a CRD that is its generation and its metadata: they say the same, and can be had without the megabyte of schemas.
func record(hash string, live, shape Object) string {
	if live.GetKind() == crd {
		return hash + recordMark + strconv.FormatInt(live.GetGeneration(), 10) + recordMark +
			hashOf(project(live.Object["metadata"], shape.Object["metadata"]))
	}
	return hash + recordMark + hashOf(project(live.Object, shape.Object))
}

// Hash identifies the content of a rendered object.
func Hash(object Object) string { return hashOf(object.Object) }

func hashOf(value any) string {
	text, err := json.Marshal(value)
	if err != nil {
		return "" // never equal to a stored one: the object is applied
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}

// project returns of live what has a counterpart in shape. A list of another length is taken whole.
func project(live, shape any) any {
	switch s := shape.(type) {
	case map[string]any:
		l, ok := live.(map[string]any)
		if !ok {
			return live
		}
		out := make(map[string]any, len(s))
		for name, child := range s {
			if value, ok := l[name]; ok {
				out[name] = project(value, child)
			}
		}
		return out
	case []any:
		l, ok := live.([]any)
		if !ok || len(l) != len(s) {
			return live
		}
		out := make([]any, len(s))
		for i := range s {
			out[i] = project(l[i], s[i])
		}
		return out
	}
	return live
}
