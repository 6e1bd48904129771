package cli

import (
	"fmt"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/slipway-mesh/slipway/internal/convert"
)

func convertCommand() *cobra.Command {
	var files []string
	command := &cobra.Command{
		Use:   "convert",
		Short: "Carry RouteRules, DestinationPolicies, EgressRules and Ingresses over into today's kinds",
		Long: `Carry RouteRules, DestinationPolicies, EgressRules (config.istio.io/v1alpha2) and Ingresses over into today's kinds.
What comes out is printed; what could not be carried over, or only nearly, is told on standard error.`,
		Example: "  slipway convert -f old-rules.yaml > rules.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(files) == 0 {
				return fmt.Errorf("name a file with --filename; - is standard input")
			}
			var objects []convert.Object
			for _, file := range files {
				text, err := readFile(cmd.InOrStdin(), file)
				if err != nil {
					return err
				}
				parsed, err := convert.Parse(text)
				if err != nil {
					return fmt.Errorf("read %s: %w", file, err)
				}
				objects = append(objects, parsed...)
			}
			converted, notes := convert.Convert(objects)
			for i, object := range converted {
				text, err := yaml.Marshal(object)
				if err != nil {
					return err
				}
				if i > 0 {
					fmt.Fprintln(cmd.OutOrStdout(), "---")
				}
				fmt.Fprint(cmd.OutOrStdout(), string(text))
			}
			for _, note := range notes {
				fmt.Fprintln(cmd.ErrOrStderr(), "! "+note.String())
			}
			return nil
		},
	}
	command.Flags().StringArrayVarP(&files, "filename", "f", nil, "a file of old documents; several are allowed")
	return command
}
