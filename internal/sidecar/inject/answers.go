package inject

import (
	"crypto/sha256"
	"sync"

	admission "k8s.io/api/admission/v1"
)

// maxAnswers is how many answers are remembered, of some kilobytes each.
const maxAnswers = 512

// answers are what pods became. Those of one workload are alike to the byte, and come many at once; to make an answer is much more work
// than to find it.
type answers struct {
	mu    sync.Mutex
	of    *Config // those of others are forgotten
	known map[answerKey]*admission.AdmissionResponse
}

// answerKey is all that an answer depends on.
type answerKey struct {
	config *Config
	native bool
	pod    [sha256.Size]byte // with its namespace
}

func keyOf(config *Config, native bool, request *admission.AdmissionRequest) answerKey {
	key, hash := answerKey{config: config, native: native}, sha256.New()
	hash.Write([]byte(request.Namespace + "\x00"))
	hash.Write(request.Object.Raw)
	hash.Sum(key.pod[:0])
	return key
}

// get returns an answer, which is not to be changed; nil if there is none.
func (a *answers) get(key answerKey) *admission.AdmissionResponse {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.known[key]
}

func (a *answers) put(key answerKey, answer *admission.AdmissionResponse) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.of != key.config || len(a.known) >= maxAnswers {
		a.of, a.known = key.config, map[answerKey]*admission.AdmissionResponse{}
	}
	a.known[key] = answer
}
