package cli

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/slipway-mesh/slipway/internal/install/apply"
	"github.com/slipway-mesh/slipway/internal/install/manifest"
	"github.com/slipway-mesh/slipway/profiles"
)

func profileCommand() *cobra.Command {
	command := &cobra.Command{Use: "profile", Short: "List and show profiles"}
	var folder string
	list := &cobra.Command{
		Use: "list", Short: "List the built-in profiles, or those of a folder", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if folder != "" {
				files, err := filepath.Glob(filepath.Join(folder, "profiles", "*.yaml"))
				for _, file := range files {
					fmt.Fprintln(cmd.OutOrStdout(), "    "+strings.TrimSuffix(filepath.Base(file), ".yaml"))
				}
				return err
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "Profiles:\n    %s\n", strings.Join(profiles.List(), "\n    "))
			return err
		},
	}
	list.Flags().StringVarP(&folder, "manifests", "d", "", "a folder with profiles/")
	list.Flags().StringVar(&folder, "charts", "", "the same as --manifests")
	_ = list.Flags().MarkHidden("charts")
	command.AddCommand(list, profileDumpCommand(), profileDiffCommand())
	return command
}

func profileDumpCommand() *cobra.Command {
	in := &input{}
	var path, output string
	command := &cobra.Command{
		Use:   "dump [PROFILE]",
		Short: "Print a profile as a whole IstioOperator, with what it stands on merged in",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				in.sets = append([]string{"profile=" + args[0]}, in.sets...)
			}
			layers, err := in.layers(cmd.InOrStdin())
			if err != nil {
				return err
			}
			build := build()
			merged, err := manifest.Resolve(manifest.Options{Hub: build.Hub, Tag: build.Tag}, layers...)
			if err != nil {
				return err
			}
			text, err := dump(merged.Spec, path, output)
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(text)
			return err
		},
	}
	in.register(command.Flags())
	command.Flags().StringVarP(&path, "config-path", "p", "", "print only what is below this path, such as components.pilot")
	command.Flags().StringVarP(&output, "output", "o", "yaml", "yaml or json")
	return command
}

func profileDiffCommand() *cobra.Command {
	in := &input{}
	command := &cobra.Command{
		Use:   "diff PROFILE PROFILE",
		Short: "Show how two profiles differ; the exit status is 1 if they do",
		Args:  cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			var objects [2]manifest.Object
			for k, name := range args {
				merged, err := manifest.Resolve(manifest.Options{}, manifest.Layer{Name: "profile", Spec: map[string]any{"profile": name, "installPackagePath": in.manifests}})
				if err != nil {
					return err
				}
				delete(merged.Spec, "profile")
				objects[k] = &unstructured.Unstructured{Object: map[string]any{"spec": merged.Spec}}
			}
			differs := false
			for _, change := range apply.Compare(objects[:1], objects[1:]) {
				differs = differs || len(change.Fields) > 0
				fmt.Fprint(cmd.OutOrStdout(), printFields(change))
			}
			if differs {
				return Exit{Status: exitDiffers}
			}
			return nil
		},
	}
	command.Flags().StringVarP(&in.manifests, "manifests", "d", "", "a folder with profiles/ in place of the built-in ones")
	return command
}

func dump(spec map[string]any, path, output string) ([]byte, error) {
	var value any = map[string]any{"apiVersion": "install.istio.io/v1alpha1", "kind": "IstioOperator", "spec": spec}
	if path != "" {
		value = spec
		for _, step := range strings.Split(strings.TrimPrefix(path, "spec."), ".") {
			m, ok := value.(map[string]any)
			if !ok || m[step] == nil {
				return nil, fmt.Errorf("nothing is at %s", path)
			}
			value = m[step]
		}
	}
	switch output {
	case "yaml":
		return yaml.Marshal(value)
	case "json":
		text, err := json.MarshalIndent(value, "", "  ")
		return append(text, '\n'), err
	}
	return nil, fmt.Errorf("--output %s: it must be yaml or json", output)
}
