package lifecycle

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strings"

	"github.com/slipway-mesh/slipway/api/v1alpha1"
	"github.com/slipway-mesh/slipway/internal/install/apply"
	"github.com/slipway-mesh/slipway/internal/install/manifest"
)

// Owner is whose installation it is: an IstioOperator resource, or for `slipway install` a name that stands for one.
type Owner struct {
	Namespace, Name string
}

// installedState is the name that an installation by the CLI is kept under; Istio's CLI uses the same.
const installedState = "installed-state"

// CommandLine is the owner of what the CLI installs as a revision; "" is the one without a name.
func CommandLine(namespace, revision string) Owner {
	if revision != "" {
		return Owner{namespace, installedState + "-" + revision}
	}
	return Owner{namespace, installedState}
}

// IsCommandLine says whether the owner stands for the CLI, and so for no resource.
func (o Owner) IsCommandLine() bool {
	return o.Name == installedState || strings.HasPrefix(o.Name, installedState+"-")
}

// String is such as IstioOperator istio-system/mesh.
func (o Owner) String() string {
	if o.IsCommandLine() {
		return "`slipway install` (" + o.Namespace + "/" + o.Name + ")"
	}
	return "IstioOperator " + o.Namespace + "/" + o.Name
}

const inventoryPrefix = "istio-operator-inventory-"

func (o Owner) inventoryName() string { return inventoryPrefix + o.Name }

func ownerOf(object apply.Object) Owner {
	labels := object.GetLabels()
	return Owner{Namespace: labels[manifest.LabelOwnerNamespace], Name: labels[manifest.LabelOwner]}
}

// owns says whether an object carries the owner's labels.
func (o Owner) owns(object apply.Object) bool { return ownerOf(object) == o }

// Build is what an operator or CLI brings to an installation beside the spec.
type Build struct {
	// Hub and Tag are where its images are.
	Hub, Tag string
	Version  string
	// Profiles are the user's own, by name.
	Profiles map[string][]byte
}

// Target is what is to be installed for an owner.
type Target struct {
	Owner Owner
	// Spec is what the owner wrote; the profile is not merged in.
	Spec       map[string]any
	Version    string
	Revision   string
	Lifecycle  v1alpha1.LifecycleSpec
	Components []manifest.Component

	// kept says that the objects are those of an installation of the past, or as they were found.
	kept   bool
	hashes map[apply.Object]string
}

// Render renders a resource's spec for its owner. The control plane's namespace is the resource's where the spec does
// not say another.
func Render(build Build, owner Owner, spec map[string]any) (*Target, error) {
	options := manifest.Options{Hub: build.Hub, Tag: build.Tag, Version: build.Version, Profiles: build.Profiles,
		Owner: owner.Name, OwnerNamespace: owner.Namespace, Namespace: owner.Namespace}
	manifests, err := manifest.Render(options, manifest.Layer{Name: owner.String(), Spec: spec})
	if err != nil {
		return nil, err
	}
	target := &Target{Owner: owner, Spec: spec, Version: build.Version, Revision: manifests.Typed.RevisionName(), Components: manifests.Components, hashes: map[apply.Object]string{}}
	if manifests.Typed.Lifecycle != nil {
		target.Lifecycle = *manifests.Typed.Lifecycle
	}
	return target, nil
}

// Objects returns the objects of all components.
func (t *Target) Objects() []apply.Object {
	var all []apply.Object
	for _, component := range t.Components {
		all = append(all, component.Objects...)
	}
	return all
}

// hash identifies the objects of the target, CRDs left out.
func (t *Target) hash() string {
	sum := sha256.New()
	encoder := json.NewEncoder(sum)
	for _, component := range withoutCRDs(t.Components) {
		for _, object := range component.Objects {
			_ = encoder.Encode(object.Object) // what was rendered can be written
		}
	}
	return hex.EncodeToString(sum.Sum(nil)[:8])
}

func withoutCRDs(components []manifest.Component) []manifest.Component {
	out := make([]manifest.Component, len(components))
	for i, component := range components {
		out[i] = component
		out[i].Objects = nil
		for _, object := range component.Objects {
			if object.GetKind() != "CustomResourceDefinition" {
				out[i].Objects = append(out[i].Objects, object)
			}
		}
	}
	return out
}
