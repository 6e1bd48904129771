package kubetest

import (
	"context"
	"fmt"

	admission "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Play plays the parts of kubelet and control plane on a server without nodes: it says of every Deployment whether its
// pods run, and where they do it gives the injectors their bundle and closes them. What is so already is not written.
func Play(ctx context.Context, kube client.Client, run bool) error {
	deployments := &appsv1.DeploymentList{}
	if err := kube.List(ctx, deployments); err != nil {
		return err
	}
	for k := range deployments.Items {
		d, n := &deployments.Items[k], int32(1)
		if d.Spec.Replicas != nil {
			n = *d.Spec.Replicas
		}
		want := appsv1.DeploymentStatus{ObservedGeneration: d.Generation, Replicas: n, UpdatedReplicas: n}
		if run {
			want.ReadyReplicas, want.AvailableReplicas = n, n
		}
		if equality.Semantic.DeepEqual(d.Status, want) {
			continue
		}
		d.Status = want
		if err := kube.Status().Update(ctx, d); err != nil {
			return fmt.Errorf("status of Deployment %s: %w", d.Name, err)
		}
	}
	if !run {
		return nil
	}
	return closeInjectors(ctx, kube)
}

func closeInjectors(ctx context.Context, kube client.Client) error {
	injectors := &admission.MutatingWebhookConfigurationList{}
	if err := kube.List(ctx, injectors); err != nil {
		return err
	}
	fail := admission.Fail
	for k := range injectors.Items {
		changed := false
		for w := range injectors.Items[k].Webhooks {
			webhook := &injectors.Items[k].Webhooks[w]
			if webhook.ClientConfig.Service != nil && len(webhook.ClientConfig.CABundle) == 0 {
				webhook.ClientConfig.CABundle, webhook.FailurePolicy, changed = []byte("a"), &fail, true
			}
		}
		if !changed {
			continue
		}
		if err := kube.Update(ctx, &injectors.Items[k], client.FieldOwner("pilot-discovery")); err != nil {
			return fmt.Errorf("injector %s: %w", injectors.Items[k].Name, err)
		}
	}
	return nil
}
