package cli

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-mesh/slipway/api/v1alpha1"
	"github.com/slipway-mesh/slipway/internal/install/adopt"
	"github.com/slipway-mesh/slipway/internal/install/lifecycle"
	"github.com/slipway-mesh/slipway/internal/install/manifest"
)

// installFlags are what install and upgrade share.
type installFlags struct {
	input
	yes, dryRun, undo, force, verify bool
	timeout                          time.Duration
}

func (f *installFlags) register(command *cobra.Command) {
	f.input.register(command.Flags())
	flags := command.Flags()
	flags.BoolVarP(&f.yes, "skip-confirmation", "y", false, "do not ask")
	flags.BoolVar(&f.dryRun, "dry-run", false, "print what would change, and change nothing")
	flags.BoolVar(&f.undo, "rollback-on-failure", false, "go back to the last good installation if this one is not ready in time")
	flags.BoolVar(&f.force, "force", false, "leave out of the spec what is wrong in it, with a warning, and go on")
	flags.BoolVar(&f.verify, "verify", false, "check what was installed when all is ready")
	flags.DurationVar(&f.timeout, "readiness-timeout", 5*time.Minute, "how long to wait until all is ready")
}

func installCommand(g *global) *cobra.Command {
	f := &installFlags{}
	command := &cobra.Command{
		Use:     "install",
		Aliases: []string{"apply"},
		Short:   "Install or reconfigure a mesh from here, without the in-cluster operator",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.run(cmd, g, "This will install the mesh into the cluster. Proceed?")
		},
	}
	f.register(command)
	return command
}

func (f *installFlags) run(cmd *cobra.Command, g *global, question string) error {
	layers, err := f.layers(cmd.InOrStdin())
	if err != nil {
		return err
	}
	merged, err := manifest.Merge(layers...)
	if err != nil {
		return err
	}
	revision, _ := merged.Spec["revision"].(string)
	if revision == "default" {
		revision = ""
	}
	owner := lifecycle.CommandLine(g.istioNamespace, revision)
	if f.force {
		warnLosses(cmd, adopt.Fit(merged.Spec, func(spec map[string]any) error { _, err := lifecycle.Render(build(), owner, spec); return err }))
	}
	target, err := lifecycle.Render(build(), owner, merged.Spec)
	if err != nil {
		return err
	}
	kube, err := g.client()
	if err != nil {
		return err
	}
	if f.dryRun {
		return printPlan(cmd, installer(kube), target, "")
	}
	if !f.yes && !confirm(cmd.InOrStdin(), cmd.OutOrStdout(), question) {
		return nil
	}
	err = follow(cmd, installer(kube), target, f.timeout)
	if err == nil && f.verify {
		return verify(cmd, installer(kube), target)
	}
	if err == nil || !f.undo {
		return err
	}
	good, lost := installer(kube).LastGood(cmd.Context(), target.Owner, 0)
	if lost != nil || good.Is(target) {
		return errors.Join(err, lost)
	}
	fmt.Fprintf(cmd.OutOrStdout(), "✘ %v: going back to installation %d\n", err, good.Number)
	return errors.Join(err, follow(cmd, installer(kube), good.Target, f.timeout))
}

// warnLosses prints what was left out of a spec.
func warnLosses(cmd *cobra.Command, losses []adopt.Loss) {
	for _, loss := range losses {
		fmt.Fprintf(cmd.ErrOrStderr(), "! left out: %s: %s\n", loss.Field, loss.Reason)
	}
}

// follow takes steps until all is healthy, and prints each component's change of state once.
func follow(cmd *cobra.Command, installer lifecycle.Installer, target *lifecycle.Target, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
	defer cancel()
	progress := newProgress(cmd.OutOrStdout())
	for {
		report, err := installer.Install(ctx, target)
		if err != nil && ctx.Err() == nil {
			return err
		}
		progress.show(report.Components)
		if err == nil && report.Healthy() {
			fmt.Fprintln(cmd.OutOrStdout(), "✔ Installation complete")
			return nil
		}
		select {
		case <-ctx.Done():
			for _, name := range slices.Sorted(maps.Keys(report.Components)) {
				if state := report.Components[name]; state.Phase != v1alpha1.PhaseHealthy {
					return fmt.Errorf("%s is not ready: %s", name, state.Reason)
				}
			}
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
}
