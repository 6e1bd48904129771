// Package trustbundle is the roots that a control plane tells an agent to trust, as they stand on the wire. It must not know
// Kubernetes or Envoy.
//
// The message is Istio's, istio.mesh.v1alpha1.ProxyConfig, of which one field is used: ca_certificates_pem. It is read and written
// here by hand, since the message's Go types would be most of what an agent has in memory.
package trustbundle

import (
	"errors"

	"google.golang.org/protobuf/encoding/protowire"
)

// TypeURL names the message in xDS.
const TypeURL = "type.googleapis.com/istio.mesh.v1alpha1.ProxyConfig"

// Name is that of the one resource of this type.
const Name = "default"

const certificatesField = 34

// Marshal writes certificates in PEM, the one that signs first.
func Marshal(roots []string) []byte {
	var out []byte
	for _, root := range roots {
		out = protowire.AppendString(protowire.AppendTag(out, certificatesField, protowire.BytesType), root)
	}
	return out
}

// Unmarshal reads what Marshal wrote. Other fields are passed over.
func Unmarshal(message []byte) ([]string, error) {
	var out []string
	for len(message) > 0 {
		field, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return nil, errors.New("the roots are malformed")
		}
		message = message[n:]
		if n = protowire.ConsumeFieldValue(field, kind, message); n < 0 {
			return nil, errors.New("the roots are malformed")
		}
		if field == certificatesField && kind == protowire.BytesType {
			root, _ := protowire.ConsumeString(message)
			out = append(out, root)
		}
		message = message[n:]
	}
	return out, nil
}
