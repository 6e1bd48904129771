// Command slipway-cluster runs a real one-node Kubernetes on a bare Linux machine: etcd, the control plane, a
// kubelet over containerd, kube-proxy and CoreDNS, all inside one network namespace. Several clusters live side by
// side, told apart by --name. It needs root; it needs neither Docker nor a registry.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
)

const usage = `usage: slipway-cluster COMMAND [--name NAME]

  up               start the cluster, or say that it is there
  down             stop it and leave nothing behind
  status           what runs
  kubeconfig       print the path of its kubeconfig
  load TAR...      import image archives
  binary           build the Kubernetes binary if need be and print its path (no root needed)
  build            build all that up needs, so that it starts at once (no root needed)
`

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "slipway-cluster:", err)
		os.Exit(1)
	}
}

// errUsage asks for the usage text.
var errUsage = errors.New("unknown command\n" + strings.TrimSpace(usage))

func run(args []string) error {
	if len(args) == 0 {
		return errUsage
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	command := args[0]
	flags := flag.NewFlagSet(command, flag.ContinueOnError)
	name := flags.String("name", "slipway", "the cluster's name: letters, digits and dashes, at most 11")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	if command == "binary" {
		path, err := nodeBinary(ctx)
		if err == nil {
			fmt.Println(path)
		}
		return err
	}
	if command == "build" { // tests of capture use the packages too
		if err := ensurePackages(ctx); err != nil {
			return err
		}
		return buildAll(ctx)
	}
	if err := checkMachine(); err != nil {
		return err
	}
	c, err := clusterNamed(*name)
	if err != nil {
		return err
	}
	switch command {
	case "up":
		return c.up(ctx)
	case "down":
		return c.down()
	case "status":
		return c.status(ctx)
	case "kubeconfig":
		return c.printKubeconfig()
	case "load":
		return c.load(ctx, flags.Args())
	case "load-balancer": // run by up, in the background
		return c.serveLoadBalancers(ctx)
	}
	return errUsage
}

// checkMachine says in one line why no cluster can run here, and what to do instead.
func checkMachine() error {
	const instead = "; to use another cluster, set KUBECONFIG to its kubeconfig and run the slipway commands against it"
	if runtime.GOOS != "linux" {
		return errors.New("a cluster can only run on Linux" + instead)
	}
	if os.Geteuid() != 0 {
		return errors.New("a cluster needs root (network namespaces, cgroups and mounts)" + instead)
	}
	return nil
}
