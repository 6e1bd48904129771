package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/client-go/kubernetes"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/webhook"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"github.com/slipway-mesh/slipway/controllers"
	"github.com/slipway-mesh/slipway/internal/identity"
	"github.com/slipway-mesh/slipway/internal/identity/ca"
)

// webhookName is that of the ValidatingWebhookConfiguration and of the Service, as the chart says.
const webhookName = "istio-operator"

// webhookLook is how often the configuration is looked at: somebody may have applied it again without our bundle.
const webhookLook = 30 * time.Second

// webhookServer serves with the certificate that somebody gives, as OLM does, or else with one of our own, whose bundle it
// returns: all replicas share its authority, so that one bundle does for them.
func webhookServer(ctx context.Context, o options) (webhook.Server, []byte, error) {
	if _, err := os.Stat(filepath.Join(o.webhookCerts, "tls.crt")); err == nil {
		return webhook.NewServer(webhook.Options{Port: o.webhookPort, CertDir: o.webhookCerts}), nil, nil
	}
	kube, err := kubernetes.NewForConfig(ctrl.GetConfigOrDie())
	if err != nil {
		return nil, nil, err
	}
	made, err := ca.Store{Kube: kube, Namespace: o.leaderNamespace, TrustDomain: "cluster.local"}.Load(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("the webhook's authority: %w", err)
	}
	name := webhookName + "." + o.leaderNamespace + ".svc"
	serving := &ca.Serving{Authorities: ca.NewKeeper(made), Names: []string{name, name + ".cluster.local"},
		ID: identity.ID{TrustDomain: "cluster.local", Namespace: o.leaderNamespace, Account: webhookName}}
	return webhook.NewServer(webhook.Options{Port: o.webhookPort, TLSOpts: []func(*tls.Config){func(c *tls.Config) {
		c.GetCertificate = serving.Certificate
	}}}), made.RootPEM(), nil
}

// addWebhook serves the validation of IstioOperators, and lets the API server trust it where the bundle is ours to set.
func addWebhook(m ctrl.Manager, direct client.Client, validator *controllers.Validator, bundle []byte) error {
	m.GetWebhookServer().Register(controllers.ValidatePath, &admission.Webhook{Handler: validator})
	if bundle == nil {
		return nil
	}
	return m.Add(manager.RunnableFunc(func(ctx context.Context) error {
		for {
			if err := trust(ctx, direct, bundle); err != nil {
				slog.Warn("webhook: cannot set its bundle", "error", err)
			}
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(webhookLook):
			}
		}
	}))
}

// trust sets the bundle that our certificate is trusted by. Without a configuration there is nothing to do.
func trust(ctx context.Context, direct client.Client, bundle []byte) error {
	config := &admissionv1.ValidatingWebhookConfiguration{}
	if err := direct.Get(ctx, client.ObjectKey{Name: webhookName}, config); err != nil {
		return client.IgnoreNotFound(err)
	}
	before := config.DeepCopy()
	for k := range config.Webhooks {
		config.Webhooks[k].ClientConfig.CABundle = bundle
	}
	if len(config.Webhooks) == 0 || bytes.Equal(before.Webhooks[0].ClientConfig.CABundle, bundle) {
		return nil
	}
	return direct.Patch(ctx, config, client.MergeFrom(before), client.FieldOwner("istio-operator-webhook"))
}
