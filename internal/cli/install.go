package cli

import (
	"context"
	"fmt"
	"sort"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-mesh/slipway/api/v1alpha1"
	"github.com/slipway-mesh/slipway/internal/install/apply"
	"github.com/slipway-mesh/slipway/internal/install/lifecycle"
	"github.com/slipway-mesh/slipway/internal/install/manifest"
)

// installedState is the name that an installation by the CLI is kept under; Istio's CLI uses the same.
const installedState = "installed-state"

func installCommand(g *global) *cobra.Command {
	in := &input{}
	var yes bool
	var timeout time.Duration
	command := &cobra.Command{
		Use:     "install",
		Aliases: []string{"apply"},
		Short:   "Install or reconfigure a mesh from here, without the in-cluster operator",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			layers, err := in.layers(cmd.InOrStdin())
			if err != nil {
				return err
			}
			owner := lifecycle.Owner{Namespace: g.istioNamespace, Name: installedState}
			if in.revision != "" {
				owner.Name += "-" + in.revision
			}
			merged, err := manifest.Merge(layers...)
			if err != nil {
				return err
			}
			manifests, err := lifecycle.Render(images(), owner, merged.Spec)
			if err != nil {
				return err
			}
			if !yes && !confirm(cmd.InOrStdin(), cmd.OutOrStdout(), "This will install the mesh into the cluster. Proceed?") {
				return nil
			}
			kube, err := g.client()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			installer := lifecycle.Installer{Cluster: apply.Cluster{Client: kube}}
			return follow(ctx, cmd, installer, owner, manifests)
		},
	}
	in.register(command.Flags())
	command.Flags().BoolVarP(&yes, "skip-confirmation", "y", false, "do not ask")
	command.Flags().DurationVar(&timeout, "readiness-timeout", 5*time.Minute, "how long to wait for each component")
	return command
}

// follow takes steps until all is healthy, and prints each component's change of state once.
func follow(ctx context.Context, cmd *cobra.Command, installer lifecycle.Installer, owner lifecycle.Owner, manifests *manifest.Manifests) error {
	printed := map[string]v1alpha1.Phase{}
	for {
		report, err := installer.Install(ctx, owner, manifests)
		if err != nil && ctx.Err() == nil {
			return err
		}
		names := make([]string, 0, len(report.Components))
		for name := range report.Components {
			names = append(names, name)
		}
		sort.Strings(names)
		for _, name := range names {
			if state := report.Components[name]; printed[name] != state.Phase {
				printed[name] = state.Phase
				printComponent(cmd, name, state)
			}
		}
		if report.Healthy() {
			fmt.Fprintln(cmd.OutOrStdout(), "✔ Installation complete")
			return nil
		}
		select {
		case <-ctx.Done():
			for _, name := range names {
				if state := report.Components[name]; state.Phase != v1alpha1.PhaseHealthy {
					return fmt.Errorf("%s is not ready: %s", name, state.Reason)
				}
			}
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

func printComponent(cmd *cobra.Command, name string, state lifecycle.Component) {
	switch state.Phase {
	case v1alpha1.PhaseHealthy:
		fmt.Fprintf(cmd.OutOrStdout(), "✔ %s installed\n", name)
	case v1alpha1.PhaseError:
		fmt.Fprintf(cmd.OutOrStdout(), "✘ %s: %s\n", name, state.Reason)
	default:
		fmt.Fprintf(cmd.OutOrStdout(), "- %s: %s\n", name, state.Reason)
	}
}
