package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/slipway-mesh/slipway/internal/install/lifecycle"
)

func experimentalCommand(g *global) *cobra.Command {
	command := &cobra.Command{Use: "x", Aliases: []string{"experimental", "exp"}, Short: "Commands whose place istioctl calls experimental"}
	command.AddCommand(precheckCommand(g), workloadsCommand(g), workloadCommand(g), authzCommand(g), caCommand(g), waitCommand(g), describeCommand(g)) // both last ones are there in istioctl
	return command
}

func precheckCommand(g *global) *cobra.Command {
	var output string
	command := &cobra.Command{
		Use: "precheck", Short: "Say what in the cluster would hinder an installation or an upgrade", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			problems, err := precheck(cmd.Context(), g)
			if err != nil {
				return err
			}
			if done, err := printAs(cmd.OutOrStdout(), problems, output); done || err != nil {
				return err
			}
			if stops := printProblems(cmd, problems); stops > 0 {
				return fmt.Errorf("%d problems must be solved first", stops)
			}
			if len(problems) == 0 {
				fmt.Fprintln(cmd.OutOrStdout(), "✔ No issues found when checking the cluster. The mesh is safe to install or upgrade!")
			}
			return nil
		},
	}
	command.Flags().StringVarP(&output, "output", "o", "", "json or yaml")
	return command
}

// precheck looks at the cluster for an installation of this build.
func precheck(ctx context.Context, g *global) ([]lifecycle.Problem, error) {
	config, err := g.restConfig()
	if err != nil {
		return nil, err
	}
	kube, err := g.client()
	if err != nil {
		return nil, err
	}
	in := installer(kube)
	if in.Kubernetes, err = lifecycle.KubernetesVersion(config); err != nil {
		return nil, err
	}
	return in.Precheck(ctx, g.istioNamespace, build().Version)
}

// printProblems prints what was found and says how many of it stop an installation.
func printProblems(cmd *cobra.Command, problems []lifecycle.Problem) (stops int) {
	for _, problem := range problems {
		sign := "!"
		if problem.Stops {
			sign = "✘"
			stops++
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s %s\n", sign, problem.Message)
	}
	return stops
}
