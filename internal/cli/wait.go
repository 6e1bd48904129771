package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/slipway-mesh/slipway/internal/debugclient"
	"github.com/slipway-mesh/slipway/internal/discovery"
)

func waitCommand(g *global) *cobra.Command {
	var what, revision string
	var threshold float64
	var timeout time.Duration
	command := &cobra.Command{
		Use:     "wait KIND NAME[.NAMESPACE]",
		Short:   "Wait until the proxies hold what an object makes",
		Long:    "Wait until the connected proxies have acknowledged what an object makes of their configuration. How many have is printed as it grows.",
		Example: "  slipway wait virtualservice bookinfo.default",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if what != "distribution" {
				return fmt.Errorf("--for %s: it must be distribution", what)
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			object, err := wanted(ctx, g, args[0], args[1])
			if err != nil {
				return err
			}
			return object.wait(ctx, cmd, g, revision, threshold)
		},
	}
	flags := command.Flags()
	flags.StringVar(&what, "for", "distribution", "what to wait for")
	flags.Float64Var(&threshold, "threshold", 1, "which share of the proxies must hold it")
	flags.DurationVar(&timeout, "timeout", 30*time.Second, "how long to wait")
	flags.StringVarP(&revision, "revision", "r", "", "only the control plane of this revision")
	return command
}

// object is one whose way to the proxies is followed.
type object struct {
	kind, namespace, name string
	version               uint64 // its resourceVersion
}

// wanted finds the object, by any name of its kind that kubectl takes.
func wanted(ctx context.Context, g *global, kind, name string) (*object, error) {
	kube, err := g.client()
	if err != nil {
		return nil, err
	}
	name, namespace, ok := strings.Cut(name, ".")
	if !ok {
		if namespace, err = g.currentNamespace(); err != nil {
			return nil, err
		}
	}
	gvk, err := kindOf(kube, kind)
	if err != nil {
		return nil, err
	}
	live := &metav1.PartialObjectMetadata{}
	live.SetGroupVersionKind(gvk)
	if err := kube.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, live); err != nil {
		return nil, err
	}
	version, err := strconv.ParseUint(live.ResourceVersion, 10, 64)
	return &object{gvk.Kind, namespace, name, version}, err
}

// groups are those in which a kind is looked for.
var groups = []string{"networking.istio.io", "security.istio.io", "networking.k8s.io", ""}

func kindOf(kube client.Client, name string) (schema.GroupVersionKind, error) {
	plural := strings.ToLower(name)
	for _, form := range []string{plural, plural + "s", strings.TrimSuffix(plural, "y") + "ies"} {
		for _, group := range groups {
			if gvk, err := kube.RESTMapper().KindFor(schema.GroupVersionResource{Group: group, Resource: form}); err == nil {
				return gvk, nil
			}
		}
	}
	return schema.GroupVersionKind{}, fmt.Errorf("unknown kind %s", name)
}

func (o *object) wait(ctx context.Context, cmd *cobra.Command, g *global, revision string, threshold float64) error {
	var last string
	for {
		reached, of, known, err := o.reach(ctx, g, revision)
		if err == nil {
			line := fmt.Sprintf("%s %s.%s has reached %d of %d proxies", o.kind, o.name, o.namespace, reached, of)
			if !known {
				line = fmt.Sprintf("%s %s.%s is not known to the control plane yet", o.kind, o.name, o.namespace)
			}
			if line != last {
				fmt.Fprintln(cmd.OutOrStdout(), line)
				last = line
			}
			if known && float64(reached) >= threshold*float64(of) {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			if err != nil {
				return err
			}
			return fmt.Errorf("not in time: %s", last)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// reach adds up what all pods of the control plane say.
func (o *object) reach(ctx context.Context, g *global, revision string) (reached, of int, known bool, err error) {
	config, err := g.restConfig()
	if err != nil {
		return 0, 0, false, err
	}
	asker, err := debugclient.New(config)
	if err != nil {
		return 0, 0, false, err
	}
	pods, err := controlPlanePods(ctx, g, revision)
	if err != nil {
		return 0, 0, false, err
	}
	known = true
	for i := range pods {
		text, err := asker.ControlPlane(ctx, pods[i].Namespace, pods[i].Name, fmt.Sprintf("debug/reach/%s/%s/%s", o.kind, o.namespace, o.name))
		if err != nil {
			return 0, 0, false, nil //nolint:nilerr // it is not known there yet
		}
		var answer discovery.Reach
		if err := json.Unmarshal(text, &answer); err != nil {
			return 0, 0, false, err
		}
		version, _ := strconv.ParseUint(answer.ResourceVersion, 10, 64)
		known = known && version >= o.version
		reached, of = reached+answer.Reached, of+answer.Of
	}
	return reached, of, known, nil
}

// controlPlanePods are the running pods of the control plane.
func controlPlanePods(ctx context.Context, g *global, revision string) ([]corev1.Pod, error) {
	kube, err := g.client()
	if err != nil {
		return nil, err
	}
	labels := client.MatchingLabels{"app": "istiod"}
	if revision != "" {
		labels["istio.io/rev"] = revision
	}
	list := &corev1.PodList{}
	if err := kube.List(ctx, list, client.InNamespace(g.istioNamespace), labels); err != nil {
		return nil, err
	}
	var alive []corev1.Pod
	for _, pod := range list.Items {
		if pod.Status.Phase == corev1.PodRunning {
			alive = append(alive, pod)
		}
	}
	if len(alive) == 0 {
		return nil, fmt.Errorf("no control plane runs in namespace %s; use -i for another", g.istioNamespace)
	}
	return alive, nil
}
