package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/slipway-mesh/slipway/internal/install/adopt"
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
	var output string
	var only []string
	var force bool
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
			if force {
				if layers, err = forced(cmd, options, layers); err != nil {
					return err
				}
			}
			manifests, err := manifest.Render(options, layers...)
			if err != nil {
				return err
			}
			return printComponents(cmd, manifests.Components, only, output)
		},
	}
	in.register(command.Flags())
	flags := command.Flags()
	flags.StringVarP(&output, "output", "o", "", "a folder to write to, one file a component; otherwise standard output")
	flags.StringSliceVar(&only, "component", nil, "only these components: Base, Pilot, IngressGateways, EgressGateways")
	flags.BoolVar(&force, "force", false, "leave out of the spec what is wrong in it, with a warning, and go on")
	return command
}

// forced merges the layers into one that renders.
func forced(cmd *cobra.Command, options manifest.Options, layers []manifest.Layer) ([]manifest.Layer, error) {
	merged, err := manifest.Merge(layers...)
	if err != nil {
		return nil, err
	}
	layer := manifest.Layer{Name: "what was given", Spec: merged.Spec}
	warnLosses(cmd, adopt.Fit(layer.Spec, func(map[string]any) error { _, err := manifest.Render(options, layer); return err }))
	return []manifest.Layer{layer}, nil
}

// printComponents prints the objects of the chosen components, or writes a file for each into a folder.
func printComponents(cmd *cobra.Command, components []manifest.Component, only []string, folder string) error {
	for _, component := range components {
		if len(only) > 0 && !slices.Contains(only, component.Name) {
			continue
		}
		text, err := manifest.YAML(component.Objects)
		if err != nil {
			return err
		}
		if folder == "" {
			if _, err := cmd.OutOrStdout().Write(text); err != nil {
				return err
			}
			continue
		}
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return err
		}
		name := filepath.Join(folder, component.Instance+".yaml")
		if err := os.WriteFile(name, text, 0o644); err != nil { //nolint:gosec // manifests are to be read
			return err
		}
		fmt.Fprintln(cmd.OutOrStdout(), name)
	}
	return nil
}
