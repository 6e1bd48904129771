package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/slipway-mesh/slipway/api/v1alpha1"
	"github.com/slipway-mesh/slipway/internal/install/apply"
	"github.com/slipway-mesh/slipway/internal/install/lifecycle"
	"github.com/slipway-mesh/slipway/internal/install/manifest"
)

// installation is which installation a command is about: what files and --set say, or a resource in the cluster, or
// the only one that there is.
type installation struct {
	input
	resource string
}

func (f *installation) register(command *cobra.Command) {
	f.input.register(command.Flags())
	command.Flags().StringVar(&f.resource, "resource", "", "an IstioOperator in the cluster, as NAME or NAMESPACE/NAME; files and --set are merged over it")
}

// load reads the spec as its owner would write it, and says who that is.
func (f *installation) load(ctx context.Context, cmd *cobra.Command, g *global, kube client.Client) (lifecycle.Owner, []manifest.Layer, error) {
	layers, err := f.layers(cmd.InOrStdin())
	if err != nil {
		return lifecycle.Owner{}, nil, err
	}
	owner, err := f.owner(ctx, g, kube)
	if err != nil {
		return owner, nil, err
	}
	if !owner.IsCommandLine() && len(f.files) == 0 {
		spec, err := specOf(ctx, kube, owner)
		if err != nil {
			return owner, nil, err
		}
		layers = append([]manifest.Layer{{Name: owner.String(), Spec: spec}}, layers...)
	}
	if owner.IsCommandLine() && len(layers) == 0 {
		good, err := installer(kube).LastGood(ctx, owner, 0)
		if err != nil {
			return owner, nil, err
		}
		layers = append(layers, manifest.Layer{Name: owner.String(), Spec: good.Target.Spec})
	}
	return owner, layers, nil
}

// target renders what load reads.
func (f *installation) target(ctx context.Context, cmd *cobra.Command, g *global, kube client.Client) (*lifecycle.Target, error) {
	owner, layers, err := f.load(ctx, cmd, g, kube)
	if err != nil {
		return nil, err
	}
	merged, err := manifest.Merge(layers...)
	if err != nil {
		return nil, err
	}
	build := build()
	if build.Profiles, err = installer(kube).Profiles(ctx, owner.Namespace); err != nil {
		return nil, err
	}
	return lifecycle.Render(build, owner, merged.Spec)
}

// owner is whose installation is meant.
func (f *installation) owner(ctx context.Context, g *global, kube client.Client) (lifecycle.Owner, error) {
	if f.resource != "" {
		namespace, name, ok := strings.Cut(f.resource, "/")
		if !ok {
			namespace, name = g.istioNamespace, f.resource
		}
		return lifecycle.Owner{Namespace: namespace, Name: name}, nil
	}
	for _, named := range f.named {
		if named.Namespace == "" {
			named.Namespace = g.istioNamespace
		}
		if _, err := specOf(ctx, kube, named); err == nil {
			return named, nil
		}
	}
	if len(f.files) > 0 || len(f.sets) > 0 || f.revision != "" {
		return lifecycle.CommandLine(g.istioNamespace, f.revision), nil
	}
	owners, err := installer(kube).Owners(ctx)
	switch {
	case err != nil:
		return lifecycle.Owner{}, err
	case len(owners) == 1:
		return owners[0], nil
	case len(owners) == 0:
		return lifecycle.Owner{}, fmt.Errorf("nothing is installed; name what would be with -f or --set")
	}
	names := make([]string, 0, len(owners))
	for _, owner := range owners {
		names = append(names, owner.String())
	}
	return lifecycle.Owner{}, fmt.Errorf("several are installed: %s; name one with --resource or --revision", strings.Join(names, ", "))
}

// specOf reads an IstioOperator's spec as it was written.
func specOf(ctx context.Context, kube client.Client, owner lifecycle.Owner) (map[string]any, error) {
	raw := &unstructured.Unstructured{}
	raw.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("IstioOperator"))
	err := kube.Get(ctx, client.ObjectKey{Namespace: owner.Namespace, Name: owner.Name}, raw)
	if apierrors.IsNotFound(err) || meta.IsNoMatchError(err) {
		return nil, fmt.Errorf("there is no %s", owner)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", owner, err)
	}
	spec, _, _ := unstructured.NestedMap(raw.Object, "spec")
	if spec == nil {
		spec = map[string]any{}
	}
	return spec, nil
}

func installer(kube client.Client) lifecycle.Installer {
	return lifecycle.Installer{Cluster: apply.Cluster{Client: kube}}
}
