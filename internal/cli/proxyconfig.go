package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/slipway-mesh/slipway/internal/debugclient"
	"github.com/slipway-mesh/slipway/internal/explain"
)

// proxyFlags say which proxy, and in which form its configuration is printed.
type proxyFlags struct {
	file, output string
	port         int
	filter       proxyFilter
}

// proxyFilter keeps a part of what a proxy holds; an empty field keeps all.
type proxyFilter struct {
	fqdn, direction, subset, address, kind, name, status, cluster string
	port                                                          int
}

func proxyConfigCommand(g *global) *cobra.Command {
	command := &cobra.Command{Use: "proxy-config", Aliases: []string{"pc"}, Short: "Show what a proxy holds"}
	f := &proxyFlags{}
	for _, part := range proxyParts {
		command.AddCommand(part.command(g, f))
	}
	command.AddCommand(proxyLogCommand(g, f), proxyAllCommand(g, f))
	flags := command.PersistentFlags()
	flags.StringVarP(&f.file, "file", "f", "", "a config dump to read in place of asking a pod")
	flags.StringVarP(&f.output, "output", "o", "short", "short, json or yaml")
	flags.IntVar(&f.port, "proxy-admin-port", debugclient.AdminPort, "Envoy's admin port")
	return command
}

// proxyPart is one kind of what a proxy holds.
type proxyPart struct {
	name    string
	aliases []string
	flags   func(command *cobra.Command, f *proxyFilter)
	// header and rows make the short form; values are for json and yaml.
	header string
	rows   func(config *explain.Config, f proxyFilter) []string
	values func(config *explain.Config, f proxyFilter) (any, error)
}

var proxyParts = []proxyPart{
	{name: "cluster", aliases: []string{"clusters", "c"}, flags: clusterFlags, header: "SERVICE FQDN\tPORT\tSUBSET\tDIRECTION\tTYPE\tDESTINATION RULE", rows: clusterRows, values: clusterValues},
	{name: "listener", aliases: []string{"listeners", "l"}, flags: listenerFlags, header: "ADDRESS\tPORT\tMATCH\tDESTINATION", rows: listenerRows, values: listenerValues},
	{name: "route", aliases: []string{"routes", "r"}, flags: routeFlags, header: "NAME\tVHOST NAME\tDOMAINS\tMATCH\tVIRTUAL SERVICE", rows: routeRows, values: routeValues},
	{name: "endpoint", aliases: []string{"endpoints", "ep"}, flags: endpointFlags, header: "ENDPOINT\tSTATUS\tLOCALITY\tCLUSTER", rows: endpointRows, values: endpointValues},
	{name: "secret", aliases: []string{"secrets", "s"}, header: "RESOURCE NAME\tTYPE\tSTATUS\tVALID CERT\tSERIAL NUMBER\tNOT AFTER\tNOT BEFORE", rows: secretRows, values: secretValues},
	{name: "bootstrap", aliases: []string{"b"}, values: bootstrapValues},
}

func (p proxyPart) command(g *global, f *proxyFlags) *cobra.Command {
	command := &cobra.Command{
		Use: p.name + " [TYPE/]NAME[.NAMESPACE]", Aliases: p.aliases, Short: "Show the proxy's " + p.name + " configuration", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			config, err := f.load(cmd, g, args)
			if err != nil {
				return err
			}
			if f.output == "short" && p.rows != nil {
				return printRows(cmd.OutOrStdout(), p.header, p.rows(config, f.filter))
			}
			form := f.output
			if form == "short" {
				form = "json"
			}
			values, err := p.values(config, f.filter)
			if err != nil {
				return err
			}
			if done, err := printAs(cmd.OutOrStdout(), values, form); done || err != nil {
				return err
			}
			return fmt.Errorf("--output %s: it must be short, json or yaml", f.output)
		},
	}
	if p.flags != nil {
		p.flags(command, &f.filter)
	}
	return command
}

// proxyAllCommand shows every part: one table after another, or one document by the parts' names.
func proxyAllCommand(g *global, f *proxyFlags) *cobra.Command {
	command := &cobra.Command{
		Use: "all [TYPE/]NAME[.NAMESPACE]", Aliases: []string{"a"}, Short: "Show all of the proxy's configuration", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			config, err := f.load(cmd, g, args)
			if err != nil {
				return err
			}
			whole := map[string]any{}
			for _, part := range proxyParts {
				if f.output != "short" {
					if whole[part.name], err = part.values(config, f.filter); err != nil {
						return err
					}
				} else if part.rows != nil {
					if err := printRows(cmd.OutOrStdout(), part.header, part.rows(config, f.filter)); err != nil {
						return err
					}
					fmt.Fprintln(cmd.OutOrStdout())
				}
			}
			if f.output == "short" {
				return nil
			}
			if done, err := printAs(cmd.OutOrStdout(), whole, f.output); done || err != nil {
				return err
			}
			return fmt.Errorf("--output %s: it must be short, json or yaml", f.output)
		},
	}
	flags := command.Flags()
	flags.StringVar(&f.filter.fqdn, "fqdn", "", "only clusters of a host")
	flags.StringVar(&f.filter.direction, "direction", "", "only clusters of inbound or outbound")
	flags.StringVar(&f.filter.subset, "subset", "", "only clusters of a subset")
	flags.StringVar(&f.filter.address, "address", "", "only listeners and endpoints of an address")
	flags.StringVar(&f.filter.kind, "type", "", "only listeners of HTTP, TCP or HTTP+TCP")
	flags.StringVar(&f.filter.name, "name", "", "only a route table of a name")
	flags.IntVar(&f.filter.port, "port", 0, "only what is of a port")
	return command
}

// load reads the dump from the file, or asks the pod that the argument names.
func (f *proxyFlags) load(cmd *cobra.Command, g *global, args []string) (*explain.Config, error) {
	if f.file != "" {
		text, err := readFile(cmd.InOrStdin(), f.file)
		if err != nil {
			return nil, err
		}
		return explain.Parse(text)
	}
	if len(args) == 0 {
		return nil, errors.New("name a pod, such as productpage-v1-abc.default or deploy/productpage, or a file with --file")
	}
	return f.dump(cmd.Context(), g, args[0])
}

// dump asks a pod's proxy for all that it holds.
func (f *proxyFlags) dump(ctx context.Context, g *global, name string) (*explain.Config, error) {
	text, err := f.admin(ctx, g, name, http.MethodGet, "config_dump?include_eds")
	if err != nil {
		return nil, err
	}
	return explain.Parse(text)
}

func (f *proxyFlags) admin(ctx context.Context, g *global, name, method, path string) ([]byte, error) {
	namespace, pod, err := podOf(ctx, g, name)
	if err != nil {
		return nil, err
	}
	config, err := g.restConfig()
	if err != nil {
		return nil, err
	}
	asker, err := debugclient.New(config)
	if err != nil {
		return nil, err
	}
	return asker.Admin(ctx, namespace, pod, method, path, f.port)
}

func proxyLogCommand(g *global, f *proxyFlags) *cobra.Command {
	var level string
	var reset bool
	command := &cobra.Command{
		Use: "log [TYPE/]NAME[.NAMESPACE]", Aliases: []string{"o"}, Short: "Show or set the proxy's log levels", Args: cobra.ExactArgs(1),
		Example: "  slipway proxy-config log productpage-v1-abc --level http:debug,rbac:debug",
		RunE: func(cmd *cobra.Command, args []string) error {
			if reset {
				level = "warning"
			}
			queries, err := levelQueries(level)
			if err != nil {
				return err
			}
			var answer []byte
			for _, query := range queries {
				if answer, err = f.admin(cmd.Context(), g, args[0], http.MethodPost, "logging"+query); err != nil {
					return err
				}
			}
			_, err = cmd.OutOrStdout().Write(answer)
			return err
		},
	}
	command.Flags().StringVar(&level, "level", "", "a level for all, such as debug, or LOGGER:LEVEL with commas between")
	command.Flags().BoolVarP(&reset, "reset", "r", false, "set all to warning")
	return command
}

var logLevels = []string{"trace", "debug", "info", "warning", "error", "critical", "off"}

// levelQueries are the requests that set levels; without one, that which only asks.
func levelQueries(text string) ([]string, error) {
	if text == "" {
		return []string{""}, nil
	}
	var queries []string
	for _, one := range strings.Split(text, ",") {
		logger, level, ok := strings.Cut(one, ":")
		if !ok {
			logger, level = "level", one
		}
		if !slices.Contains(logLevels, level) {
			return nil, fmt.Errorf("--level %s: a level is one of %s", one, strings.Join(logLevels, ", "))
		}
		queries = append(queries, "?"+url.QueryEscape(logger)+"="+level)
	}
	return queries, nil
}
