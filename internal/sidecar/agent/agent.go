package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"github.com/slipway-mesh/slipway/internal/sidecar/bootstrap"
)

// Run does all that an agent does until the context ends, then drains Envoy and returns.
func Run(ctx context.Context, o Options) error {
	if err := o.Check(); err != nil {
		return err
	}
	for _, dir := range []string{o.ConfigDir, filepath.Dir(o.SDSSocket)} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	text, err := bootstrap.JSON(o.bootstrap())
	if err != nil {
		return err
	}
	config := filepath.Join(o.ConfigDir, "envoy-rev.json")
	if err := os.WriteFile(config, text, 0o644); err != nil {
		return err
	}
	// Servers go on while Envoy drains: it is told to end only after that.
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	group, serving := errgroup.WithContext(serving)
	secrets := newSecrets(o)
	names, err := newNames(o)
	if err != nil {
		return fmt.Errorf("DNS proxy: %w", err)
	}
	proxy := newEnvoy(o, config)
	group.Go(func() error { return named("certificates", secrets.run(serving)) })
	group.Go(func() error { return named("SDS", secrets.serve(serving)) })
	group.Go(func() error { return named("xDS proxy", serveXDS(serving, o, names)) })
	group.Go(func() error { return named("status", serveStatus(serving, o, secrets, names, proxy)) })
	group.Go(func() error { return named("DNS proxy", runNames(serving, names)) })
	group.Go(func() error {
		defer stop()
		return named("Envoy", proxy.run(ctx, serving))
	})
	if err := group.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	slog.Info("agent ends")
	return nil
}

func named(what string, err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}
