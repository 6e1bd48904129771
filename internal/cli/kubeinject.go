package cli

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/slipway-mesh/slipway/internal/compliance"
	"github.com/slipway-mesh/slipway/internal/discovery/source"
	"github.com/slipway-mesh/slipway/internal/install/lifecycle"
	"github.com/slipway-mesh/slipway/internal/install/manifest"
	"github.com/slipway-mesh/slipway/internal/sidecar/inject"
)

func kubeInjectCommand(g *global) *cobra.Command {
	var file, output, revision, operatorFile string
	maps := &injectorMaps{}
	in := &input{}
	command := &cobra.Command{
		Use:   "kube-inject",
		Short: "Add the proxy to the workloads of a YAML file",
		Long: "Add the proxy to the workloads of a YAML file. The configuration is the cluster's; with --operatorFileName or --set it is what\n" +
			"that IstioOperator would install, and no cluster is needed.",
		Example: "  slipway kube-inject -f deploy.yaml | kubectl apply -f -",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var config *inject.Config
			var nodes []*corev1.Node
			var err error
			switch {
			case maps.inFiles():
				config, err = maps.read()
			case operatorFile != "" || len(in.sets) > 0:
				if operatorFile != "" {
					in.files = []string{operatorFile}
				}
				config, err = offlineConfig(cmd, g, in)
			default:
				config, nodes, err = clusterConfig(cmd.Context(), g, revision, maps)
			}
			if err != nil {
				return err
			}
			policy, err := compliance.Parse(env("COMPLIANCE_POLICY"))
			if err != nil {
				return err
			}
			like := inject.Request{Revision: revision, Native: inject.Native(env("ENABLE_NATIVE_SIDECARS"), nodes), Compliance: string(policy)}
			return injectFile(cmd, config, like, file, output)
		},
	}
	flags := command.Flags()
	flags.StringVarP(&file, "filename", "f", "", "the file to inject; - is standard input")
	flags.StringVarP(&output, "output", "o", "", "a file to write; otherwise standard output")
	flags.StringVarP(&revision, "revision", "r", "", "the revision of the control plane")
	flags.StringVar(&operatorFile, "operatorFileName", "", "an IstioOperator whose configuration is used; no cluster is needed")
	flags.StringArrayVarP(&in.sets, "set", "s", nil, "as in install; no cluster is needed")
	flags.StringVar(&maps.configFile, "injectConfigFile", "", "the injector's configuration, as in its ConfigMap's key config; no cluster is needed")
	flags.StringVar(&maps.valuesFile, "valuesFile", "", "the injector's values, as in its ConfigMap's key values; no cluster is needed")
	flags.StringVar(&maps.meshFile, "meshConfigFile", "", "the MeshConfig; no cluster is needed")
	flags.StringVar(&maps.config, "injectConfigMapName", "istio-sidecar-injector", "the injector's ConfigMap")
	flags.StringVar(&maps.mesh, "meshConfigMapName", "istio", "the ConfigMap of the MeshConfig")
	_ = command.MarkFlagRequired("filename")
	return command
}

// injectorMaps is where the injector's configuration is: in files, or in ConfigMaps.
type injectorMaps struct{ configFile, valuesFile, meshFile, config, mesh string }

func (m *injectorMaps) inFiles() bool {
	return m.configFile != "" || m.valuesFile != "" || m.meshFile != ""
}

// read takes the configuration from files, of which the first two are needed.
func (m *injectorMaps) read() (*inject.Config, error) {
	if m.configFile == "" || m.valuesFile == "" {
		return nil, fmt.Errorf("--injectConfigFile and --valuesFile go together; --meshConfigFile may go with them")
	}
	var texts [3]string
	for i, name := range []string{m.configFile, m.valuesFile, m.meshFile} {
		if name == "" {
			continue
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		texts[i] = string(text)
	}
	return inject.ParseConfig(texts[0], texts[1], texts[2])
}

func injectFile(cmd *cobra.Command, config *inject.Config, like inject.Request, file, output string) error {
	from := cmd.InOrStdin()
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }()
		from = f
	}
	out := cmd.OutOrStdout()
	if output != "" {
		f, err := os.Create(output)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }()
		out = f
	}
	return inject.Stream(config, like, from, out, cmd.ErrOrStderr())
}

func revisionSuffix(revision string) string {
	if revision == "" || revision == "default" {
		return ""
	}
	return "-" + revision
}

// clusterConfig reads the injector's configuration, and the nodes, which decide whether sidecars can be native.
func clusterConfig(ctx context.Context, g *global, revision string, maps *injectorMaps) (*inject.Config, []*corev1.Node, error) {
	kube, err := g.client()
	if err != nil {
		return nil, nil, err
	}
	own, mesh := &corev1.ConfigMap{}, &corev1.ConfigMap{}
	for name, into := range map[string]*corev1.ConfigMap{maps.config: own, maps.mesh: mesh} {
		key := client.ObjectKey{Namespace: g.istioNamespace, Name: name + revisionSuffix(revision)}
		if err := kube.Get(ctx, key, into); err != nil {
			return nil, nil, fmt.Errorf("read the injector's configuration (is the mesh installed in %s?): %w", g.istioNamespace, err)
		}
	}
	config, err := inject.ParseConfig(own.Data["config"], own.Data["values"], mesh.Data["mesh"])
	if err != nil {
		return nil, nil, err
	}
	proxies := &unstructured.UnstructuredList{}
	proxies.SetGroupVersionKind(inject.ProxyConfigs.GroupVersion().WithKind("ProxyConfigList"))
	if err := kube.List(ctx, proxies); err != nil && !meta.IsNoMatchError(err) {
		return nil, nil, err
	}
	var read []inject.ProxyConfig
	ours := source.OfRevision(revision) // as that revision's webhook takes them
	for i := range proxies.Items {
		if one := &proxies.Items[i]; ours(labels.Set(one.GetLabels())) {
			read = append(read, inject.ReadProxyConfig(one))
		}
	}
	config.SetProxyConfigs(g.istioNamespace, read)
	list := &corev1.NodeList{}
	if err := kube.List(ctx, list); err != nil {
		return nil, nil, err
	}
	nodes := make([]*corev1.Node, len(list.Items))
	for i := range list.Items {
		nodes[i] = &list.Items[i]
	}
	return config, nodes, nil
}

// offlineConfig renders an IstioOperator and takes the configuration from its ConfigMaps.
func offlineConfig(cmd *cobra.Command, g *global, in *input) (*inject.Config, error) {
	layers, err := in.layers(cmd.InOrStdin())
	if err != nil {
		return nil, err
	}
	merged, err := manifest.Merge(layers...)
	if err != nil {
		return nil, err
	}
	manifests, err := lifecycle.Render(build(), lifecycle.CommandLine(g.istioNamespace, ""), merged.Spec)
	if err != nil {
		return nil, err
	}
	texts := map[string]string{}
	for _, object := range manifests.Objects() {
		if object.GetKind() != "ConfigMap" {
			continue
		}
		data, _ := object.Object["data"].(map[string]any)
		for key, value := range data {
			texts[key], _ = value.(string)
		}
	}
	return inject.ParseConfig(texts["config"], texts["values"], texts["mesh"])
}
