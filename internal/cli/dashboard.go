package cli

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/slipway-mesh/slipway/internal/debugclient"
	"github.com/slipway-mesh/slipway/internal/discovery/page"
)

// addon is a tool beside the mesh, as Istio's samples deploy it.
type addon struct {
	name, title, selector string
	port                  int
	path                  string
}

var addons = []addon{
	{"grafana", "Grafana", "app.kubernetes.io/name=grafana", 3000, ""},
	{"jaeger", "Jaeger", "app=jaeger", 16686, ""},
	{"kiali", "Kiali", "app=kiali", 20001, "/kiali"},
	{"prometheus", "Prometheus", "app.kubernetes.io/name=prometheus", 9090, ""},
	{"skywalking", "SkyWalking", "app=skywalking-ui", 8080, ""},
	{"zipkin", "Zipkin", "app=zipkin", 9411, ""},
}

type dashboardFlags struct {
	address string
	port    int
	browser bool
}

func dashboardCommand(g *global) *cobra.Command {
	f := &dashboardFlags{}
	command := &cobra.Command{Use: "dashboard", Aliases: []string{"dash", "d"}, Short: "Open a web page of the mesh, of a proxy or of a tool beside them"}
	flags := command.PersistentFlags()
	flags.StringVar(&f.address, "address", "localhost", "the address of this machine to listen at")
	flags.IntVarP(&f.port, "port", "p", 0, "the port of this machine to listen at; 0 takes a free one")
	flags.BoolVar(&f.browser, "browser", true, "open it in a browser")
	command.AddCommand(meshDashboard(g, f), proxyDashboard(g, f))
	for _, a := range addons {
		command.AddCommand(addonDashboard(g, f, a))
	}
	return command
}

func meshDashboard(g *global, f *dashboardFlags) *cobra.Command {
	var revision string
	command := &cobra.Command{
		Use: "mesh", Short: "Show traffic, services, proxies, objects and installations", Args: cobra.NoArgs, Example: "  slipway dashboard mesh",
		RunE: func(cmd *cobra.Command, _ []string) error {
			pods, err := controlPlanePods(cmd.Context(), g, revision)
			if err != nil {
				return err
			}
			return f.show(cmd, g, pods[0].Namespace, pods[0].Name, debugclient.PlanePort, page.Path)
		},
	}
	command.Flags().StringVarP(&revision, "revision", "r", "", "of the control plane of this revision")
	return command
}

func proxyDashboard(g *global, f *dashboardFlags) *cobra.Command {
	var selector string
	var port int
	command := &cobra.Command{
		Use: "proxy [TYPE/]POD[.NAMESPACE]", Aliases: []string{"envoy"}, Short: "Show a proxy's admin interface", Args: cobra.MaximumNArgs(1), Example: "  slipway dashboard proxy deploy/productpage-v1",
		RunE: func(cmd *cobra.Command, args []string) error {
			var namespace, pod string
			var err error
			switch {
			case len(args) == 1 && selector == "":
				namespace, pod, err = podOf(cmd.Context(), g, args[0])
			case len(args) == 0 && selector != "":
				if namespace, err = g.currentNamespace(); err == nil {
					pod, err = podBy(cmd.Context(), g, namespace, selector)
				}
			default:
				err = fmt.Errorf("name a pod, or select one with --selector")
			}
			if err != nil {
				return err
			}
			return f.show(cmd, g, namespace, pod, port, "")
		},
	}
	command.Flags().StringVarP(&selector, "selector", "l", "", "the labels of the pod, such as app=productpage")
	command.Flags().IntVar(&port, "ui-port", debugclient.AdminPort, "Envoy's admin port")
	return command
}

func addonDashboard(g *global, f *dashboardFlags, a addon) *cobra.Command {
	return &cobra.Command{
		Use: a.name, Short: "Show " + a.title, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			namespace := g.namespace
			if namespace == "" {
				namespace = g.istioNamespace
			}
			pod, err := podBy(cmd.Context(), g, namespace, a.selector)
			if err != nil {
				return err
			}
			return f.show(cmd, g, namespace, pod, a.port, a.path)
		},
	}
}

// podBy finds a pod that runs.
func podBy(ctx context.Context, g *global, namespace, text string) (string, error) {
	selector, err := labels.Parse(text)
	if err != nil {
		return "", fmt.Errorf("--selector: %w", err)
	}
	kube, err := g.client()
	if err != nil {
		return "", err
	}
	return running(ctx, kube, namespace, selector, text)
}

// show forwards a port until it is interrupted.
func (f *dashboardFlags) show(cmd *cobra.Command, g *global, namespace, pod string, port int, path string) error {
	config, err := g.restConfig()
	if err != nil {
		return err
	}
	config.Timeout = 0 // it is looked at as long as somebody likes
	asker, err := debugclient.New(config)
	if err != nil {
		return err
	}
	interrupted, stop := signal.NotifyContext(cmd.Context(), os.Interrupt)
	defer stop()
	return asker.Forward(interrupted, namespace, pod, port, net.JoinHostPort(f.address, strconv.Itoa(f.port)), func(ctx context.Context, address string) error {
		url := "http://" + address + path
		fmt.Fprintln(cmd.OutOrStdout(), url)
		if f.browser {
			if err := open(ctx, url); err != nil {
				fmt.Fprintf(cmd.ErrOrStderr(), "No browser can be opened (%v): open the address above.\n", err)
			}
		}
		<-ctx.Done()
		if interrupted.Err() != nil {
			return nil
		}
		return context.Cause(ctx)
	})
}

// open shows a URL as this system does it.
func open(ctx context.Context, url string) error {
	switch runtime.GOOS {
	case "darwin":
		return exec.CommandContext(ctx, "open", url).Start()
	case "windows":
		return exec.CommandContext(ctx, "rundll32", "url.dll,FileProtocolHandler", url).Start()
	}
	return exec.CommandContext(ctx, "xdg-open", url).Start()
}
