package cli

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/slipway-mesh/slipway/api/v1alpha1"
	"github.com/slipway-mesh/slipway/internal/install/apply"
	"github.com/slipway-mesh/slipway/internal/install/lifecycle"
)

func historyCommand(g *global) *cobra.Command {
	f := &installation{}
	var output string
	command := &cobra.Command{
		Use: "history", Short: "List the good installations of the past, which rollback can go back to", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			kube, err := g.client()
			if err != nil {
				return err
			}
			owner, err := f.owner(cmd.Context(), g, kube)
			if err != nil {
				return err
			}
			history, err := installer(kube).History(cmd.Context(), owner)
			if err != nil {
				return err
			}
			return printHistory(cmd, history, output)
		},
	}
	f.register(command)
	command.Flags().StringVarP(&output, "output", "o", "", "json or yaml")
	return command
}

// pastInstallation is a good installation for programs.
type pastInstallation struct {
	Number   int            `json:"number"`
	Time     time.Time      `json:"time"`
	Version  string         `json:"version"`
	Revision string         `json:"revision,omitempty"`
	Spec     map[string]any `json:"spec"`
}

func printHistory(cmd *cobra.Command, history []lifecycle.Installation, form string) error {
	list := make([]pastInstallation, 0, len(history))
	for _, past := range history {
		list = append(list, pastInstallation{past.Number, past.Time, past.Target.Version, past.Target.Revision, past.Target.Spec})
	}
	if done, err := printAs(cmd.OutOrStdout(), list, form); done || err != nil {
		return err
	}
	table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 3, ' ', 0)
	fmt.Fprintln(table, "NUMBER\tTIME\tVERSION\tPROFILE\tCOMPONENTS")
	for _, past := range history {
		var components []string
		for _, component := range past.Target.Components {
			components = append(components, component.Instance)
		}
		profile, _ := past.Target.Spec["profile"].(string)
		fmt.Fprintf(table, "%d\t%s\t%s\t%s\t%s\n", past.Number, past.Time.UTC().Format(time.DateTime), past.Target.Version, profile, strings.Join(components, ","))
	}
	return table.Flush()
}

func rollbackCommand(g *global) *cobra.Command {
	f := &installation{}
	var to int
	var yes bool
	var timeout time.Duration
	command := &cobra.Command{
		Use:   "rollback",
		Short: "Go back to a good installation of the past",
		Long: `Go back to a good installation of the past: the one before the last, or the one that --to names.
An IstioOperator gets the spec back that it had, and the operator follows. What was installed from here is installed as it was.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			kube, err := g.client()
			if err != nil {
				return err
			}
			owner, err := f.owner(cmd.Context(), g, kube)
			if err != nil {
				return err
			}
			past, err := rollbackTarget(cmd.Context(), kube, owner, to)
			if err != nil {
				return err
			}
			if !yes && !confirm(cmd.InOrStdin(), cmd.OutOrStdout(), fmt.Sprintf("This takes %s back to installation %d. Proceed?", owner, past.Number)) {
				return nil
			}
			if owner.IsCommandLine() {
				return follow(cmd, installer(kube), past.Target, timeout)
			}
			if err := writeSpec(cmd.Context(), kube, owner, past.Target.Spec); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "✔ %s has the spec of installation %d again\n", owner, past.Number)
			return nil
		},
	}
	f.register(command)
	flags := command.Flags()
	flags.IntVar(&to, "to", 0, "the number of the installation, as history lists it")
	flags.BoolVarP(&yes, "skip-confirmation", "y", false, "do not ask")
	flags.DurationVar(&timeout, "readiness-timeout", 5*time.Minute, "how long to wait until all is ready")
	return command
}

// rollbackTarget is the installation to go back to: the one that is named; otherwise the last good one, or the one
// before it where the last is what is asked for now.
func rollbackTarget(ctx context.Context, kube client.Client, owner lifecycle.Owner, number int) (lifecycle.Installation, error) {
	if number != 0 {
		return installer(kube).LastGood(ctx, owner, number)
	}
	history, err := installer(kube).History(ctx, owner)
	if err != nil {
		return lifecycle.Installation{}, err
	}
	n := len(history)
	if n > 0 && !owner.IsCommandLine() {
		spec, err := specOf(ctx, kube, owner)
		if err != nil {
			return lifecycle.Installation{}, err
		}
		if compact(spec) != compact(history[n-1].Target.Spec) {
			return history[n-1], nil // what is asked for never became healthy
		}
	}
	if n < 2 {
		return lifecycle.Installation{}, fmt.Errorf("%s has no installation before the last", owner)
	}
	return history[n-2], nil
}

// writeSpec gives a resource another spec.
func writeSpec(ctx context.Context, kube client.Client, owner lifecycle.Owner, spec map[string]any) error {
	resource := &unstructured.Unstructured{}
	resource.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("IstioOperator"))
	if err := kube.Get(ctx, client.ObjectKey{Namespace: owner.Namespace, Name: owner.Name}, resource); err != nil {
		return fmt.Errorf("read %s: %w", owner, err)
	}
	resource.Object["spec"] = spec
	if err := kube.Update(ctx, resource, client.FieldOwner(apply.FieldManager)); err != nil {
		return fmt.Errorf("write %s: %w", owner, err)
	}
	return nil
}
