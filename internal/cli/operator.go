package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/slipway-mesh/slipway/api/v1alpha1"
	"github.com/slipway-mesh/slipway/internal/install/apply"
	"github.com/slipway-mesh/slipway/internal/install/lifecycle"
	"github.com/slipway-mesh/slipway/internal/install/manifest"
)

// operatorFlags are what init and dump share.
type operatorFlags struct {
	hub, tag, namespace, watched, manifests string
	secrets                                 []string
}

func (f *operatorFlags) register(command *cobra.Command) {
	flags := command.Flags()
	flags.StringVar(&f.hub, "hub", build().Hub, "where the images are")
	flags.StringVar(&f.tag, "tag", build().Tag, "the images' tag")
	flags.StringVar(&f.namespace, "operatorNamespace", "istio-operator", "the operator's namespace")
	flags.StringVar(&f.watched, "watchedNamespaces", v1alpha1.DefaultNamespace, "where IstioOperators are watched, with commas between; empty means everywhere")
	flags.StringVarP(&f.manifests, "manifests", "d", "", "a folder with charts/operator in place of the built-in one")
	flags.StringVar(&f.manifests, "charts", "", "the same as --manifests")
	_ = flags.MarkHidden("charts")
	flags.StringSliceVar(&f.secrets, "imagePullSecrets", nil, "names of the secrets to pull images with")
}

func (f *operatorFlags) render() ([]manifest.Object, error) {
	options := manifest.OperatorOptions{Hub: f.hub, Tag: f.tag, Namespace: f.namespace, ImagePullSecrets: f.secrets, PackagePath: f.manifests}
	if f.watched != "" {
		options.WatchedNamespaces = strings.Split(f.watched, ",")
	}
	return manifest.RenderOperator(options)
}

func operatorCommand(g *global) *cobra.Command {
	command := &cobra.Command{Use: "operator", Short: "Install, show and remove the in-cluster operator"}
	command.AddCommand(operatorInitCommand(g), operatorDumpCommand(), operatorRemoveCommand(g))
	return command
}

func operatorDumpCommand() *cobra.Command {
	f := &operatorFlags{}
	var output string
	command := &cobra.Command{
		Use: "dump", Short: "Print the objects that init applies", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			objects, err := f.render()
			if err != nil {
				return err
			}
			return printObjects(cmd, objects, output)
		},
	}
	f.register(command)
	command.Flags().StringVarP(&output, "output", "o", "yaml", "yaml or json")
	return command
}

func printObjects(cmd *cobra.Command, objects []manifest.Object, output string) error {
	switch output {
	case "yaml":
		text, err := manifest.YAML(objects)
		if err != nil {
			return err
		}
		_, err = cmd.OutOrStdout().Write(text)
		return err
	case "json":
		encoder := json.NewEncoder(cmd.OutOrStdout())
		for _, object := range objects {
			if err := encoder.Encode(object.Object); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("--output %s: it must be yaml or json", output)
}

func operatorInitCommand(g *global) *cobra.Command {
	f := &operatorFlags{}
	var file, revision string
	var timeout time.Duration
	var dryRun bool
	command := &cobra.Command{
		Use: "init", Short: "Install or upgrade the operator and wait until it is ready", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if revision != "" {
				return fmt.Errorf("--revision %s: one operator serves the IstioOperators of all revisions; leave it out", revision)
			}
			objects, err := f.render()
			if err != nil {
				return err
			}
			kube, err := g.client()
			if err != nil {
				return err
			}
			if dryRun {
				changes, err := apply.Cluster{Client: kube, DryRun: true}.Apply(cmd.Context(), objects, nil)
				for _, line := range (lifecycle.Plan{Changes: changes}).Lines() {
					fmt.Fprintln(cmd.OutOrStdout(), line)
				}
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			fmt.Fprintf(cmd.OutOrStdout(), "Installing operator controller in namespace: %s using image: %s/operator:%s\n", f.namespace, f.hub, f.tag)
			fmt.Fprintf(cmd.OutOrStdout(), "Operator controller will watch namespaces: %s\n", f.watched)
			if err := awaitTermination(ctx, cmd.OutOrStdout(), kube, f.namespace); err != nil {
				return err
			}
			changes, err := initOperator(ctx, apply.Cluster{Client: kube}, objects)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "✔ Istio operator installed (%s)\n", changes)
			if file == "" {
				return nil
			}
			return applyResource(ctx, cmd, kube, file)
		},
	}
	f.register(command)
	command.Flags().StringVarP(&file, "filename", "f", "", "an IstioOperator to apply when the operator is ready")
	command.Flags().DurationVar(&timeout, "readiness-timeout", 5*time.Minute, "how long to wait")
	command.Flags().BoolVar(&dryRun, "dry-run", false, "print what would change, and change nothing")
	command.Flags().StringVarP(&revision, "revision", "r", "", "istioctl had an operator a revision")
	_ = command.Flags().MarkHidden("revision") // it only explains itself
	return command
}

// awaitTermination waits until a namespace that is being deleted is gone: nothing can be made in it, and it would take
// what is made in it along.
func awaitTermination(ctx context.Context, out io.Writer, kube client.Client, name string) error {
	for told := false; ; told = true {
		namespace := &corev1.Namespace{}
		err := kube.Get(ctx, client.ObjectKey{Name: name}, namespace)
		if err != nil || namespace.DeletionTimestamp == nil {
			return client.IgnoreNotFound(err)
		}
		if !told {
			fmt.Fprintf(out, "Waiting for namespace %s to be gone: it is being deleted\n", name)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("namespace %s is still being deleted: see its conditions for what holds it", name)
		case <-time.After(300 * time.Millisecond):
		}
	}
}

// initOperator applies the CRD, and the operator when its kind is served; then it waits for the operator.
func initOperator(ctx context.Context, cluster apply.Cluster, objects []manifest.Object) (apply.ChangeSet, error) {
	var all apply.ChangeSet
	split := slices.IndexFunc(objects, func(o manifest.Object) bool {
		return o.GetKind() != "Namespace" && o.GetKind() != "CustomResourceDefinition"
	})
	for _, group := range [][]manifest.Object{objects[:split], objects[split:]} {
		changes, err := cluster.Apply(ctx, group, nil)
		all = append(all, changes...)
		if err != nil {
			return all, err
		}
		if err := waitReady(ctx, cluster, group); err != nil {
			return all, fmt.Errorf("the operator is not ready: %w", err)
		}
	}
	return all, nil
}

func applyResource(ctx context.Context, cmd *cobra.Command, kube client.Client, file string) error {
	text, err := readFile(cmd.InOrStdin(), file)
	if err != nil {
		return err
	}
	resource := &unstructured.Unstructured{}
	if err := yaml.UnmarshalStrict(text, &resource.Object); err != nil {
		return fmt.Errorf("read %s: %w", file, err)
	}
	if resource.GetNamespace() == "" {
		resource.SetNamespace(v1alpha1.DefaultNamespace)
	}
	return kube.Apply(ctx, client.ApplyConfigurationFromUnstructured(resource), client.FieldOwner(apply.FieldManager))
}

// waitReady polls until all objects are ready; its error says which is not, and why.
func waitReady(ctx context.Context, cluster apply.Cluster, objects []manifest.Object) error {
	for {
		unready, err := cluster.Unready(ctx, objects)
		if err == nil && len(unready) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			if err == nil {
				err = fmt.Errorf("%s: %s", unready[0].Ref, unready[0].Reason)
			}
			return err
		case <-time.After(300 * time.Millisecond):
		}
	}
}

func operatorRemoveCommand(g *global) *cobra.Command {
	f := &operatorFlags{}
	var yes, purge, dryRun bool
	command := &cobra.Command{
		Use: "remove", Short: "Remove the operator; what it installed keeps running", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			kube, err := g.client()
			if err != nil {
				return err
			}
			resources := &v1alpha1.IstioOperatorList{}
			if err := kube.List(cmd.Context(), resources); client.IgnoreNotFound(err) != nil {
				return fmt.Errorf("list IstioOperators: %w", err)
			}
			if len(resources.Items) > 0 && !purge {
				fmt.Fprintf(cmd.OutOrStdout(), "%d IstioOperators will not be followed any more, and cannot be deleted until an operator is there again.\n", len(resources.Items))
			}
			if !dryRun && !yes && !confirm(cmd.InOrStdin(), cmd.OutOrStdout(), "Remove the operator?") {
				return nil
			}
			return removeOperator(cmd, kube, f, dryRun)
		},
	}
	f.register(command)
	command.Flags().BoolVarP(&yes, "skip-confirmation", "y", false, "do not ask")
	command.Flags().BoolVar(&dryRun, "dry-run", false, "say what would be removed, and remove nothing")
	command.Flags().BoolVar(&purge, "purge", false, "remove all revisions of the operator")
	return command
}

func removeOperator(cmd *cobra.Command, kube client.Client, f *operatorFlags, dryRun bool) error {
	objects, err := f.render()
	if err != nil {
		return err
	}
	cluster := apply.Cluster{Client: kube, DryRun: dryRun}
	var refs []apply.Ref
	for i := len(objects) - 1; i >= 0; i-- {
		refs = append(refs, apply.RefOf(objects[i]))
	}
	changes, err := cluster.Prune(cmd.Context(), refs, func(apply.Object) bool { return true })
	if err != nil {
		return err
	}
	if dryRun {
		for _, line := range (lifecycle.Plan{Changes: changes}).Lines() {
			fmt.Fprintln(cmd.OutOrStdout(), line)
		}
		return nil
	}
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: f.namespace}}
	if err := client.IgnoreNotFound(kube.Delete(cmd.Context(), namespace)); err != nil {
		return err
	}
	fmt.Fprintln(cmd.OutOrStdout(), "✔ Removal complete")
	return nil
}
