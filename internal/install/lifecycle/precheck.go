package lifecycle

import (
	"context"
	"fmt"

	admission "k8s.io/api/admissionregistration/v1"
	authorization "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/slipway-mesh/slipway/internal/install/manifest"
)

// Problem is what in a cluster hinders an installation, or is worth knowing before one.
type Problem struct {
	Message string `json:"message"`
	// Stops says that an installation cannot succeed with it.
	Stops bool `json:"stops"`
}

// needed lists what an installation writes, as far as a cluster's roles may forbid it.
var needed = []authorization.ResourceAttributes{
	{Group: "apiextensions.k8s.io", Resource: "customresourcedefinitions"},
	{Group: "rbac.authorization.k8s.io", Resource: "clusterroles"},
	{Group: "rbac.authorization.k8s.io", Resource: "clusterrolebindings"},
	{Group: "admissionregistration.k8s.io", Resource: "mutatingwebhookconfigurations"},
	{Group: "admissionregistration.k8s.io", Resource: "validatingwebhookconfigurations"},
	{Group: "apps", Resource: "deployments"},
	{Group: "autoscaling", Resource: "horizontalpodautoscalers"},
	{Group: "policy", Resource: "poddisruptionbudgets"},
	{Resource: "namespaces"}, {Resource: "services"}, {Resource: "configmaps"}, {Resource: "serviceaccounts"},
}

// Precheck looks for what would hinder an installation or an upgrade to the version, and changes nothing.
func (i Installer) Precheck(ctx context.Context, version string) ([]Problem, error) {
	var problems []Problem
	for _, check := range []func(context.Context, string) ([]Problem, error){i.checkRights, i.checkWebhooks, i.checkControlPlanes} {
		found, err := check(ctx, version)
		if err != nil {
			return nil, err
		}
		problems = append(problems, found...)
	}
	return problems, nil
}

func (i Installer) checkRights(ctx context.Context, _ string) ([]Problem, error) {
	var problems []Problem
	for _, attributes := range needed {
		attributes.Verb = "create"
		review := &authorization.SelfSubjectAccessReview{Spec: authorization.SelfSubjectAccessReviewSpec{ResourceAttributes: &attributes}}
		if err := i.Cluster.Client.Create(ctx, review); err != nil {
			return nil, fmt.Errorf("ask what is allowed: %w", err)
		}
		if !review.Status.Allowed {
			problems = append(problems, Problem{fmt.Sprintf("you may not create %s: %s", attributes.Resource, review.Status.Reason), true})
		}
	}
	return problems, nil
}

// checkWebhooks finds injectors of others: two for one pod would give it two sidecars.
func (i Installer) checkWebhooks(ctx context.Context, _ string) ([]Problem, error) {
	list := &admission.MutatingWebhookConfigurationList{}
	if err := i.Cluster.Client.List(ctx, list, client.MatchingLabels{"app": "sidecar-injector"}); err != nil {
		return nil, fmt.Errorf("list webhooks: %w", err)
	}
	var problems []Problem
	for k := range list.Items {
		config := &list.Items[k]
		if config.Labels[manifest.LabelOwner] == "" && config.Labels["istio.io/tag"] == "" {
			problems = append(problems, Problem{fmt.Sprintf("the injector %s is another installer's (revision %s)", config.Name, config.Labels[manifest.LabelRevision]), false})
		}
	}
	return problems, nil
}

// checkControlPlanes finds control planes that are newer, and sidecars whose control plane is gone.
func (i Installer) checkControlPlanes(ctx context.Context, version string) ([]Problem, error) {
	deployments := &metav1.PartialObjectMetadataList{}
	deployments.SetGroupVersionKind(schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "DeploymentList"})
	if err := i.Cluster.Client.List(ctx, deployments, client.MatchingLabels{"app": "istiod"}); err != nil {
		return nil, fmt.Errorf("list control planes: %w", err)
	}
	var problems []Problem
	revisions := map[string]bool{}
	for k := range deployments.Items {
		labels := deployments.Items[k].Labels
		revisions[labels[manifest.LabelRevision]] = true
		if running := labels[manifest.LabelVersion]; older(version, running) {
			problems = append(problems, Problem{fmt.Sprintf("the control plane %s is of version %s, which is newer than %s", deployments.Items[k].Name, running, version), true})
		}
	}
	lost := map[string]int{}
	err := i.eachSidecar(ctx, func(pod *metav1.PartialObjectMetadata) {
		if revision := pod.Annotations["istio.io/rev"]; revision != "" && !revisions[revision] {
			lost[revision]++
		}
	})
	for revision, pods := range lost {
		problems = append(problems, Problem{fmt.Sprintf("%d pods have sidecars of revision %s, which has no control plane", pods, revision), false})
	}
	return problems, err
}
