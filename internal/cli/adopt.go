package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/slipway-mesh/slipway/api/v1alpha1"
	"github.com/slipway-mesh/slipway/internal/install/adopt"
	"github.com/slipway-mesh/slipway/internal/install/apply"
	"github.com/slipway-mesh/slipway/internal/install/lifecycle"
)

func adoptCommand(g *global) *cobra.Command {
	command := &cobra.Command{
		Use:   "adopt",
		Short: "Take over a mesh that istioctl, Helm or another operator installed, without restarting a pod",
		Long: `Take over a mesh that istioctl, Helm, another operator or plain manifests installed.

  slipway adopt list       what meshes there are
  slipway adopt show       the mesh as an IstioOperator, what that cannot say, and what taking it over would change
  slipway adopt own        make it an IstioOperator's; everything stays as it is, and no pod restarts
  slipway adopt move       print the IstioOperator that moves it to Slipway's control plane as a revision beside it`,
	}
	command.AddCommand(adoptListCommand(g), adoptShowCommand(g), adoptOwnCommand(g), adoptMoveCommand(g))
	return command
}

// foundMesh is a mesh for programs.
type foundMesh struct {
	Name      string   `json:"name"`
	Namespace string   `json:"namespace"`
	Version   string   `json:"version,omitempty"`
	Installer string   `json:"installer"`
	Releases  []string `json:"releases,omitempty"`
	Objects   []string `json:"objects"`
}

func adoptListCommand(g *global) *cobra.Command {
	var output string
	command := &cobra.Command{
		Use: "list", Short: "List the meshes of other installers", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			kube, err := g.client()
			if err != nil {
				return err
			}
			meshes, err := adopt.Find(cmd.Context(), kube)
			if err != nil {
				return err
			}
			list := make([]foundMesh, 0, len(meshes))
			for _, mesh := range meshes {
				one := foundMesh{mesh.Name(), mesh.Namespace, mesh.Version, mesh.Installer, mesh.Releases, nil}
				for _, object := range mesh.Objects {
					one.Objects = append(one.Objects, apply.RefOf(object).String())
				}
				list = append(list, one)
			}
			if done, err := printAs(cmd.OutOrStdout(), list, output); done || err != nil {
				return err
			}
			if len(list) == 0 {
				fmt.Fprintln(cmd.OutOrStdout(), "There is no mesh of another installer.")
				return nil
			}
			table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 3, ' ', 0)
			fmt.Fprintln(table, "REVISION\tNAMESPACE\tVERSION\tINSTALLED BY\tOBJECTS")
			for _, one := range list {
				fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%d\n", one.Name, one.Namespace, one.Version, strings.Join(append([]string{one.Installer}, one.Releases...), " "), len(one.Objects))
			}
			return table.Flush()
		},
	}
	command.Flags().StringVarP(&output, "output", "o", "", "json or yaml")
	return command
}

// adoption is a mesh on its way to an owner.
type adoption struct {
	mesh   *adopt.Mesh
	losses []adopt.Loss
	target *lifecycle.Target
	plan   lifecycle.Plan
}

// adoptFlags name the mesh and its owner to be.
type adoptFlags struct {
	revision, name string
}

func (f *adoptFlags) register(command *cobra.Command) {
	command.Flags().StringVarP(&f.revision, "revision", "r", "", "the mesh's revision, if there are several")
	command.Flags().StringVar(&f.name, "name", "", "the IstioOperator's name; otherwise the one that there is, or adopted[-REVISION]")
}

// prepare finds the mesh and asks the cluster what taking it over would change.
func (f *adoptFlags) prepare(ctx context.Context, kube client.Client) (*adoption, error) {
	meshes, err := adopt.Find(ctx, kube)
	if err != nil {
		return nil, err
	}
	mesh, err := f.choose(meshes)
	if err != nil {
		return nil, err
	}
	a := &adoption{mesh: mesh}
	owner := f.owner(mesh)
	spec, losses := mesh.Spec(func(spec map[string]any) error {
		_, err := lifecycle.Render(build(), owner, spec)
		return err
	})
	a.losses = losses
	a.target = lifecycle.Found(owner, spec, mesh.Version, mesh.Revision, mesh.Components())
	a.plan, err = installer(kube).Plan(ctx, a.target)
	return a, err
}

func (f *adoptFlags) choose(meshes []*adopt.Mesh) (*adopt.Mesh, error) {
	var names []string
	for _, mesh := range meshes {
		if f.revision == mesh.Name() || f.revision == "" && len(meshes) == 1 {
			return mesh, nil
		}
		names = append(names, mesh.Name())
	}
	switch {
	case len(meshes) == 0:
		return nil, fmt.Errorf("there is no mesh of another installer")
	case f.revision == "":
		return nil, fmt.Errorf("there are several meshes: name one with --revision: %s", strings.Join(names, ", "))
	}
	return nil, fmt.Errorf("there is no mesh of revision %s; there is: %s", f.revision, strings.Join(names, ", "))
}

// owner is the IstioOperator that the mesh gets: what made it goes on, unless that only records what istioctl did.
func (f *adoptFlags) owner(mesh *adopt.Mesh) lifecycle.Owner {
	name := f.name
	switch {
	case name != "":
	case mesh.Installer == adopt.ByOperator:
		name = mesh.Resource.GetName()
	case mesh.Revision != "":
		name = "adopted-" + mesh.Revision
	default:
		name = "adopted"
	}
	return lifecycle.Owner{Namespace: mesh.Namespace, Name: name}
}

// resource is the IstioOperator as it is to be written.
func (a *adoption) resource() *unstructured.Unstructured {
	spec := withLifecycle(a.target.Spec, "installation", int64(1))
	return istioOperator(a.target.Owner, spec)
}

func istioOperator(owner lifecycle.Owner, spec map[string]any) *unstructured.Unstructured {
	resource := &unstructured.Unstructured{Object: map[string]any{"spec": spec}}
	resource.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("IstioOperator"))
	resource.SetNamespace(owner.Namespace)
	resource.SetName(owner.Name)
	return resource
}

// withLifecycle is a copy of a spec with a field of spec.lifecycle.
func withLifecycle(spec map[string]any, field string, value any) map[string]any {
	out := (&unstructured.Unstructured{Object: spec}).DeepCopy().Object
	if _, ok := out["lifecycle"].(map[string]any); !ok {
		out["lifecycle"] = map[string]any{}
	}
	out["lifecycle"].(map[string]any)[field] = value
	return out
}

func adoptShowCommand(g *global) *cobra.Command {
	f := &adoptFlags{}
	command := &cobra.Command{
		Use: "show", Short: "Print the mesh as an IstioOperator, what that cannot say, and what taking it over would change", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			kube, err := g.client()
			if err != nil {
				return err
			}
			a, err := f.prepare(cmd.Context(), kube)
			if err != nil {
				return err
			}
			text, err := yaml.Marshal(a.resource().Object)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s", text)
			a.print(cmd.OutOrStdout(), "# ")
			return nil
		},
	}
	f.register(command)
	return command
}

// print tells what taking the mesh over does.
func (a *adoption) print(out io.Writer, prefix string) {
	fmt.Fprintf(out, "%sThe mesh %s in %s was installed by %s", prefix, a.mesh.Name(), a.mesh.Namespace, a.mesh.Installer)
	if len(a.mesh.Releases) > 0 {
		fmt.Fprintf(out, " (%s)", strings.Join(a.mesh.Releases, ", "))
	}
	fmt.Fprintf(out, "; it has %d objects.\n", len(a.mesh.Objects))
	for _, loss := range a.losses {
		fmt.Fprintf(out, "%sNot carried over: %s: %s\n", prefix, loss.Field, loss.Reason)
	}
	fmt.Fprintf(out, "%sTaking it over: %s; %d pod templates change.\n", prefix, a.plan.Changes, len(a.plan.Restarts))
	for _, line := range a.plan.Lines() {
		fmt.Fprintf(out, "%s  %s\n", prefix, line)
	}
	for _, why := range a.plan.Refused {
		fmt.Fprintf(out, "%s✘ %s\n", prefix, why)
	}
}

func adoptOwnCommand(g *global) *cobra.Command {
	f := &adoptFlags{}
	var yes, dryRun bool
	var timeout time.Duration
	command := &cobra.Command{
		Use: "own", Short: "Make the mesh an IstioOperator's, as it is", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			kube, err := g.client()
			if err != nil {
				return err
			}
			a, err := f.prepare(cmd.Context(), kube)
			if err != nil {
				return err
			}
			a.print(cmd.OutOrStdout(), "")
			switch {
			case len(a.plan.Refused) > 0:
				return fmt.Errorf("the cluster would refuse %d objects", len(a.plan.Refused))
			case len(a.plan.Restarts) > 0:
				return fmt.Errorf("pods would be replaced: %s; please report this", strings.Join(a.plan.Restarts, ", "))
			case dryRun:
				return nil
			case !yes && !confirm(cmd.InOrStdin(), cmd.OutOrStdout(), "Take this mesh over?"):
				return nil
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			return a.own(ctx, cmd.OutOrStdout(), kube)
		},
	}
	f.register(command)
	command.Flags().BoolVarP(&yes, "skip-confirmation", "y", false, "do not ask")
	command.Flags().BoolVar(&dryRun, "dry-run", false, "print what would change, and change nothing")
	command.Flags().DurationVar(&timeout, "timeout", 2*time.Minute, "how long the operator may take")
	return command
}

// own stores how the mesh was found and writes its IstioOperator; the operator does the rest.
func (a *adoption) own(ctx context.Context, out io.Writer, kube client.Client) error {
	if err := installer(kube).Adopt(ctx, a.target); err != nil {
		return err
	}
	resource := a.resource()
	if err := kube.Apply(ctx, client.ApplyConfigurationFromUnstructured(resource), client.FieldOwner(apply.FieldManager), client.ForceOwnership); err != nil {
		return fmt.Errorf("write %s: %w", a.target.Owner, err)
	}
	if err := awaitHealthy(ctx, kube, a.target.Owner); err != nil {
		return err
	}
	fmt.Fprintf(out, "✔ %s has the mesh; nothing of it changed\n", a.target.Owner)
	for _, name := range a.mesh.Releases {
		namespace, release, _ := strings.Cut(name, "/")
		fmt.Fprintf(out, "! Helm still knows the release %s, and would undo this: make it forget with kubectl delete secret -n %s -l owner=helm,name=%s\n", name, namespace, release)
	}
	fmt.Fprintf(out, "Next: slipway adopt move --resource %s/%s --to slipway\n", a.target.Owner.Namespace, a.target.Owner.Name)
	return nil
}

// awaitHealthy polls until the operator says that the resource is HEALTHY.
func awaitHealthy(ctx context.Context, kube client.Client, owner lifecycle.Owner) error {
	for {
		resource := &v1alpha1.IstioOperator{}
		if err := kube.Get(ctx, client.ObjectKey{Namespace: owner.Namespace, Name: owner.Name}, resource); err != nil && ctx.Err() == nil {
			return err
		}
		status := resource.Status
		if status.Status == v1alpha1.PhaseHealthy && status.ObservedGeneration == resource.Generation {
			return nil
		}
		select {
		case <-ctx.Done():
			if status.Status == "" {
				return fmt.Errorf("no operator follows %s: install one with slipway operator init --watchedNamespaces %s", owner, owner.Namespace)
			}
			return fmt.Errorf("%s is %s: %s", owner, status.Status, status.Message)
		case <-time.After(500 * time.Millisecond):
		}
	}
}

func adoptMoveCommand(g *global) *cobra.Command {
	f := &installation{}
	var to string
	var gateways bool
	command := &cobra.Command{
		Use:   "move",
		Short: "Print the IstioOperator that moves an adopted mesh to Slipway's control plane, as a revision beside it",
		Long: `Print the IstioOperator that moves an adopted mesh to Slipway's control plane, as a revision beside the old one.
Look at it with slipway plan -f, apply it, and move the namespaces to the revision by label or tag; their workloads get new
sidecars as they restart (slipway x workloads restart). Print it again with --gateways to move the gateways too. When nothing
uses the old revision, delete the adopted IstioOperator: the old control plane goes with it.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			kube, err := g.client()
			if err != nil {
				return err
			}
			owner, err := f.owner(cmd.Context(), g, kube)
			if err != nil {
				return err
			}
			spec, err := specOf(cmd.Context(), kube, owner)
			if err != nil {
				return err
			}
			moved := lifecycle.Owner{Namespace: owner.Namespace, Name: to}
			text, err := yaml.Marshal(istioOperator(moved, movedSpec(spec, to, gateways)).Object)
			if err == nil {
				_, err = cmd.OutOrStdout().Write(text)
			}
			return err
		},
	}
	f.register(command)
	command.Flags().StringVar(&to, "to", "slipway", "the new revision, and the IstioOperator's name")
	command.Flags().BoolVar(&gateways, "gateways", false, "move the gateways too: their pods are replaced one after the other, their Services stay")
	return command
}

// movedSpec is the spec of an adopted mesh for another revision.
func movedSpec(spec map[string]any, revision string, gateways bool) map[string]any {
	out := withLifecycle(spec, "adopt", true)
	delete(out["lifecycle"].(map[string]any), "installation")
	out["revision"] = revision
	all, _ := out["components"].(map[string]any)
	if gateways {
		return out
	}
	if all == nil {
		all = map[string]any{}
		out["components"] = all
	}
	for list, usual := range map[string]string{"ingressGateways": "istio-ingressgateway", "egressGateways": "istio-egressgateway"} {
		off := map[string]any{"name": usual, "enabled": false}
		kept, _ := all[list].([]any)
		named := false
		for _, element := range kept {
			if gateway, ok := element.(map[string]any); ok {
				gateway["enabled"] = false
				named = named || gateway["name"] == usual
			}
		}
		if !named { // the profile may have it
			kept = append(kept, off)
		}
		all[list] = kept
	}
	return out
}
