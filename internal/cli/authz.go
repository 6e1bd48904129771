package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/slipway-mesh/slipway/internal/debugclient"
)

func authzCommand(g *global) *cobra.Command {
	f := &proxyFlags{}
	check := &cobra.Command{
		Use:   "check [TYPE/]NAME[.NAMESPACE]",
		Short: "List the AuthorizationPolicies that a pod's proxy enforces",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			config, err := f.load(cmd, g, args)
			if err != nil {
				return err
			}
			policies := config.Policies()
			if done, err := printAs(cmd.OutOrStdout(), policies, f.output); done || err != nil {
				return err
			}
			var rows []string
			for _, p := range policies {
				action := p.Action
				if p.DryRun {
					action += " (dry run)"
				}
				rows = append(rows, fmt.Sprintf("%s\t%s\t%d", action, p.Name, p.Rules))
			}
			return printRows(cmd.OutOrStdout(), "ACTION\tAuthorizationPolicy\tRULES", rows)
		},
	}
	flags := check.Flags()
	flags.StringVarP(&f.file, "file", "f", "", "a config dump to read in place of asking a pod")
	flags.StringVarP(&f.output, "output", "o", "", "json or yaml")
	flags.IntVar(&f.port, "proxy-admin-port", debugclient.AdminPort, "Envoy's admin port")
	command := &cobra.Command{Use: "authz", Short: "Look into authorization"}
	command.AddCommand(check)
	return command
}
