package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/slipway-mesh/slipway/internal/install/apply"
	"github.com/slipway-mesh/slipway/internal/install/lifecycle"
)

func verifyCommand(g *global) *cobra.Command {
	f := &installation{}
	command := &cobra.Command{
		Use:   "verify-install",
		Short: "Check that what was installed is there, as it was installed, and ready",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			kube, err := g.client()
			if err != nil {
				return err
			}
			target, err := f.target(cmd.Context(), cmd, g, kube)
			if err != nil {
				return err
			}
			return verify(cmd, installer(kube), target)
		},
	}
	f.register(command)
	return command
}

// verify compares what is there with the target, and prints each object.
func verify(cmd *cobra.Command, in lifecycle.Installer, target *lifecycle.Target) error {
	plan, err := in.Plan(cmd.Context(), target)
	if err != nil {
		return err
	}
	unready, err := in.Cluster.Unready(cmd.Context(), target.Objects())
	if err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	wrong := map[apply.Ref]string{}
	for _, health := range unready {
		wrong[health.Ref] = health.Reason
	}
	for _, change := range plan.Changes {
		if change.Wrote() || change.Action == apply.Drifted {
			wrong[change.Ref] = verifyText(change)
		}
	}
	for _, change := range plan.Changes {
		if why := wrong[change.Ref]; why != "" {
			fmt.Fprintf(out, "✘ %s: %s\n", change.Ref, why)
		} else {
			fmt.Fprintf(out, "✔ %s\n", change.Ref)
		}
	}
	for _, why := range plan.Refused {
		fmt.Fprintf(out, "✘ %s\n", why)
	}
	if n := len(wrong) + len(plan.Refused); n > 0 {
		return fmt.Errorf("%s: %d of %d objects are not as they should be", target.Owner, n, len(plan.Changes))
	}
	fmt.Fprintf(out, "✔ %s is installed and verified: %d objects\n", target.Owner, len(plan.Changes))
	return nil
}

func verifyText(change apply.Change) string {
	switch change.Action {
	case apply.Created:
		return "is not there"
	case apply.Pruned:
		return "should not be there"
	}
	return "differs in " + strings.Join(change.Paths(), " ")
}
