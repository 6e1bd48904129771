// Package cli is the slipway command, one file a verb. It parses flags, calls what does the work, and prints.
package cli

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/runtime"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/slipway-mesh/slipway/api/v1alpha1"
	"github.com/slipway-mesh/slipway/internal/install/lifecycle"
	"github.com/slipway-mesh/slipway/internal/version"
)

// global holds the flags that every command has.
type global struct {
	kubeconfig, context, namespace, istioNamespace string
	as, asUID                                      string
	asGroups                                       []string
	timeout                                        time.Duration
}

// Root is the slipway command with all its verbs.
func Root() *cobra.Command {
	g := &global{}
	root := &cobra.Command{
		Use:           "slipway",
		Short:         "Install, look into and debug a service mesh.",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	flags := root.PersistentFlags()
	flags.StringVarP(&g.kubeconfig, "kubeconfig", "c", "", "the kubeconfig file; otherwise KUBECONFIG or ~/.kube/config")
	flags.StringVar(&g.context, "context", "", "the kubeconfig's context to use")
	flags.StringVarP(&g.namespace, "namespace", "n", "", "the namespace to work in; otherwise the context's")
	flags.StringVarP(&g.istioNamespace, "istioNamespace", "i", v1alpha1.DefaultNamespace, "the namespace of the control plane")
	flags.StringVar(&g.as, "as", "", "the user to act as")
	flags.StringVar(&g.asUID, "as-uid", "", "the UID to act as")
	flags.StringArrayVar(&g.asGroups, "as-group", nil, "a group to act as")
	flags.DurationVar(&g.timeout, "kubeclient-timeout", 15*time.Second, "how long one question to the API server may take")
	root.AddCommand(operatorCommand(g), installCommand(g), upgradeCommand(g), uninstallCommand(g), verifyCommand(g), planCommand(g), rollbackCommand(g),
		historyCommand(g), explainCommand(g), tagCommand(g), adoptCommand(g), manifestCommand(g), profileCommand(), kubeInjectCommand(g), proxyStatusCommand(g), proxyConfigCommand(g), routeCommand(g),
		analyzeCommand(g), validateCommand(g), convertCommand(), waitCommand(g), describeCommand(g), bugReportCommand(g), dashboardCommand(g), experimentalCommand(g), versionCommand(g))
	return root
}

func (g *global) config() clientcmd.ClientConfig {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = g.kubeconfig
	return clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: g.context,
		AuthInfo: clientcmdapi.AuthInfo{Impersonate: g.as, ImpersonateUID: g.asUID, ImpersonateGroups: g.asGroups}})
}

func (g *global) restConfig() (*rest.Config, error) {
	config, err := g.config().ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("find the cluster: %w", err)
	}
	config.QPS, config.Burst, config.Timeout = 100, 200, g.timeout
	return config, nil
}

// currentNamespace is the one that is asked for, or the context's.
func (g *global) currentNamespace() (string, error) {
	if g.namespace != "" {
		return g.namespace, nil
	}
	namespace, _, err := g.config().Namespace()
	return namespace, err
}

// client talks to the cluster without a cache.
func (g *global) client() (client.Client, error) {
	config, err := g.restConfig()
	if err != nil {
		return nil, err
	}
	scheme := runtime.NewScheme()
	if err := clientscheme.AddToScheme(scheme); err != nil {
		return nil, err
	}
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return nil, err
	}
	return client.New(config, client.Options{Scheme: scheme})
}

// build is where this build's images are.
func build() lifecycle.Build {
	return lifecycle.Build{Hub: version.Hub, Tag: version.Version, Version: version.Version}
}
