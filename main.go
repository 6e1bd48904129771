// The operator: it watches IstioOperators and makes the cluster follow them.
package main

import (
	"flag"
	"log/slog"
	"os"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	crmetrics "sigs.k8s.io/controller-runtime/pkg/metrics"
	metrics "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/slipway-mesh/slipway/api/v1alpha1"
	"github.com/slipway-mesh/slipway/controllers"
	"github.com/slipway-mesh/slipway/internal/install/apply"
	"github.com/slipway-mesh/slipway/internal/install/lifecycle"
)

func main() {
	options := parseOptions(flag.CommandLine, os.Args[1:])
	ctrl.SetLogger(logr.FromSlogHandler(slog.NewTextHandler(os.Stderr, nil)))
	if err := run(options); err != nil {
		slog.Error("operator stopped", "error", err)
		os.Exit(1)
	}
}

func run(options options) error {
	scheme := runtime.NewScheme()
	if err := clientscheme.AddToScheme(scheme); err != nil {
		return err
	}
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return err
	}
	config := ctrl.GetConfigOrDie()
	config.QPS = -1 // the API server shares itself out; a limit here only makes a look at many objects slow
	managed := ctrl.Options{
		Scheme:                  scheme,
		Cache:                   controllers.CacheOptions(options.watchNamespaces),
		Client:                  client.Options{Cache: &client.CacheOptions{DisableFor: []client.Object{&corev1.Secret{}, &corev1.ConfigMap{}}}},
		Metrics:                 metrics.Options{BindAddress: options.metricsAddress},
		HealthProbeBindAddress:  options.probeAddress,
		LeaderElection:          options.leaderElect,
		LeaderElectionID:        "istio-operator-lock",
		LeaderElectionNamespace: options.leaderNamespace,
		// A standby takes over at once when the leader is told to stop.
		LeaderElectionReleaseOnCancel: true,
	}
	ctx := ctrl.SetupSignalHandler()
	var bundle []byte
	var err error
	if options.webhookPort != 0 {
		if managed.WebhookServer, bundle, err = webhookServer(ctx, options); err != nil {
			return err
		}
	}
	manager, err := ctrl.NewManager(config, managed)
	if err != nil {
		return err
	}
	direct, err := client.New(config, client.Options{Scheme: scheme, HTTPClient: manager.GetHTTPClient(), Mapper: manager.GetRESTMapper()})
	if err != nil {
		return err
	}
	cluster, err := lifecycle.KubernetesVersion(config)
	if err != nil {
		return err
	}
	reconciler := &controllers.IstioOperatorReconciler{
		Client:    manager.GetClient(),
		Direct:    direct,
		Installer: lifecycle.Installer{Cluster: apply.Cluster{Client: direct}, Kubernetes: cluster},
		Build:     lifecycle.Build{Hub: options.hub, Tag: options.tag, Version: options.version},
		Events:    manager.GetEventRecorder("istio-operator"),
		Metrics:   controllers.NewMetrics(crmetrics.Registry),
	}
	if err := reconciler.SetupWithManager(manager); err != nil {
		return err
	}
	if managed.WebhookServer != nil {
		validator := &controllers.Validator{Build: reconciler.Build, Installer: reconciler.Installer}
		if err := addWebhook(manager, direct, validator, bundle); err != nil {
			return err
		}
	}
	if err := manager.AddHealthzCheck("alive", healthz.Ping); err != nil {
		return err
	}
	if err := manager.AddReadyzCheck("ready", healthz.Ping); err != nil {
		return err
	}
	return manager.Start(ctx)
}
