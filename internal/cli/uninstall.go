package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/slipway-mesh/slipway/api/v1alpha1"
	"github.com/slipway-mesh/slipway/internal/install/lifecycle"
	"github.com/slipway-mesh/slipway/internal/install/manifest"
)

// attachedShown is how many pods with sidecars are named before a removal, as istioctl does.
const attachedShown = 30

func uninstallCommand(g *global) *cobra.Command {
	f := &installation{}
	var yes, purge, dryRun, force bool
	var timeout time.Duration
	command := &cobra.Command{
		Use:   "uninstall",
		Short: "Remove what was installed: one revision, what a file describes, or with --purge everything and the CRDs",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !purge && f.revision == "" && len(f.files) == 0 && f.resource == "" {
				return fmt.Errorf("say what to remove: --revision, --filename, --resource or --purge")
			}
			kube, err := g.client()
			if err != nil {
				return err
			}
			owners, err := f.toRemove(cmd.Context(), g, kube, purge)
			if err != nil {
				return err
			}
			if !force {
				if err := warnAttached(cmd, kube, owners); err != nil {
					return err
				}
			}
			if dryRun || !yes && !confirm(cmd.InOrStdin(), cmd.OutOrStdout(), "Proceed?") {
				return nil
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			for _, owner := range owners {
				if err := uninstall(ctx, cmd, kube, owner); err != nil {
					return err
				}
			}
			if purge {
				if err := purgeCRDs(ctx, kube); err != nil {
					return err
				}
			}
			fmt.Fprintln(cmd.OutOrStdout(), "✔ Uninstall complete")
			return nil
		},
	}
	f.register(command)
	flags := command.Flags()
	flags.BoolVarP(&yes, "skip-confirmation", "y", false, "do not ask")
	flags.BoolVar(&purge, "purge", false, "remove all revisions, and the CRDs with all that users have made of them")
	flags.BoolVar(&dryRun, "dry-run", false, "say what would be removed, and remove nothing")
	flags.BoolVar(&force, "force", false, "do not look for pods that still have sidecars")
	flags.DurationVar(&timeout, "timeout", 5*time.Minute, "how long the removal may take")
	return command
}

func (f *installation) toRemove(ctx context.Context, g *global, kube client.Client, purge bool) ([]lifecycle.Owner, error) {
	if purge {
		return installer(kube).Owners(ctx)
	}
	if len(f.files) > 0 {
		if _, err := f.layers(nil); err != nil {
			return nil, err
		}
	}
	owner, err := f.owner(ctx, g, kube)
	return []lifecycle.Owner{owner}, err
}

func warnAttached(cmd *cobra.Command, kube client.Client, owners []lifecycle.Owner) error {
	for _, owner := range owners {
		fmt.Fprintf(cmd.OutOrStdout(), "%s will be removed.\n", owner)
		pods, err := installer(kube).Attached(cmd.Context(), owner)
		if err != nil {
			return err
		}
		if len(pods) == 0 {
			continue
		}
		fmt.Fprintf(cmd.OutOrStdout(), "! %d pods have sidecars that it configures; they keep what they have and learn nothing new:\n", len(pods))
		for _, pod := range pods[:min(len(pods), attachedShown)] {
			fmt.Fprintln(cmd.OutOrStdout(), "    "+pod)
		}
		if more := len(pods) - attachedShown; more > 0 {
			fmt.Fprintf(cmd.OutOrStdout(), "    and %d more\n", more)
		}
	}
	return nil
}

// uninstall removes one owner's installation. A resource is deleted, and its operator removes the rest; where none is
// there to do it, this does.
func uninstall(ctx context.Context, cmd *cobra.Command, kube client.Client, owner lifecycle.Owner) error {
	if !owner.IsCommandLine() {
		resource := &v1alpha1.IstioOperator{}
		resource.Namespace, resource.Name = owner.Namespace, owner.Name
		if err := client.IgnoreNotFound(kube.Delete(ctx, resource)); err != nil {
			return fmt.Errorf("delete %s: %w", owner, err)
		}
	}
	for {
		remaining, err := installer(kube).Remove(ctx, owner)
		if err != nil {
			return err
		}
		if remaining == "" {
			break
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s is still there", remaining)
		case <-time.After(300 * time.Millisecond):
		}
	}
	fmt.Fprintf(cmd.OutOrStdout(), "✔ %s removed\n", owner)
	if owner.IsCommandLine() {
		return nil
	}
	return releaseResource(ctx, kube, owner)
}

// releaseResource takes our finalizer off a resource whose installation is gone: its operator may be gone too.
func releaseResource(ctx context.Context, kube client.Client, owner lifecycle.Owner) error {
	resource := &unstructured.Unstructured{}
	resource.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("IstioOperator"))
	err := kube.Get(ctx, client.ObjectKey{Namespace: owner.Namespace, Name: owner.Name}, resource)
	if err != nil {
		return client.IgnoreNotFound(err)
	}
	before := resource.DeepCopy()
	var kept []string
	for _, finalizer := range resource.GetFinalizers() {
		if finalizer != v1alpha1.Finalizer {
			kept = append(kept, finalizer)
		}
	}
	resource.SetFinalizers(kept)
	return client.IgnoreNotFound(kube.Patch(ctx, resource, client.MergeFrom(before)))
}

// purgeCRDs deletes the CRDs of Istio's groups, and so the users' objects of them.
func purgeCRDs(ctx context.Context, kube client.Client) error {
	objects, err := manifest.CRDs()
	if err != nil {
		return err
	}
	for _, object := range objects {
		crd := &unstructured.Unstructured{}
		crd.SetGroupVersionKind(schema.GroupVersionKind{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition"})
		crd.SetName(object.GetName())
		if err := client.IgnoreNotFound(kube.Delete(ctx, crd)); err != nil {
			return fmt.Errorf("delete CRD %s: %w", object.GetName(), err)
		}
	}
	roots := &corev1.ConfigMapList{}
	if err := kube.List(ctx, roots, client.MatchingLabels{"istio.io/config": "true"}); err != nil {
		return err
	}
	for k := range roots.Items {
		if err := client.IgnoreNotFound(kube.Delete(ctx, &roots.Items[k])); err != nil {
			return err
		}
	}
	return nil
}
