package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"
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
	if o.Served = !o.NoEnvoy && o.isServed(); o.Served {
		slog.Info("certificate: another server offers it", "socket", o.SDSSocket)
	}
	config, err := writeBootstrap(o)
	if err != nil {
		return err
	}
	ctx, quit := context.WithCancel(ctx)
	defer quit()
	// Servers go on while Envoy drains: it is told to end only after that.
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	group, serving := errgroup.WithContext(serving)
	secrets := newSecrets(o)
	names, err := newNames(o)
	if err != nil {
		return fmt.Errorf("DNS proxy: %w", err)
	}
	health := newHealth(o)
	proxy := newEnvoy(o, config)
	if !o.Served {
		group.Go(func() error { return named("certificates", secrets.run(serving)) })
	}
	if !o.NoEnvoy && !o.Served {
		group.Go(func() error { return named("SDS", secrets.serve(serving)) })
	}
	group.Go(func() error { return named("xDS proxy", serveXDS(serving, secrets, names, health)) })
	group.Go(func() error { return named("status", serveStatus(serving, o, secrets, names, proxy, quit)) })
	group.Go(func() error {
		health.run(serving)
		return nil
	})
	group.Go(func() error { return named("DNS proxy", runNames(serving, names)) })
	group.Go(func() error {
		defer stop()
		if o.NoEnvoy {
			<-ctx.Done()
			return nil
		}
		if o.AsksBootstrap {
			var err error
			if proxy.config, err = secrets.patchedBootstrap(ctx, config); err != nil {
				return named("bootstrap", err)
			}
		}
		return named("Envoy", proxy.run(ctx, serving))
	})
	if err := group.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	slog.Info("agent ends")
	return nil
}

// writeBootstrap writes what Envoy starts with and returns the file, or what a gRPC application does.
func writeBootstrap(o Options) (file string, err error) {
	if o.NoEnvoy {
		return "", o.writeGRPCBootstrap()
	}
	if o.Config.CustomConfigFile != "" {
		return o.Config.CustomConfigFile, nil
	}
	text, err := o.Bootstrap()
	if err != nil {
		return "", err
	}
	file = filepath.Join(o.ConfigDir, "envoy-rev.json")
	return file, os.WriteFile(file, text, 0o644)
}

func named(what string, err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}
