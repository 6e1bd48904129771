package cli

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/slipway-mesh/slipway/internal/install/manifest"
)

func tagCommand(g *global) *cobra.Command {
	command := &cobra.Command{Use: "tag", Aliases: []string{"tags"}, Short: "Names for revisions: namespaces ask for a tag, and moving it moves them"}
	command.AddCommand(tagSetCommand(g), tagGenerateCommand(g), tagListCommand(g), tagRemoveCommand(g))
	return command
}

// tagFlags are what set and generate share.
type tagFlags struct {
	revision  string
	overwrite bool
	auto      bool
}

func (f *tagFlags) register(command *cobra.Command) {
	flags := command.Flags()
	flags.StringVarP(&f.revision, "revision", "r", "", "the revision that the tag stands for")
	flags.BoolVar(&f.overwrite, "overwrite", false, "move the tag if it stands for another revision")
	flags.BoolVar(&f.auto, "auto-inject-namespaces", false, "let the tag called default serve namespaces that say nothing")
	_ = command.MarkFlagRequired("revision")
}

func (f *tagFlags) options(g *global, name string) manifest.TagOptions {
	return manifest.TagOptions{Tag: name, Revision: f.revision, Namespace: g.istioNamespace, InjectByDefault: f.auto}
}

func tagSetCommand(g *global) *cobra.Command {
	f := &tagFlags{}
	command := &cobra.Command{
		Use: "set TAG", Short: "Make a tag stand for a revision", Example: "  slipway tag set prod --revision canary --overwrite", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			kube, err := g.client()
			if err != nil {
				return err
			}
			if err := installer(kube).SetTag(cmd.Context(), f.options(g, args[0]), f.overwrite); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "Revision tag %q created, referencing control plane revision %q. To enable injection using this\nrevision tag, use 'kubectl label namespace <NAMESPACE> istio.io/rev=%s'\n", args[0], f.revision, args[0])
			return nil
		},
	}
	f.register(command)
	command.Flags().BoolP("skip-confirmation", "y", false, "accepted for istioctl's users; nothing is asked")
	return command
}

func tagGenerateCommand(g *global) *cobra.Command {
	f := &tagFlags{}
	command := &cobra.Command{
		Use: "generate TAG", Short: "Print what set would apply", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			object, err := manifest.RenderTag(f.options(g, args[0]))
			if err != nil {
				return err
			}
			text, err := manifest.YAML([]manifest.Object{object})
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(text)
			return err
		},
	}
	f.register(command)
	return command
}

func tagListCommand(g *global) *cobra.Command {
	var output string
	command := &cobra.Command{
		Use: "list", Aliases: []string{"show"}, Short: "List tags, their revisions and the namespaces that ask for them", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			kube, err := g.client()
			if err != nil {
				return err
			}
			tags, err := installer(kube).Tags(cmd.Context())
			if err != nil {
				return err
			}
			if done, err := printAs(cmd.OutOrStdout(), tags, output); done || err != nil {
				return err
			}
			table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 1, ' ', 0)
			fmt.Fprintln(table, "TAG\tREVISION\tNAMESPACES")
			for _, tag := range tags {
				fmt.Fprintf(table, "%s\t%s\t%s\n", tag.Name, tag.Revision, strings.Join(tag.Namespaces, ","))
			}
			return table.Flush()
		},
	}
	command.Flags().StringVarP(&output, "output", "o", "table", "table, json or yaml")
	return command
}

func tagRemoveCommand(g *global) *cobra.Command {
	var yes bool
	command := &cobra.Command{
		Use: "remove TAG", Aliases: []string{"delete"}, Short: "Remove a tag; pods that run keep their sidecars", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			kube, err := g.client()
			if err != nil {
				return err
			}
			tags, err := installer(kube).Tags(cmd.Context())
			if err != nil {
				return err
			}
			for _, tag := range tags {
				if tag.Name == args[0] && len(tag.Namespaces) > 0 && !yes {
					question := fmt.Sprintf("Namespaces %s ask for it, and their new pods would get no sidecar. Proceed?", strings.Join(tag.Namespaces, ", "))
					if !confirm(cmd.InOrStdin(), cmd.OutOrStdout(), question) {
						return nil
					}
				}
			}
			if err := installer(kube).RemoveTag(cmd.Context(), args[0]); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "Revision tag %s removed\n", args[0])
			return nil
		},
	}
	command.Flags().BoolVarP(&yes, "skip-confirmation", "y", false, "do not ask")
	return command
}
