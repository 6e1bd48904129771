package cli

import (
	"github.com/spf13/cobra"

	"github.com/slipway-mesh/slipway/internal/install/manifest"
)

func manifestCommand(g *global) *cobra.Command {
	command := &cobra.Command{Use: "manifest", Short: "Work with the objects that an IstioOperator means"}
	install := installCommand(g) // as istioctl named it first
	command.AddCommand(manifestGenerateCommand(g), manifestDiffCommand(g), install)
	return command
}

func manifestGenerateCommand(g *global) *cobra.Command {
	in := &input{}
	command := &cobra.Command{
		Use:     "generate",
		Short:   "Print the objects that an IstioOperator means; no cluster is needed",
		Example: "  slipway manifest generate --set profile=demo",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			layers, err := in.layers(cmd.InOrStdin())
			if err != nil {
				return err
			}
			build := build()
			options := manifest.Options{Hub: build.Hub, Tag: build.Tag, Version: build.Version, Namespace: g.istioNamespace}
			manifests, err := manifest.Render(options, layers...)
			if err != nil {
				return err
			}
			text, err := manifest.YAML(manifests.Objects())
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(text)
			return err
		},
	}
	in.register(command.Flags())
	return command
}
