package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/slipway-mesh/slipway/internal/discovery"
	"github.com/slipway-mesh/slipway/internal/identity/ca"
)

func caCommand(g *global) *cobra.Command {
	command := &cobra.Command{Use: "ca", Short: "See and replace the root certificate of the mesh"}
	command.AddCommand(caStatusCommand(g), caRotateCommand(g))
	return command
}

func caStatusCommand(g *global) *cobra.Command {
	var output string
	command := &cobra.Command{
		Use: "status", Short: "Say which roots are trusted, which signs, and which proxies follow", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			standing, err := caStatus(cmd.Context(), g)
			if err != nil {
				return err
			}
			if done, err := printAs(cmd.OutOrStdout(), standing, output); done || err != nil {
				return err
			}
			return standing.print(cmd.OutOrStdout())
		},
	}
	command.Flags().StringVarP(&output, "output", "o", "", "json or yaml")
	return command
}

func caRotateCommand(g *global) *cobra.Command {
	var wait time.Duration
	command := &cobra.Command{
		Use: "rotate", Short: "Replace the self-signed root, in phases that each wait for all proxies", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			kube, err := g.client()
			if err != nil {
				return err
			}
			standing, err := caStatus(ctx, g)
			if err != nil {
				return err
			}
			switch {
			case standing.Plugged:
				return errors.New("the authority is plugged in by the Secret cacerts: add the new root to its root-cert.pem first; when `slipway x ca status` says that all follow, replace ca-cert.pem, ca-key.pem and cert-chain.pem; when all follow again, remove the old root")
			case standing.Phase != ca.Settled:
				return fmt.Errorf("a rotation is on its way, in phase %s since %s", standing.Phase, standing.Since.Format(time.RFC3339))
			}
			secret := &corev1.Secret{}
			secret.Namespace, secret.Name = g.istioNamespace, ca.SecretName
			patch := fmt.Sprintf(`{"metadata":{"annotations":{%q:%q}}}`, ca.RotateAnnotation, time.Now().UTC().Format(time.RFC3339Nano))
			if err := kube.Patch(ctx, secret, client.RawPatch("application/merge-patch+json", []byte(patch))); err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), "✔ A rotation is asked for. `slipway x ca status` says how far it is.")
			if wait == 0 {
				return nil
			}
			return awaitRotation(ctx, cmd.OutOrStdout(), g, standing.Roots[0], wait)
		},
	}
	command.Flags().DurationVar(&wait, "wait", 0, "how long to wait until the old root is trusted no more; 0 does not wait")
	return command
}

// awaitRotation prints each phase as it begins, and returns when the old root is trusted no more.
func awaitRotation(ctx context.Context, out io.Writer, g *global, old ca.Root, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	last := ca.Settled
	for {
		standing, err := caStatus(ctx, g)
		if err == nil && standing.Phase != last && standing.Phase != ca.Settled {
			fmt.Fprintf(out, "  phase %s\n", standing.Phase)
			last = standing.Phase
		}
		if err == nil && standing.Phase == ca.Settled && !slices.Contains(standing.Roots, old) {
			fmt.Fprintln(out, "✔ The old root is trusted no more.")
			return nil
		}
		select {
		case <-ctx.Done():
			if err != nil {
				return err
			}
			return fmt.Errorf("not in time: phase %q, and not all proxies follow: %s", standing.Phase, strings.Join(append(standing.Behind, standing.Deaf...), ", "))
		case <-time.After(time.Second):
		}
	}
}

// caStanding is what all replicas say of the authority.
type caStanding struct {
	Plugged      bool
	Phase        ca.Phase
	Since        time.Time
	Roots        []ca.Root // the one that signs first
	Follow       int
	Behind, Deaf []string // POD.NAMESPACE
}

func caStatus(ctx context.Context, g *global) (*caStanding, error) {
	answers, err := askPlanes[discovery.RootsReport](ctx, g, "", "debug/roots")
	if err != nil {
		return nil, err
	}
	out := &caStanding{}
	for _, pod := range slices.Sorted(maps.Keys(answers)) {
		answer := answers[pod]
		out.Plugged = answer.Plugged
		if out.Roots == nil {
			out.Roots = answer.Roots
		}
		if !slices.Equal(out.Roots, answer.Roots) {
			return nil, fmt.Errorf("the replicas of the control plane do not have the same authority; look again in a moment, and into the log of %s", pod)
		}
		out.Follow += answer.Follow
		for _, id := range answer.Behind {
			out.Behind = append(out.Behind, nodeName(id))
		}
		for _, id := range answer.Deaf {
			out.Deaf = append(out.Deaf, nodeName(id))
		}
	}
	if out.Plugged {
		return out, nil
	}
	kube, err := g.client()
	if err != nil {
		return nil, err
	}
	secret := &corev1.Secret{}
	err = kube.Get(ctx, client.ObjectKey{Namespace: g.istioNamespace, Name: ca.SecretName}, secret)
	if client.IgnoreNotFound(err) != nil || apierrors.IsForbidden(err) {
		return nil, err
	}
	out.Phase, out.Since = ca.PhaseOf(secret)
	return out, nil
}

func (s *caStanding) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 8, 3, ' ', 0)
	fmt.Fprintln(w, "ROOT\tENDS\tSIGNS")
	for i, root := range s.Roots {
		fmt.Fprintf(w, "%s\t%s\t%v\n", root.Serial, root.Ends.Format(time.DateOnly), i == 0)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	switch {
	case s.Plugged:
		fmt.Fprintln(out, "\nThe authority is plugged in.")
	case s.Phase != ca.Settled:
		fmt.Fprintf(out, "\nA rotation is in phase %s since %s.\n", s.Phase, s.Since.Format(time.RFC3339))
	}
	fmt.Fprintf(out, "\n%d proxies follow.\n", s.Follow)
	for _, list := range []struct {
		what string
		ids  []string
	}{{"are told, and have not followed yet", s.Behind}, {"do not ask for roots, and learn of them with their next certificate", s.Deaf}} {
		if len(list.ids) > 0 {
			fmt.Fprintf(out, "%d %s: %s\n", len(list.ids), list.what, strings.Join(list.ids, ", "))
		}
	}
	return nil
}
