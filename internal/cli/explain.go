package cli

import (
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/slipway-mesh/slipway/internal/install/manifest"
)

func explainCommand(g *global) *cobra.Command {
	f := &installation{}
	var output string
	command := &cobra.Command{
		Use:   "explain [PATH]",
		Short: "Say which layer set each effective value: a profile, a file, --set, or the resource",
		Example: `  slipway explain components.pilot --set profile=demo
  slipway explain values.global.proxy.logLevel --resource mesh`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			merged, err := f.resolve(cmd, g)
			if err != nil {
				return err
			}
			path := ""
			if len(args) == 1 {
				path = strings.TrimPrefix(args[0], "spec.")
			}
			leaves := explained(merged, path)
			if len(leaves) == 0 {
				return fmt.Errorf("nothing is at %s", path)
			}
			if done, err := printAs(cmd.OutOrStdout(), leaves, output); done || err != nil {
				return err
			}
			table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 3, ' ', 0)
			fmt.Fprintln(table, "PATH\tVALUE\tSET BY")
			for _, leaf := range leaves {
				fmt.Fprintf(table, "%s\t%s\t%s\n", leaf.Path, compact(leaf.Value), leaf.SetBy)
			}
			return table.Flush()
		},
	}
	f.register(command)
	command.Flags().StringVarP(&output, "output", "o", "", "json or yaml")
	return command
}

// resolve merges the profile and all layers; a cluster is asked only where a resource is named.
func (f *installation) resolve(cmd *cobra.Command, g *global) (manifest.Merged, error) {
	build := build()
	options := manifest.Options{Hub: build.Hub, Tag: build.Tag}
	if f.resource == "" {
		layers, err := f.layers(cmd.InOrStdin())
		if err != nil {
			return manifest.Merged{}, err
		}
		return manifest.Resolve(options, layers...)
	}
	kube, err := g.client()
	if err != nil {
		return manifest.Merged{}, err
	}
	_, layers, err := f.load(cmd.Context(), cmd, g, kube)
	if err != nil {
		return manifest.Merged{}, err
	}
	return manifest.Resolve(options, layers...)
}

// explained lists the leaves at and below a path.
func explained(merged manifest.Merged, path string) []manifest.Leaf {
	leaves := merged.Leaves()
	return slices.DeleteFunc(leaves, func(leaf manifest.Leaf) bool {
		return path != "" && leaf.Path != path && !strings.HasPrefix(leaf.Path, path+".") && !strings.HasPrefix(leaf.Path, path+"[")
	})
}
