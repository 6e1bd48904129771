package lifecycle

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/slipway-mesh/slipway/internal/install/apply"
)

// Plan is what an installation would change.
type Plan struct {
	Changes apply.ChangeSet
	// Restarts lists the workloads whose pods are replaced.
	Restarts []string
	// Refused are the objects that the API server would not take, each with its reason.
	Refused []string
}

// Plan asks the server what installing the target would change, and stores nothing. It says what Install then does:
// both apply in the same way.
func (i Installer) Plan(ctx context.Context, target *Target) (Plan, error) {
	i.Cluster.DryRun = true
	cluster, err := i.cluster(ctx, target)
	if err != nil {
		return Plan{}, err
	}
	known, err := cluster.LoadInventory(ctx, target.Owner.Namespace, target.Owner.inventoryName())
	if err != nil {
		return Plan{}, err
	}
	plan := Plan{}
	if plan.Changes, err = i.missingNamespaces(ctx, target); err != nil {
		return Plan{}, err
	}
	for _, component := range target.Components {
		changes, err := cluster.Apply(ctx, component.Objects, known)
		plan.Changes = append(plan.Changes, changes...)
		for _, one := range split(err) {
			plan.Refused = append(plan.Refused, one.Error())
		}
	}
	pruned, err := cluster.Prune(ctx, known.Missing(apply.InventoryOf(target.Objects())), target.Owner.owns)
	plan.Changes = append(plan.Changes, pruned...)
	for _, change := range plan.Changes {
		if restarts(change) {
			plan.Restarts = append(plan.Restarts, change.Ref.String())
		}
	}
	return plan, err
}

func split(err error) []error {
	var joined interface{ Unwrap() []error }
	switch {
	case err == nil:
		return nil
	case errors.As(err, &joined):
		return joined.Unwrap()
	}
	return []error{err}
}

// restarts says whether the change replaces the pods of a workload that is there.
func restarts(change apply.Change) bool {
	switch change.Ref.Kind {
	case "Deployment", "DaemonSet", "StatefulSet":
	default:
		return false
	}
	for _, field := range change.Fields {
		if change.Wrote() && strings.HasPrefix(field.Path, "spec.template") {
			return true
		}
	}
	return false
}

// Hash identifies the plan: a plan with the same changes has the same hash.
func (p Plan) Hash() string {
	text, err := json.Marshal(struct {
		Changes []string
		Fields  [][]apply.Field
	}{p.Lines(), p.fields()})
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:6])
}

func (p Plan) fields() [][]apply.Field {
	var all [][]apply.Field
	for _, change := range p.Changes {
		if change.Wrote() {
			all = append(all, change.Fields)
		}
	}
	return all
}

// signs are how an action is written in a plan.
var signs = map[apply.Action]string{
	apply.Created: "+", apply.Configured: "~", apply.Corrected: "~", apply.Pruned: "-", apply.Drifted: "!", apply.Kept: "=",
}

// Lines has a line for each object that would change, such as "~ Deployment istio-system/istiod: spec.replicas", and for
// each that is left although it differs.
func (p Plan) Lines() []string {
	var lines []string
	for _, change := range p.Changes {
		if change.Action == apply.Unchanged || change.Action == apply.Kept {
			continue
		}
		line := signs[change.Action] + " " + change.Ref.String()
		if paths := change.Paths(); len(paths) > 0 {
			line += ": " + strings.Join(paths, ", ")
		}
		lines = append(lines, line)
	}
	return lines
}

func (i Installer) missingNamespaces(ctx context.Context, target *Target) (apply.ChangeSet, error) {
	var changes apply.ChangeSet
	for _, name := range namespacesOf(target) {
		err := i.Cluster.Client.Get(ctx, client.ObjectKey{Name: name}, &corev1.Namespace{})
		switch {
		case apierrors.IsNotFound(err):
			changes = append(changes, apply.Change{Ref: apply.Ref{Version: "v1", Kind: "Namespace", Name: name}, Action: apply.Created})
		case err != nil:
			return nil, fmt.Errorf("namespace %s: %w", name, err)
		}
	}
	return changes, nil
}
