package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/slipway-mesh/slipway/internal/discovery"
	"github.com/slipway-mesh/slipway/internal/discovery/resolve"
	"github.com/slipway-mesh/slipway/internal/discovery/source"
)

// ExitAnalyzed is the exit status of an analysis that found something at or above the threshold. It is istioctl's.
const ExitAnalyzed = 79

// Exit is an error with an exit status of its own.
type Exit struct {
	Status  int
	Message string
}

func (e Exit) Error() string { return e.Message }

type analysis struct {
	useKube, allNamespaces, recursive bool
	listAnalyzers                     bool
	threshold, shown, output          string
	meshFile, revision                string
	suppress                          []string
	timeout                           time.Duration
}

var levels = []string{resolve.LevelInfo, resolve.LevelWarning, resolve.LevelError}

func analyzeCommand(g *global) *cobra.Command {
	a := &analysis{}
	command := &cobra.Command{
		Use:   "analyze [FILE...]",
		Short: "Say what is wrong with a mesh's configuration, in files, in a cluster, or in both together",
		Example: "  slipway analyze                              # the cluster, in the current namespace\n" +
			"  slipway analyze virtual-service.yaml         # what the cluster would be with the file\n" +
			"  slipway analyze --use-kube=false -R config/  # files alone",
		RunE: func(cmd *cobra.Command, args []string) error {
			for flag, level := range map[string]string{"failure-threshold": a.threshold, "output-threshold": a.shown} {
				if !slices.Contains(levels, level) {
					return fmt.Errorf("--%s: %q is none of %s", flag, level, strings.Join(levels, ", "))
				}
			}
			if a.listAnalyzers {
				for _, line := range resolve.Reasons() {
					fmt.Fprintln(cmd.OutOrStdout(), line)
				}
				return nil
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), a.timeout)
			defer cancel()
			return a.run(ctx, g, cmd.OutOrStdout(), cmd.InOrStdin(), args)
		},
	}
	flags := command.Flags()
	flags.BoolVarP(&a.useKube, "use-kube", "k", true, "read the cluster as well")
	flags.BoolVarP(&a.allNamespaces, "all-namespaces", "A", false, "tell of all namespaces")
	flags.BoolVarP(&a.recursive, "recursive", "R", false, "read folders with those in them")
	flags.StringVar(&a.threshold, "failure-threshold", resolve.LevelError, "fail if there is something of this level or above: Info, Warning or Error")
	flags.StringVar(&a.shown, "output-threshold", resolve.LevelInfo, "print what is of this level or above")
	flags.StringVar(&a.meshFile, "meshConfigFile", "", "a file with the MeshConfig, in place of the cluster's")
	flags.StringVarP(&a.revision, "revision", "r", "", "the revision whose MeshConfig counts")
	flags.BoolVarP(&a.listAnalyzers, "list-analyzers", "L", false, "list what is looked for, by code")
	flags.DurationVar(&a.timeout, "timeout", 30*time.Second, "how long it may take")
	flags.StringVarP(&a.output, "output", "o", "log", "log, json or yaml")
	flags.StringArrayVarP(&a.suppress, "suppress", "S", nil, `leave out CODE=KIND NAME.NAMESPACE, where * stands for anything, such as "IST0101=VirtualService *.default"`)
	return command
}

func (a *analysis) run(ctx context.Context, g *global, out io.Writer, in io.Reader, files []string) error {
	namespace, err := g.currentNamespace()
	if err != nil && a.useKube {
		return err
	}
	if namespace == "" {
		namespace = "default"
	}
	var changes []source.Change
	if a.useKube {
		if changes, err = readCluster(ctx, g, "istio"+revisionSuffix(a.revision)); err != nil {
			return err
		}
	}
	if a.meshFile != "" {
		text, err := os.ReadFile(a.meshFile)
		if err != nil {
			return err
		}
		changes = append(changes, source.Change{Kind: "ConfigMap", Namespace: g.istioNamespace, Name: meshConfigMap, Object: &corev1.ConfigMap{Data: map[string]string{"mesh": string(text)}}})
	}
	var texts [][]byte
	fromFiles, err := readFiles(in, files, a.recursive, func(text []byte) ([]source.Change, error) {
		texts = append(texts, text)
		return source.Read(text, namespace)
	})
	if err != nil {
		return err
	}
	changes = append(changes, fromFiles...)
	workloads, err := a.workloads(ctx, g, changes, texts, namespace)
	if err != nil {
		return err
	}
	state, _ := resolve.Next(resolve.Start(analyzed(g)), changes)
	var found []resolve.Problem
	for _, p := range slices.Concat(state.Problems(), state.Analyze(), workloads.analyze()) {
		inScope := a.allNamespaces || !a.useKube || p.Namespace == namespace || p.Namespace == ""
		if inScope && !a.suppressed(p) && slices.Index(levels, p.Level()) >= slices.Index(levels, a.shown) {
			found = append(found, p)
		}
	}
	if err := a.print(out, found); err != nil {
		return err
	}
	if slices.ContainsFunc(found, func(p resolve.Problem) bool {
		return slices.Index(levels, p.Level()) >= slices.Index(levels, a.threshold)
	}) {
		return Exit{ExitAnalyzed, "Analyzers found issues. See https://istio.io/latest/docs/reference/config/analysis/ for what the IST codes mean."}
	}
	return nil
}

// workloads are what no proxy is told of, of the cluster and of files.
func (a *analysis) workloads(ctx context.Context, g *global, changes []source.Change, texts [][]byte, namespace string) (*workloads, error) {
	w := newWorkloads(changes)
	if a.useKube {
		c, err := g.client()
		if err != nil {
			return nil, err
		}
		if err := w.fromCluster(ctx, c); err != nil {
			return nil, err
		}
	}
	for _, text := range texts {
		if err := w.fromFile(text, namespace); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// analyzed are the options of a control plane whose configuration is looked at from here.
func analyzed(g *global) resolve.Options {
	return resolve.Options{ClusterID: "Kubernetes", Domain: "cluster.local", RootNamespace: g.istioNamespace, MeshConfigMap: meshConfigMap, Patches: discovery.PatchMistakes}
}

// suppressed says whether a problem is one that nobody wants to hear of.
func (a *analysis) suppressed(p resolve.Problem) bool {
	for _, s := range a.suppress {
		code, object, _ := strings.Cut(s, "=")
		kind, name, _ := strings.Cut(object, " ")
		full, err := filepath.Match(name, p.Name+"."+p.Namespace)
		if code == p.Code() && (kind == p.Kind || kind == "*") && err == nil && full {
			return true
		}
	}
	return false
}

// message is a problem as programs read it.
type message struct {
	Code    string `json:"code"`
	Level   string `json:"level"`
	Origin  string `json:"origin"`
	Field   string `json:"field"`
	Message string `json:"message"`
}

func (a *analysis) print(out io.Writer, found []resolve.Problem) error {
	list := []message{}
	for _, p := range found {
		list = append(list, message{p.Code(), p.Level(), p.Kind + " " + p.Namespace + "/" + p.Name, p.Field, p.Message})
	}
	slices.SortStableFunc(list, func(x, y message) int { return slices.Index(levels, y.Level) - slices.Index(levels, x.Level) })
	if done, err := printAs(out, list, a.output); done {
		return err
	}
	if a.output != "log" {
		return fmt.Errorf("--output: %q is none of log, json, yaml", a.output)
	}
	for _, m := range list {
		if _, err := fmt.Fprintf(out, "%s [%s] (%s) %s: %s\n", m.Level, m.Code, m.Origin, m.Field, m.Message); err != nil {
			return err
		}
	}
	if len(list) == 0 {
		_, err := fmt.Fprintln(out, "✔ No validation issues found.")
		return err
	}
	return nil
}

// readFiles reads what would be added; - is standard input, and a folder is the YAML files in it.
func readFiles(in io.Reader, files []string, recursive bool, parse func(text []byte) ([]source.Change, error)) ([]source.Change, error) {
	var changes []source.Change
	read := func(name string) error {
		text, err := os.ReadFile(name)
		if name == "-" {
			text, err = io.ReadAll(in)
		}
		if err != nil {
			return err
		}
		found, err := parse(text)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		changes = append(changes, found...)
		return nil
	}
	for _, name := range files {
		names := []string{name}
		if info, err := os.Stat(name); err == nil && info.IsDir() {
			var err error
			if names, err = yamlFiles(name, recursive); err != nil {
				return nil, err
			}
		}
		for _, one := range names {
			if err := read(one); err != nil {
				return nil, err
			}
		}
	}
	return changes, nil
}

func yamlFiles(folder string, recursive bool) ([]string, error) {
	var names []string
	err := filepath.WalkDir(folder, func(path string, entry os.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && path != folder && !recursive:
			return filepath.SkipDir
		case !entry.IsDir() && slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(path)):
			names = append(names, path)
		}
		return nil
	})
	return names, err
}

// clusterKinds are what is read of a cluster: all that decides anything, but for what is of one workload alone.
var clusterKinds = []schema.GroupVersionKind{
	{Version: "v1", Kind: "Namespace"}, {Version: "v1", Kind: "Service"}, {Version: "v1", Kind: "Pod"},
	{Group: "networking.istio.io", Version: "v1", Kind: "Gateway"}, {Group: "networking.istio.io", Version: "v1", Kind: "VirtualService"},
	{Group: "networking.istio.io", Version: "v1", Kind: "DestinationRule"}, {Group: "networking.istio.io", Version: "v1", Kind: "ServiceEntry"},
	{Group: "networking.istio.io", Version: "v1", Kind: "WorkloadEntry"}, {Group: "networking.istio.io", Version: "v1", Kind: "Sidecar"},
	{Group: "networking.istio.io", Version: "v1alpha3", Kind: "EnvoyFilter"}, {Group: "security.istio.io", Version: "v1", Kind: "PeerAuthentication"}, {Group: "security.istio.io", Version: "v1", Kind: "RequestAuthentication"},
	{Group: "security.istio.io", Version: "v1", Kind: "AuthorizationPolicy"}, {Group: "telemetry.istio.io", Version: "v1", Kind: "Telemetry"}, {Group: "networking.k8s.io", Version: "v1", Kind: "Ingress"}, {Group: "networking.k8s.io", Version: "v1", Kind: "IngressClass"},
}

func readCluster(ctx context.Context, g *global, meshConfig string) ([]source.Change, error) {
	c, err := g.client()
	if err != nil {
		return nil, err
	}
	changes, err := readConfigMap(ctx, c, g.istioNamespace, meshConfig)
	if err != nil {
		return nil, err
	}
	for _, kind := range clusterKinds {
		list := &unstructured.UnstructuredList{}
		list.SetGroupVersionKind(kind)
		if err := c.List(ctx, list); err != nil {
			if meta.IsNoMatchError(err) { // a cluster in which the mesh is not installed yet
				continue
			}
			return nil, fmt.Errorf("read all objects of kind %s: %w", kind.Kind, err)
		}
		for i := range list.Items {
			text, err := list.Items[i].MarshalJSON()
			if err != nil {
				return nil, err
			}
			object, err := source.Decode(kind.Kind, text)
			if err != nil {
				return nil, fmt.Errorf("%s %s/%s: %w", kind.Kind, list.Items[i].GetNamespace(), list.Items[i].GetName(), err)
			}
			changes = append(changes, source.Change{Kind: kind.Kind, Namespace: object.GetNamespace(), Name: object.GetName(), Object: object})
		}
	}
	return changes, nil
}

// meshConfigMap is the name under which an analysis knows the mesh's configuration, whatever its revision.
const meshConfigMap = "istio"

// readConfigMap reads the mesh's configuration, if there is one.
func readConfigMap(ctx context.Context, c client.Client, namespace, name string) ([]source.Change, error) {
	object := &unstructured.Unstructured{}
	object.SetGroupVersionKind(schema.GroupVersionKind{Version: "v1", Kind: "ConfigMap"})
	if err := c.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, object); err != nil {
		return nil, client.IgnoreNotFound(err)
	}
	text, err := object.MarshalJSON()
	if err != nil {
		return nil, err
	}
	typed, err := source.Decode("ConfigMap", text)
	if err != nil {
		return nil, err
	}
	return []source.Change{{Kind: "ConfigMap", Namespace: namespace, Name: meshConfigMap, Object: typed}}, nil
}

func validateCommand(g *global) *cobra.Command {
	var files []string
	command := &cobra.Command{
		Use:     "validate -f FILE",
		Aliases: []string{"v"},
		Short:   "Check each object of YAML files by itself, without a cluster",
		Example: "  slipway validate -f virtual-service.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			changes, err := readFiles(cmd.InOrStdin(), files, true, func(text []byte) ([]source.Change, error) { return source.Read(text, "default") })
			if err != nil {
				return err
			}
			options := analyzed(g)
			refused := 0
			for _, c := range changes {
				for _, p := range resolve.Check(options, c.Kind, c.Namespace, c.Name, c.Object) {
					if p.Refuse {
						refused++
					}
					fmt.Fprintf(cmd.ErrOrStderr(), "%s [%s] %s\n", p.Level(), p.Code(), p)
				}
			}
			if refused > 0 {
				return errors.New("the API server would refuse what is listed as Error")
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%d objects are valid\n", len(changes))
			return err
		},
	}
	command.Flags().StringArrayVarP(&files, "filename", "f", nil, "a file or folder; - is standard input")
	_ = command.MarkFlagRequired("filename")
	return command
}
