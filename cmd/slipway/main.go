// Command slipway is the CLI. Its verbs and flags are istioctl's.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/slipway-mesh/slipway/internal/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := cli.Root().ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		var exit cli.Exit
		if errors.As(err, &exit) {
			os.Exit(exit.Status)
		}
		os.Exit(1)
	}
}
