package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"github.com/spf13/cobra"

	"github.com/slipway-mesh/slipway/internal/install/apply"
	"github.com/slipway-mesh/slipway/internal/install/manifest"
)

// exitDiffers is the status of a comparison that found a difference, as of diff(1).
const exitDiffers = 1

func manifestDiffCommand(g *global) *cobra.Command {
	f := &installation{}
	var selected, ignored []string
	command := &cobra.Command{
		Use:   "diff [FILE FILE]",
		Short: "Show how two files or folders of objects differ, or without them how the cluster differs from an installation",
		Long:  "Show how two files or folders of objects differ, field by field; or without files, what an installation would change in the cluster, as its server answers. The exit status is 1 if there is a difference.",
		Args:  cobra.MatchAll(cobra.MaximumNArgs(2), func(_ *cobra.Command, args []string) error { return twoOrNone(args) }),
		RunE: func(cmd *cobra.Command, args []string) error {
			changes, err := diffOf(cmd, g, f, args)
			if err != nil {
				return err
			}
			differs := false
			for _, change := range changes {
				if change.Action == apply.Unchanged || change.Action == apply.Kept || !chosen(change.Ref, selected, ignored) {
					continue
				}
				differs = true
				fmt.Fprintf(cmd.OutOrStdout(), "%s %s\n%s", change.Action, change.Ref, printFields(change))
			}
			if differs {
				return Exit{Status: exitDiffers}
			}
			return nil
		},
	}
	f.register(command)
	command.Flags().StringSliceVar(&selected, "select", nil, "only these objects, as KIND:NAMESPACE:NAME with * for anything; empty parts stand for anything too")
	command.Flags().StringSliceVar(&ignored, "ignore", nil, "not these objects, in the same form")
	return command
}

// chosen says whether an object is selected and not ignored.
func chosen(ref apply.Ref, selected, ignored []string) bool {
	matches := func(pattern string) bool {
		parts := strings.Split(pattern, ":")
		for i, value := range []string{ref.Kind, ref.Namespace, ref.Name} {
			if i >= len(parts) || parts[i] == "" {
				continue
			}
			if ok, err := filepath.Match(parts[i], value); err != nil || !ok {
				return false
			}
		}
		return true
	}
	return (len(selected) == 0 || slices.ContainsFunc(selected, matches)) && !slices.ContainsFunc(ignored, matches)
}

func twoOrNone(args []string) error {
	if len(args) == 1 {
		return fmt.Errorf("one file cannot differ: name two, or none for the cluster")
	}
	return nil
}

func diffOf(cmd *cobra.Command, g *global, f *installation, args []string) (apply.ChangeSet, error) {
	if len(args) == 2 {
		from, err := readObjects(args[0])
		if err != nil {
			return nil, err
		}
		to, err := readObjects(args[1])
		if err != nil {
			return nil, err
		}
		return apply.Compare(from, to), nil
	}
	kube, err := g.client()
	if err != nil {
		return nil, err
	}
	target, err := f.target(cmd.Context(), cmd, g, kube)
	if err != nil {
		return nil, err
	}
	plan, err := installer(kube).Plan(cmd.Context(), target)
	if err == nil && len(plan.Refused) > 0 {
		err = fmt.Errorf("the cluster would refuse: %s", strings.Join(plan.Refused, "; "))
	}
	return plan.Changes, err
}

// readObjects reads the objects of a file, or of a folder's YAML files.
func readObjects(path string) ([]manifest.Object, error) {
	var objects []manifest.Object
	err := filepath.WalkDir(path, func(name string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() || name != path && !strings.HasSuffix(name, ".yaml") && !strings.HasSuffix(name, ".yml") && !strings.HasSuffix(name, ".json") {
			return err
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		parsed, err := manifest.Parse(name, string(text))
		objects = append(objects, parsed...)
		return err
	})
	sort.SliceStable(objects, func(i, j int) bool { return apply.RefOf(objects[i]).String() < apply.RefOf(objects[j]).String() })
	return objects, err
}
