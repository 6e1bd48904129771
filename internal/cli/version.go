package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/slipway-mesh/slipway/internal/install/manifest"
	"github.com/slipway-mesh/slipway/internal/version"
)

// versions is what of which version there is.
type versions struct {
	Client string `json:"clientVersion"`
	// ControlPlanes maps revisions to versions.
	ControlPlanes map[string]string `json:"controlPlanes,omitempty"`
}

func versionCommand(g *global) *cobra.Command {
	var remote, short bool
	var output string
	command := &cobra.Command{
		Use:   "version",
		Short: "Print the version of this program, and with --remote those of the control planes",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			all := versions{Client: version.String()}
			if short {
				all.Client = version.Version
			}
			if remote {
				kube, err := g.client()
				if err != nil {
					return err
				}
				if all.ControlPlanes, err = controlPlanes(cmd.Context(), kube); err != nil {
					return err
				}
			}
			if done, err := printAs(cmd.OutOrStdout(), all, output); done || err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), "client version:", all.Client)
			for revision, running := range all.ControlPlanes {
				fmt.Fprintf(cmd.OutOrStdout(), "control plane version: %s (revision %s)\n", running, revision)
			}
			return nil
		},
	}
	flags := command.Flags()
	flags.BoolVar(&remote, "remote", false, "ask the cluster too")
	flags.BoolVarP(&short, "short", "s", false, "the number only")
	flags.StringVarP(&output, "output", "o", "", "json or yaml")
	return command
}

// controlPlanes maps the revisions in the cluster to their versions.
func controlPlanes(ctx context.Context, kube client.Client) (map[string]string, error) {
	list := &metav1.PartialObjectMetadataList{}
	list.SetGroupVersionKind(schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "DeploymentList"})
	if err := kube.List(ctx, list, client.MatchingLabels{"app": "istiod"}); err != nil {
		return nil, fmt.Errorf("list control planes: %w", err)
	}
	found := map[string]string{}
	for k := range list.Items {
		labels := list.Items[k].Labels
		found[labels[manifest.LabelRevision]] = labels[manifest.LabelVersion]
	}
	return found, nil
}
