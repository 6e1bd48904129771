package lifecycle

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/slipway-mesh/slipway/api/v1alpha1"
	"github.com/slipway-mesh/slipway/internal/install/apply"
	"github.com/slipway-mesh/slipway/internal/install/manifest"
)

// A resource that is kept at an installation is not rendered: what it was then is what it stays. So is a mesh that was
// adopted: its first installation is how it was found, and nothing of it changes until somebody wants it to.

// keptAt is the number of the installation that a spec is kept at; 0 is none.
func keptAt(spec map[string]any) (int, v1alpha1.LifecycleSpec, error) {
	var lifecycle v1alpha1.LifecycleSpec
	text, err := json.Marshal(spec["lifecycle"])
	if err != nil {
		return 0, lifecycle, err
	}
	if err := json.Unmarshal(text, &lifecycle); err != nil {
		return 0, lifecycle, fmt.Errorf("spec.lifecycle: %w", err)
	}
	if lifecycle.Installation == nil {
		return 0, lifecycle, nil
	}
	return int(*lifecycle.Installation), lifecycle, nil
}

// Kept is the installation that the owner's spec is kept at, as a target; nil if it is kept at none.
func (i Installer) Kept(ctx context.Context, owner Owner, spec map[string]any) (*Target, error) {
	number, lifecycle, err := keptAt(spec)
	if number == 0 || err != nil {
		return nil, err
	}
	kept, err := i.LastGood(ctx, owner, number)
	if err != nil {
		return nil, fmt.Errorf("spec.lifecycle.installation: %w", err)
	}
	target := kept.Target
	target.Lifecycle, target.kept = lifecycle, true
	return target, nil
}

// Found makes a target of objects that another installer made: they are to stay as they are, but for the labels that say
// whose they are. Version and revision are the mesh's.
func Found(owner Owner, spec map[string]any, version, revision string, components []manifest.Component) *Target {
	for _, component := range components {
		for _, object := range component.Objects {
			labels := object.GetLabels()
			if labels == nil {
				labels = map[string]string{}
			}
			labels[manifest.LabelOwner], labels[manifest.LabelOwnerNamespace] = owner.Name, owner.Namespace
			labels[manifest.LabelComponent] = component.Name
			object.SetLabels(labels)
		}
	}
	return &Target{Owner: owner, Spec: spec, Version: version, Revision: revision, Components: components, kept: true, hashes: map[apply.Object]string{}}
}

// Adopt stores a found mesh as its owner's first installation, which the owner's spec can then be kept at. The cluster's
// other objects are not touched.
func (i Installer) Adopt(ctx context.Context, found *Target) error {
	stored, err := i.stored(ctx, found.Owner)
	if err != nil {
		return err
	}
	if len(stored) == 1 && stored[0].Is(found) {
		return nil // somebody was interrupted
	}
	if len(stored) > 0 {
		return fmt.Errorf("%s has installations of its own already: adopt the mesh under another name", found.Owner)
	}
	return i.keep(ctx, found)
}
