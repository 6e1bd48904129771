package cli

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/slipway-mesh/slipway/api/v1alpha1"
	"github.com/slipway-mesh/slipway/internal/install/lifecycle"
)

func workloadsCommand(g *global) *cobra.Command {
	var output string
	command := &cobra.Command{
		Use: "workloads", Short: "List workloads with sidecars, and say which a restart would change", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			kube, err := g.client()
			if err != nil {
				return err
			}
			list, err := installer(kube).Workloads(cmd.Context())
			if err != nil {
				return err
			}
			if done, err := printAs(cmd.OutOrStdout(), list, output); done || err != nil {
				return err
			}
			table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 3, ' ', 0)
			fmt.Fprintln(table, "WORKLOAD\tPODS\tREVISION\tASKS FOR\tSTALE")
			for _, w := range list {
				fmt.Fprintf(table, "%s\t%d\t%s\t%s\t%s\n", w.Name, w.Pods, w.Revision, w.Asked, w.Stale)
			}
			return table.Flush()
		},
	}
	command.Flags().StringVarP(&output, "output", "o", "", "json or yaml")
	command.AddCommand(workloadsRestartCommand(g))
	return command
}

func workloadsRestartCommand(g *global) *cobra.Command {
	var batch int32
	var timeout time.Duration
	command := &cobra.Command{
		Use: "restart", Short: "Restart the stale workloads, batch by batch; stop if one does not become ready", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			kube, err := g.client()
			if err != nil {
				return err
			}
			spec := v1alpha1.WorkloadsSpec{Restart: v1alpha1.RestartStale, BatchSize: &batch, Timeout: &metav1.Duration{Duration: timeout}}
			return restartAll(cmd, kube, spec)
		},
	}
	command.Flags().Int32Var(&batch, "batch-size", 1, "how many workloads restart at a time")
	command.Flags().DurationVar(&timeout, "timeout", 10*time.Minute, "how long a workload may take to become ready")
	return command
}

func restartAll(cmd *cobra.Command, kube client.Client, spec v1alpha1.WorkloadsSpec) error {
	var last string
	for {
		restart, err := installer(kube).Restart(cmd.Context(), spec, time.Now())
		if err != nil {
			return err
		}
		if line := restartLine(restart); line != last {
			fmt.Fprintln(cmd.OutOrStdout(), line)
			last = line
		}
		switch {
		case len(restart.Failed) > 0:
			return fmt.Errorf("not ready in time: %s; the rest is left as it is", strings.Join(restart.Failed, ", "))
		case len(restart.Restarting) == 0 && restart.Stale == len(restart.Waiting):
			for _, waits := range restart.Waiting {
				fmt.Fprintln(cmd.OutOrStdout(), "! left: "+waits)
			}
			return nil
		}
		select {
		case <-cmd.Context().Done():
			return cmd.Context().Err()
		case <-time.After(time.Second):
		}
	}
}

func restartLine(restart lifecycle.Restart) string {
	line := fmt.Sprintf("%d current, %d stale", restart.Current, restart.Stale)
	if len(restart.Restarting) > 0 {
		line += "; restarting " + strings.Join(restart.Restarting, ", ")
	}
	return line
}
