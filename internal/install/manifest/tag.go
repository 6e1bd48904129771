package manifest

import (
	"fmt"
	"regexp"
)

// LabelTag names the tag of a webhook configuration that serves one.
const LabelTag = "istio.io/tag"

var tagForm = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,54}[a-z0-9])?$`)

// TagOptions is a tag, the revision that it stands for, and where its control plane is.
type TagOptions struct {
	Tag, Revision, Namespace string
	// InjectByDefault makes the tag called default serve the namespaces that say nothing.
	InjectByDefault bool
}

// RenderTag returns the webhook configuration of a tag: namespaces and pods that ask for the tag are injected by the
// revision.
func RenderTag(o TagOptions) (Object, error) {
	if !tagForm.MatchString(o.Tag) {
		return nil, fmt.Errorf("tag %q must be lower-case letters, digits and dashes, at most 56", o.Tag)
	}
	revision := o.Revision
	if revision == "default" {
		revision = ""
	}
	merged, err := Resolve(Options{Hub: "none", Tag: "none"}, Layer{Name: "tag", Spec: map[string]any{
		"profile": "minimal", "namespace": o.Namespace, "revision": revision,
		"values": map[string]any{"revisionTags": []any{o.Tag}, "sidecarInjectorWebhook": map[string]any{"enableNamespacesByDefault": o.InjectByDefault}},
	}})
	if err != nil {
		return nil, err
	}
	typed, err := decode(merged.Spec)
	if err != nil {
		return nil, err
	}
	values, err := helmValues(merged.Spec, typed, component{kind: kindPilot, namespace: o.Namespace})
	if err != nil {
		return nil, err
	}
	objects, err := renderChart("", kindPilot.chart, o.Namespace, values)
	if err != nil {
		return nil, err
	}
	for _, object := range objects {
		if object.GetLabels()[LabelTag] == o.Tag {
			return object, nil
		}
	}
	return nil, fmt.Errorf("the chart renders nothing for tag %s", o.Tag)
}
