package lifecycle

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/version"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/slipway-mesh/slipway/api/v1alpha1"
	"github.com/slipway-mesh/slipway/internal/install/apply"
	"github.com/slipway-mesh/slipway/internal/install/manifest"
)

// policy is how the target's objects are applied: what of them others may change, and what others own.
func (i Installer) policy(ctx context.Context, target *Target) (apply.Policy, error) {
	owners, err := i.owners(ctx)
	if err != nil {
		return apply.Policy{}, err
	}
	policy := apply.Policy{Yield: i.Yield, Foreign: func(live apply.Object) (string, bool) { return foreign(target, owners, live) }}
	if drift := target.Lifecycle.Drift; drift != nil {
		policy.Drift = apply.DriftMode(drift.Mode)
		for _, rule := range drift.Ignore {
			policy.Ignore = append(policy.Ignore, ignore(rule))
		}
	}
	return policy, nil
}

func ignore(rule v1alpha1.DriftIgnoreRule) apply.Ignore {
	out := apply.Ignore{Kind: rule.Kind, Name: rule.Name}
	unescape := strings.NewReplacer("~1", "/", "~0", "~")
	for _, pointer := range rule.Paths {
		steps := strings.Split(strings.TrimPrefix(pointer, "/"), "/")
		for k := range steps {
			steps[k] = unescape.Replace(steps[k])
		}
		out.Paths = append(out.Paths, steps)
	}
	return out
}

// foreign names whose a live object is, if it is not the target's: another installer's, or another living owner's.
// CRDs, and what else belongs to the base, are shared by all owners: they stay their first owner's while that one lives
// and is not older. An installation by the CLI gives way to a resource of the same revision. Who is kept at what was found
// gives way to who adopts, and does not ask it back.
func foreign(target *Target, owners map[Owner]holding, live apply.Object) (owner string, shared bool) {
	labels := live.GetLabels()
	shared = live.GetKind() == "CustomResourceDefinition" || labels[manifest.LabelComponent] == "Base"
	adopts := target.Lifecycle.Adopt != nil && *target.Lifecycle.Adopt
	if !apply.Ours(live) {
		if adopts || target.kept {
			return "", false
		}
		installer := "another installer"
		if by := labels["app.kubernetes.io/managed-by"]; by != "" {
			installer = by
		}
		return installer + " (spec.lifecycle.adopt takes it over)", shared
	}
	other := ownerOf(live)
	state, alive := owners[other]
	switch {
	case other == target.Owner || !alive:
		return "", false
	case target.kept:
		return other.String(), true
	case adopts && state == keeps:
		return "", false
	case shared && older(labels[manifest.LabelVersion], target.Version):
		return "", false
	case other == CommandLine(target.Owner.Namespace, target.Revision) && !target.Owner.IsCommandLine():
		return "", false
	}
	return other.String(), shared
}

func older(a, b string) bool {
	va, err1 := version.ParseSemantic(a)
	vb, err2 := version.ParseSemantic(b)
	return err1 == nil && err2 == nil && va.LessThan(vb)
}

// Sharing says whether a reason for leaving an object is that another owner of ours has it, which is no news.
func Sharing(reason string) bool {
	return strings.Contains(reason, "belongs to IstioOperator ") || strings.Contains(reason, "belongs to `slipway install`")
}

// holding is how an owner holds what it has.
type holding int

const (
	renders holding = iota // it is what its spec says
	keeps                  // it is kept at an installation
)

// Owners lists those who have something installed: the CLI, and the IstioOperators that still exist.
func (i Installer) Owners(ctx context.Context) ([]Owner, error) {
	owners, err := i.owners(ctx)
	return slices.SortedFunc(maps.Keys(owners), func(a, b Owner) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	}), err
}

func (i Installer) owners(ctx context.Context) (map[Owner]holding, error) {
	inventories := &corev1.ConfigMapList{}
	if err := i.Cluster.Client.List(ctx, inventories, client.HasLabels{apply.InventoryLabel}); err != nil {
		return nil, fmt.Errorf("list inventories: %w", err)
	}
	owners := map[Owner]holding{}
	for _, inventory := range inventories.Items {
		owner := Owner{inventory.Namespace, strings.TrimPrefix(inventory.Name, inventoryPrefix)}
		state := renders
		if !owner.IsCommandLine() {
			resource := &v1alpha1.IstioOperator{}
			err := i.Cluster.Client.Get(ctx, client.ObjectKey{Namespace: owner.Namespace, Name: owner.Name}, resource)
			if client.IgnoreNotFound(err) != nil {
				return nil, fmt.Errorf("read %s: %w", owner, err)
			}
			if err != nil {
				continue
			}
			if spec := resource.Spec; spec != nil && spec.Lifecycle != nil && spec.Lifecycle.Installation != nil {
				state = keeps
			}
		}
		owners[owner] = state
	}
	return owners, nil
}
