package lifecycle

import (
	"github.com/slipway-mesh/slipway/internal/install/manifest"
)

// Images is where this build's images are.
type Images struct {
	Hub, Tag string
	Version  string
}

// Render renders a resource's spec for its owner. The control plane's namespace is the resource's where the spec does
// not say another.
func Render(images Images, owner Owner, spec map[string]any) (*manifest.Manifests, error) {
	options := manifest.Options{Hub: images.Hub, Tag: images.Tag, Version: images.Version, Owner: owner.Name, OwnerNamespace: owner.Namespace}
	own := manifest.Layer{Name: "resource " + owner.Namespace + "/" + owner.Name, Spec: spec}
	place := manifest.Layer{Name: "resource's namespace", Spec: map[string]any{"namespace": owner.Namespace}}
	return manifest.Render(options, place, own)
}
