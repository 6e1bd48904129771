package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/slipway-mesh/slipway/internal/debugclient"
	"github.com/slipway-mesh/slipway/internal/discovery/xds"
)

func proxyStatusCommand(g *global) *cobra.Command {
	var output, revision string
	command := &cobra.Command{
		Use:     "proxy-status [POD[.NAMESPACE]]",
		Aliases: []string{"ps"},
		Short:   "Say whether each proxy holds what the control plane has sent",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			list, err := proxies(cmd.Context(), g, revision)
			if err != nil {
				return err
			}
			if len(args) == 1 {
				if list, err = onlyProxy(list, args[0], g); err != nil {
					return err
				}
			}
			return printProxies(cmd.OutOrStdout(), list, output)
		},
	}
	command.Flags().StringVarP(&output, "output", "o", "table", "table, json or yaml")
	command.Flags().StringVarP(&revision, "revision", "r", "", "only of the control plane of this revision")
	return command
}

// proxyState is a proxy and the control plane's pod that it is connected to.
type proxyState struct {
	xds.ProxyReport
	ControlPlane string
}

func (p proxyState) name() string { return nodeName(p.ID) }

// nodeName is POD.NAMESPACE of a node's ID.
func nodeName(id string) string {
	if parts := strings.Split(id, "~"); len(parts) == 4 {
		return parts[2]
	}
	return id
}

// proxies are those of all pods of the control plane.
func proxies(ctx context.Context, g *global, revision string) ([]proxyState, error) {
	answers, err := askPlanes[[]xds.ProxyReport](ctx, g, revision, "debug/syncz")
	if err != nil {
		return nil, err
	}
	var out []proxyState
	for pod, reports := range answers {
		for _, r := range reports {
			out = append(out, proxyState{r, pod})
		}
	}
	slices.SortFunc(out, func(a, b proxyState) int { return strings.Compare(a.name(), b.name()) })
	return out, nil
}

// askPlanes asks each pod of the control plane, by way of the API server. The answers are by the pods' names.
func askPlanes[T any](ctx context.Context, g *global, revision, path string) (map[string]T, error) {
	config, err := g.restConfig()
	if err != nil {
		return nil, err
	}
	asker, err := debugclient.New(config)
	if err != nil {
		return nil, err
	}
	pods, err := controlPlanePods(ctx, g, revision)
	if err != nil {
		return nil, err
	}
	out := map[string]T{}
	for i := range pods {
		pod := &pods[i]
		text, err := asker.ControlPlane(ctx, pod.Namespace, pod.Name, path)
		if err != nil {
			return nil, err
		}
		var answer T
		if err := json.Unmarshal(text, &answer); err != nil {
			return nil, fmt.Errorf("what %s/%s answers: %w", pod.Namespace, pod.Name, err)
		}
		out[pod.Name] = answer
	}
	return out, nil
}

// onlyProxy finds one by POD.NAMESPACE or, in the current namespace, POD.
func onlyProxy(list []proxyState, name string, g *global) ([]proxyState, error) {
	if !strings.Contains(name, ".") {
		namespace, err := g.currentNamespace()
		if err != nil {
			return nil, err
		}
		name += "." + namespace
	}
	for _, p := range list {
		if p.name() == name {
			return []proxyState{p}, nil
		}
	}
	return nil, fmt.Errorf("no proxy %s is connected", name)
}

func printProxies(out io.Writer, list []proxyState, output string) error {
	if done, err := printAs(out, list, output); done {
		return err
	}
	if output != "table" {
		return errors.New("--output: use table, json or yaml")
	}
	w := tabwriter.NewWriter(out, 0, 8, 3, ' ', 0)
	fmt.Fprintln(w, "NAME\t"+strings.ToUpper(strings.Join(xds.Columns, "\t"))+"\tISTIOD\tVERSION")
	for _, p := range list {
		line := []string{p.name()}
		for _, kind := range xds.Columns {
			line = append(line, p.Standing(kind))
		}
		fmt.Fprintln(w, strings.Join(append(line, p.ControlPlane, cmp.Or(p.Version, p.Envoy, "-")), "\t"))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, p := range list {
		for _, kind := range xds.Columns {
			if t := p.Types[kind]; t.Error != "" {
				fmt.Fprintf(out, "%s refused %s: %s\n", p.name(), strings.ToUpper(kind), t.Error)
			}
		}
	}
	return nil
}
