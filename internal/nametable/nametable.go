// Package nametable is the table of names that a control plane tells an agent's DNS proxy, as it stands on the wire. It must not know
// Kubernetes or Envoy.
//
// The message is Istio's, istio.networking.nds.v1.NameTable: a map (field 1) from a host to its addresses (1), registry (2), short
// name (3) and namespace (4). Its Go types are in no module that is made to be imported, and it is read and written here by hand.
package nametable

import (
	"errors"

	"google.golang.org/protobuf/encoding/protowire"
)

// TypeURL names the message in xDS.
const TypeURL = "type.googleapis.com/istio.networking.nds.v1.NameTable"

// The registries that a host can come from.
const (
	Kubernetes = "Kubernetes"
	External   = "External"
)

// Entry is one host with its addresses. Host may begin with "*.". Short and Namespace are those of a Kubernetes Service.
type Entry struct {
	Host      string
	Addresses []string
	Registry  string
	Short     string
	Namespace string
}

const (
	tableField = 1
	keyField   = 1 // of a map's entry
	valueField = 2

	addressField   = 1
	registryField  = 2
	shortField     = 3
	namespaceField = 4
)

// Marshal writes entries as a NameTable. Tables that stand one after the other are one table, as with every protobuf map.
func Marshal(entries ...Entry) []byte {
	var out []byte
	for _, e := range entries {
		var info []byte
		for _, address := range e.Addresses {
			info = appendText(info, addressField, address)
		}
		info = appendText(info, registryField, e.Registry)
		info = appendText(info, shortField, e.Short)
		info = appendText(info, namespaceField, e.Namespace)
		pair := appendText(nil, keyField, e.Host)
		pair = protowire.AppendBytes(protowire.AppendTag(pair, valueField, protowire.BytesType), info)
		out = protowire.AppendBytes(protowire.AppendTag(out, tableField, protowire.BytesType), pair)
	}
	return out
}

func appendText(out []byte, field protowire.Number, text string) []byte {
	if text == "" {
		return out
	}
	return protowire.AppendString(protowire.AppendTag(out, field, protowire.BytesType), text)
}

// Unmarshal reads a NameTable. Fields that are not known are passed over.
func Unmarshal(table []byte) ([]Entry, error) {
	var out []Entry
	err := eachBytes(table, func(field protowire.Number, pair []byte) error {
		if field != tableField {
			return nil
		}
		var e Entry
		err := eachBytes(pair, func(field protowire.Number, value []byte) error {
			switch field {
			case keyField:
				e.Host = string(value)
			case valueField:
				return e.read(value)
			}
			return nil
		})
		out = append(out, e)
		return err
	})
	return out, err
}

func (e *Entry) read(info []byte) error {
	return eachBytes(info, func(field protowire.Number, value []byte) error {
		switch field {
		case addressField:
			e.Addresses = append(e.Addresses, string(value))
		case registryField:
			e.Registry = string(value)
		case shortField:
			e.Short = string(value)
		case namespaceField:
			e.Namespace = string(value)
		}
		return nil
	})
}

// errMalformed says that bytes are no protobuf message.
var errMalformed = errors.New("the name table is malformed")

// eachBytes visits the fields of a message that have a length.
func eachBytes(message []byte, visit func(protowire.Number, []byte) error) error {
	for len(message) > 0 {
		field, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return errMalformed
		}
		message = message[n:]
		if kind != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(field, kind, message); n < 0 {
				return errMalformed
			}
			message = message[n:]
			continue
		}
		value, n := protowire.ConsumeBytes(message)
		if n < 0 {
			return errMalformed
		}
		if err := visit(field, value); err != nil {
			return err
		}
		message = message[n:]
	}
	return nil
}
