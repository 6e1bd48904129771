package leader

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"time"

	admission "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// CloseWebhooks gives this revision's webhook configurations the roots that our serving certificate is trusted by, and
// makes them fail closed: it is called when we answer. They are looked at again for ever, as others may undo it.
func CloseWebhooks(ctx context.Context, kube kubernetes.Interface, revision string, bundle Bundle) error {
	const period = 10 * time.Second
	for {
		wait := period
		roots, changed := bundle()
		if err := closeInjector(ctx, kube, revision, roots); err != nil {
			slog.Warn("webhooks: cannot update the injector", "error", err)
			wait = time.Second
		}
		if err := closeValidator(ctx, kube, revision, roots); err != nil {
			slog.Warn("webhooks: cannot update the validator", "error", err)
			wait = time.Second
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-time.After(wait):
		}
	}
}

func closeInjector(ctx context.Context, kube kubernetes.Interface, revision string, bundle []byte) error {
	client := kube.AdmissionregistrationV1().MutatingWebhookConfigurations()
	list, err := client.List(ctx, metav1.ListOptions{LabelSelector: "istio.io/rev=" + revision})
	if err != nil {
		return err
	}
	for i := range list.Items {
		config, changed := &list.Items[i], false
		for k := range config.Webhooks {
			w := &config.Webhooks[k]
			if strings.HasSuffix(w.Name, "sidecar-injector.istio.io") && w.ClientConfig.Service != nil {
				changed = closeOne(&w.ClientConfig, &w.FailurePolicy, bundle) || changed
			}
		}
		if changed {
			if _, err := client.Update(ctx, config, metav1.UpdateOptions{}); err != nil {
				return err
			}
		}
	}
	return nil
}

func closeValidator(ctx context.Context, kube kubernetes.Interface, revision string, bundle []byte) error {
	client := kube.AdmissionregistrationV1().ValidatingWebhookConfigurations()
	list, err := client.List(ctx, metav1.ListOptions{LabelSelector: "app=istiod,istio.io/rev=" + revision})
	if err != nil {
		return err
	}
	for i := range list.Items {
		config, changed := &list.Items[i], false
		for k := range config.Webhooks {
			if w := &config.Webhooks[k]; w.ClientConfig.Service != nil {
				changed = closeOne(&w.ClientConfig, &w.FailurePolicy, bundle) || changed
			}
		}
		if changed {
			if _, err := client.Update(ctx, config, metav1.UpdateOptions{}); err != nil {
				return err
			}
		}
	}
	return nil
}

func closeOne(config *admission.WebhookClientConfig, policy **admission.FailurePolicyType, bundle []byte) bool {
	fail := admission.Fail
	if bytes.Equal(config.CABundle, bundle) && *policy != nil && **policy == fail {
		return false
	}
	config.CABundle, *policy = bundle, &fail
	return true
}
