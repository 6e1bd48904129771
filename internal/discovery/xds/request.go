package xds

import (
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/slipway-mesh/slipway/internal/discovery/envoy"
)

// request is a delta request. What the proxy says that it holds is left as it came: it is as large as the mesh, is read once, and is
// mostly just what there is. The message's own field for it is empty.
type request struct {
	*discovery.DeltaDiscoveryRequest
	held held
}

const heldField = 5 // initial_resource_versions of DeltaDiscoveryRequest

// unmarshal reads a request. It keeps data where the proxy holds something.
func (r *request) unmarshal(data []byte) error {
	size := 0 // of what is not held
	err := eachField(data, func(field protowire.Number, whole, _ []byte) error {
		if field != heldField {
			size += len(whole)
		}
		return nil
	})
	if err != nil {
		return err
	}
	rest := data
	if size < len(data) {
		r.held, rest = data, make([]byte, 0, size)
		_ = eachField(data, func(field protowire.Number, whole, _ []byte) error {
			if field != heldField {
				rest = append(rest, whole...)
			}
			return nil
		})
	}
	r.DeltaDiscoveryRequest = &discovery.DeltaDiscoveryRequest{}
	return proto.Unmarshal(rest, r.DeltaDiscoveryRequest)
}

// eachField visits a message's fields: their number, all of their bytes, and what is in them where they hold bytes.
func eachField(data []byte, visit func(field protowire.Number, whole, value []byte) error) error {
	for len(data) > 0 {
		field, kind, tag := protowire.ConsumeTag(data)
		if tag < 0 {
			return protowire.ParseError(tag)
		}
		length := protowire.ConsumeFieldValue(field, kind, data[tag:])
		if length < 0 {
			return protowire.ParseError(length)
		}
		var value []byte
		if kind == protowire.BytesType {
			value, _ = protowire.ConsumeBytes(data[tag:])
		}
		if err := visit(field, data[:tag+length], value); err != nil {
			return err
		}
		data = data[tag+length:]
	}
	return nil
}

// held is a request whose initial_resource_versions are what a proxy holds; nil is nothing.
type held []byte

// each visits the names and versions. The request was read once, so that it can be again.
func (h held) each(visit func(name, version []byte)) {
	_ = eachField(h, func(field protowire.Number, _, entry []byte) error {
		if field != heldField {
			return nil
		}
		var name, version []byte
		err := eachField(entry, func(field protowire.Number, _, value []byte) error {
			switch field { // of a map's entry
			case 1:
				name = value
			case 2:
				version = value
			}
			return nil
		})
		if err == nil {
			visit(name, version)
		}
		return nil
	})
}

// versions is what is held, by name.
func (h held) versions() map[string]string {
	out := map[string]string{}
	h.each(func(name, version []byte) { out[string(name)] = string(version) })
	return out
}

// compare tells what of it is not as in some sections, which is little; and whether all that is in the sections is held, be it in another
// version.
func (h held) compare(now []*envoy.Section, differs func(name, version string, there bool)) (complete bool) {
	known, all := 0, 0
	h.each(func(name, version []byte) {
		for _, section := range now {
			if r, there := section.Items.Get(name); there {
				if known++; r.Version != string(version) {
					differs(r.Name, string(version), true)
				}
				return
			}
		}
		differs(string(name), string(version), false)
	})
	for _, section := range now {
		all += section.Len()
	}
	return known >= all
}
