package cli

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/slipway-mesh/slipway/internal/install/apply"
	"github.com/slipway-mesh/slipway/internal/install/lifecycle"
)

func planCommand(g *global) *cobra.Command {
	f := &installation{}
	var output string
	command := &cobra.Command{
		Use:   "plan",
		Short: "Show what an installation or an edit would change in the cluster, and change nothing",
		Example: `  slipway plan -f mesh.yaml
  slipway plan --resource mesh --set components.pilot.k8s.replicaCount=2
  slipway plan                       # what differs now`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			kube, err := g.client()
			if err != nil {
				return err
			}
			target, err := f.target(cmd.Context(), cmd, g, kube)
			if err != nil {
				return err
			}
			return printPlan(cmd, installer(kube), target, output)
		},
	}
	f.register(command)
	command.Flags().StringVarP(&output, "output", "o", "", "json or yaml")
	return command
}

// planOutput is a plan for programs.
type planOutput struct {
	For      string         `json:"for"`
	Hash     string         `json:"hash"`
	Changes  []changeOutput `json:"changes"`
	Restarts []string       `json:"restarts,omitempty"`
	Refused  []string       `json:"refused,omitempty"`
}

type changeOutput struct {
	Object string        `json:"object"`
	Action apply.Action  `json:"action"`
	Fields []apply.Field `json:"fields,omitempty"`
}

func printPlan(cmd *cobra.Command, installer lifecycle.Installer, target *lifecycle.Target, form string) error {
	plan, err := installer.Plan(cmd.Context(), target)
	if err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	listed := planOutput{For: target.Owner.String(), Hash: plan.Hash(), Changes: []changeOutput{}, Restarts: plan.Restarts, Refused: plan.Refused}
	for _, change := range plan.Changes {
		if change.Action != apply.Unchanged {
			listed.Changes = append(listed.Changes, changeOutput{change.Ref.String(), change.Action, change.Fields})
		}
	}
	if done, err := printAs(out, listed, form); done || err != nil {
		return err
	}
	if form != "" {
		return fmt.Errorf("--output %s: it must be json or yaml", form)
	}
	fmt.Fprintf(out, "Plan %s for %s: %s\n", plan.Hash(), target.Owner, plan.Changes)
	for _, line := range plan.Lines() {
		fmt.Fprintln(out, "  "+line)
	}
	for _, name := range plan.Restarts {
		fmt.Fprintf(out, "Pods are replaced: %s\n", name)
	}
	for _, why := range plan.Refused {
		fmt.Fprintf(out, "✘ %s\n", why)
	}
	if len(plan.Refused) > 0 {
		return fmt.Errorf("the cluster would refuse %d objects", len(plan.Refused))
	}
	return nil
}

// printFields prints the fields of a change with their values, as a diff.
func printFields(change apply.Change) string {
	var out strings.Builder
	for _, field := range change.Fields {
		fmt.Fprintf(&out, "    %s\n", field.Path)
		if field.From != nil {
			fmt.Fprintf(&out, "    - %s\n", compact(field.From))
		}
		if field.To != nil {
			fmt.Fprintf(&out, "    + %s\n", compact(field.To))
		}
	}
	return out.String()
}

func compact(value any) string {
	text, err := json.Marshal(value)
	if err != nil {
		return fmt.Sprint(value)
	}
	return string(text)
}
