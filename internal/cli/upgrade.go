package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/slipway-mesh/slipway/internal/install/lifecycle"
)

func upgradeCommand(g *global) *cobra.Command {
	f := &installFlags{}
	command := &cobra.Command{
		Use:   "upgrade",
		Short: "Bring an installation from here to this program's version, after a look at the cluster",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			kube, err := g.client()
			if err != nil {
				return err
			}
			problems, err := precheck(cmd.Context(), g)
			if err != nil {
				return err
			}
			if stops := printProblems(cmd, problems); stops > 0 {
				return fmt.Errorf("%d problems must be solved before an upgrade", stops)
			}
			if len(f.files) == 0 && len(f.sets) == 0 {
				if err := f.last(cmd.Context(), g, kube); err != nil {
					return err
				}
			}
			return f.run(cmd, g, fmt.Sprintf("This will bring the mesh to version %s. Proceed?", build().Version))
		},
	}
	f.register(command)
	return command
}

// last takes the spec of the last good installation, where the user gives none.
func (f *installFlags) last(ctx context.Context, g *global, kube client.Client) error {
	good, err := installer(kube).LastGood(ctx, lifecycle.CommandLine(g.istioNamespace, f.revision), 0)
	if err != nil {
		return fmt.Errorf("what to upgrade is not known: name it with -f or --set: %w", err)
	}
	f.base = good.Target.Spec
	return nil
}
