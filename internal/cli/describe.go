package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/slipway-mesh/slipway/internal/discovery"
	"github.com/slipway-mesh/slipway/internal/discovery/resolve"
)

func describeCommand(g *global) *cobra.Command {
	command := &cobra.Command{Use: "describe", Aliases: []string{"des"}, Short: "Say what the mesh's configuration means for a pod or a service"}
	var output, revision string
	pod := &cobra.Command{
		Use: "pod [TYPE/]NAME[.NAMESPACE]", Aliases: []string{"po", "workload"}, Short: "What applies to a pod: services, routes, rules, policies, and what is wrong with them", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			namespace, name, err := podOf(cmd.Context(), g, args[0])
			if err != nil {
				return err
			}
			kube, err := g.client()
			if err != nil {
				return err
			}
			object := &corev1.Pod{}
			if err := kube.Get(cmd.Context(), client.ObjectKey{Namespace: namespace, Name: name}, object); err != nil {
				return fmt.Errorf("read pod %s/%s: %w", namespace, name, err)
			}
			state, err := clusterState(cmd.Context(), g, revision)
			if err != nil {
				return err
			}
			description := discovery.DescribeWorkload(state, namespace, object.Labels)
			if done, err := printAs(cmd.OutOrStdout(), description, output); done || err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "Pod: %s/%s\n%s", namespace, name, sidecarText(object))
			printDescription(cmd.OutOrStdout(), description)
			return nil
		},
	}
	service := &cobra.Command{
		Use: "service NAME[.NAMESPACE]", Aliases: []string{"svc"}, Short: "What applies to a service: ports, routes, rules, and what is wrong with them", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, namespace, ok := strings.Cut(args[0], ".")
			if !ok {
				var err error
				if namespace, err = g.currentNamespace(); err != nil {
					return err
				}
			}
			state, err := clusterState(cmd.Context(), g, revision)
			if err != nil {
				return err
			}
			description := discovery.DescribeService(state, namespace, name+"."+namespace+".svc.cluster.local")
			if description == nil {
				return fmt.Errorf("there is no Service %s/%s", namespace, name)
			}
			if done, err := printAs(cmd.OutOrStdout(), description, output); done || err != nil {
				return err
			}
			printDescription(cmd.OutOrStdout(), description)
			return nil
		},
	}
	for _, one := range []*cobra.Command{pod, service} {
		one.Flags().StringVarP(&output, "output", "o", "", "json or yaml")
		one.Flags().StringVarP(&revision, "revision", "r", "", "the revision whose MeshConfig counts")
	}
	command.AddCommand(pod, service)
	return command
}

// clusterState is what a control plane would know of the cluster.
func clusterState(ctx context.Context, g *global, revision string) (*resolve.State, error) {
	changes, err := readCluster(ctx, g, "istio"+revisionSuffix(revision))
	if err != nil {
		return nil, err
	}
	state, _ := resolve.Next(resolve.Start(analyzed(g)), changes)
	return state, nil
}

// sidecarText says whether the pod has a sidecar, and of which revision.
func sidecarText(pod *corev1.Pod) string {
	for _, container := range append(pod.Spec.Containers, pod.Spec.InitContainers...) {
		if container.Name == "istio-proxy" {
			return fmt.Sprintf("   Sidecar: revision %s, %s\n", pod.Annotations["istio.io/rev"], container.Image)
		}
	}
	return "   Sidecar: none; nothing below is enforced at this pod\n"
}

func printDescription(out io.Writer, d *discovery.Description) {
	each := func(title string, lines ...string) {
		for _, line := range lines {
			if line != "" {
				fmt.Fprintf(out, "   %s: %s\n", title, line)
			}
		}
	}
	each("Calls are narrowed by Sidecar", d.Sidecar)
	each("EnvoyFilter", d.Filters...)
	each("Policy", d.Policies...)
	for _, s := range d.Services {
		fmt.Fprintf(out, "--------------------\nService: %s\n", s.Host)
		for _, p := range s.Ports {
			fmt.Fprintf(out, "   Port: %s %d/%s targets pod port %d; mutual TLS %s\n", p.Name, p.Number, p.Protocol, p.Target, p.MTLS)
		}
		each("DestinationRule", s.Rule)
		if len(s.Matching) > 0 {
			each("   Matching subsets", strings.Join(s.Matching, ","))
		}
		if others := len(s.Subsets) - len(s.Matching); others > 0 {
			each("   Subsets", strings.Join(s.Subsets, ","))
		}
		each("VirtualService", s.Routes...)
	}
	if len(d.Services) == 0 {
		fmt.Fprintln(out, "   No Service selects it")
	}
	for _, p := range d.Problems {
		fmt.Fprintf(out, "%s [%s] %s\n", p.Level(), p.Code(), p)
	}
}
