package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/slipway-mesh/slipway/internal/explain"
)

// routeQuestion is what the user asks.
type routeQuestion struct {
	proxyFlags
	from, to, method, address string
	headers                   []string
	gateway, claims           bool
}

func routeCommand(g *global) *cobra.Command {
	q := &routeQuestion{}
	command := &cobra.Command{
		Use:   "route",
		Short: "Say where a request would go, and which object makes it so",
		Long: `Say where a request would go, and which object makes it so: the listener, the virtual host, the route and the
VirtualService that made it, the clusters with their DestinationRules, and the endpoints. It evaluates what the proxy
holds, as its admin interface tells it; nothing is sent.`,
		Example: `  slipway route --from deploy/sleep --to http://reviews:9080/reviews/1 -H end-user:jason
  slipway route --gateway --from deploy/istio-ingressgateway.istio-system --to http://bookinfo.example.com/productpage`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return q.run(cmd, g) },
	}
	flags := command.Flags()
	flags.StringVar(&q.from, "from", "", "the workload whose proxy is asked: POD or TYPE/NAME, with .NAMESPACE behind it")
	flags.StringVar(&q.to, "to", "", "the URL that is asked for")
	flags.StringVarP(&q.method, "request", "X", "GET", "the method")
	flags.StringArrayVarP(&q.headers, "header", "H", nil, "a header as NAME:VALUE; several are allowed")
	flags.BoolVar(&q.gateway, "gateway", false, "the request comes to the gateway that --from names, from outside")
	flags.BoolVar(&q.claims, "claims", false, "the request's token has the claims that routes ask for")
	flags.StringVar(&q.address, "address", "", "the address that the URL's host resolves to; otherwise that of the Service of its name")
	flags.StringVarP(&q.file, "file", "f", "", "a config dump to read in place of asking the proxy")
	flags.StringVarP(&q.output, "output", "o", "", "json or yaml")
	flags.IntVar(&q.port, "proxy-admin-port", 15000, "Envoy's admin port")
	_ = command.MarkFlagRequired("to")
	return command
}

func (q *routeQuestion) run(cmd *cobra.Command, g *global) error {
	if q.from == "" && q.file == "" {
		return errors.New("say with --from whose proxy is asked, or with --file which dump")
	}
	request, err := q.request()
	if err != nil {
		return err
	}
	var args []string
	if q.from != "" {
		args = []string{q.from}
	}
	if q.file == "" {
		if err := q.resolve(cmd.Context(), g, &request); err != nil {
			return err
		}
	}
	config, err := q.load(cmd, g, args)
	if err != nil {
		return err
	}
	answer, err := config.Route(request)
	if err != nil {
		return err
	}
	if done, err := printAs(cmd.OutOrStdout(), answer, q.output); done || err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s %s\n", request.Method, q.to)
	printAnswer(cmd.OutOrStdout(), answer)
	return nil
}

// request reads the flags.
func (q *routeQuestion) request() (explain.Request, error) {
	target, err := url.Parse(q.to)
	if err != nil || target.Host == "" || target.Scheme != "http" && target.Scheme != "https" {
		return explain.Request{}, fmt.Errorf("--to %s: it must be such as http://reviews:9080/path", q.to)
	}
	port := map[string]uint64{"http": 80, "https": 443}[target.Scheme]
	if text := target.Port(); text != "" {
		if port, err = strconv.ParseUint(text, 10, 16); err != nil {
			return explain.Request{}, fmt.Errorf("--to %s: port %s", q.to, text)
		}
	}
	request := explain.Request{Address: q.address, Port: uint32(port), TLS: target.Scheme == "https", ServerName: target.Hostname(), Claims: q.claims, //nolint:gosec // 16 bits
		Method: strings.ToUpper(q.method), Scheme: target.Scheme, Authority: target.Host, Path: target.RequestURI(), Headers: map[string][]string{}}
	for _, header := range q.headers {
		name, value, ok := strings.Cut(header, ":")
		if !ok {
			return request, fmt.Errorf("--header %s: it must be NAME:VALUE", header)
		}
		name = strings.ToLower(strings.TrimSpace(name))
		value = strings.TrimSpace(value)
		if name == "host" {
			request.Authority = value
			continue
		}
		request.Headers[name] = append(request.Headers[name], value)
	}
	return request, nil
}

// resolve finds where the connection goes: for a sidecar the Service's address, as DNS in the pod's namespace would say;
// for a gateway its own port behind the Service's.
func (q *routeQuestion) resolve(ctx context.Context, g *global, request *explain.Request) error {
	kube, err := g.client()
	if err != nil {
		return err
	}
	namespace, pod, err := podOf(ctx, g, q.from)
	if err != nil {
		return err
	}
	if q.gateway {
		return gatewayPort(ctx, kube, client.ObjectKey{Namespace: namespace, Name: pod}, request)
	}
	if request.Address != "" {
		return nil
	}
	host := strings.TrimSuffix(request.ServerName, ".")
	parts := strings.SplitN(host, ".", 3)
	name := client.ObjectKey{Namespace: namespace, Name: parts[0]}
	if len(parts) > 1 {
		name.Namespace = parts[1]
	}
	if len(parts) == 3 && parts[2] != "svc" && !strings.HasPrefix(parts[2], "svc.") {
		return nil // outside of the cluster
	}
	service := &corev1.Service{}
	if err := kube.Get(ctx, name, service); err != nil {
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	}
	if service.Spec.ClusterIP != corev1.ClusterIPNone {
		request.Address = service.Spec.ClusterIP
	}
	return nil
}

// gatewayPort is the port of the pod to which a Service that selects it leads the request's port.
func gatewayPort(ctx context.Context, kube client.Client, key client.ObjectKey, request *explain.Request) error {
	pod := &corev1.Pod{}
	if err := kube.Get(ctx, key, pod); err != nil {
		return err
	}
	services := &corev1.ServiceList{}
	if err := kube.List(ctx, services, client.InNamespace(key.Namespace)); err != nil {
		return err
	}
	for i := range services.Items {
		spec := services.Items[i].Spec
		if len(spec.Selector) == 0 || !labels.SelectorFromSet(spec.Selector).Matches(labels.Set(pod.Labels)) {
			continue
		}
		for _, port := range spec.Ports {
			if uint32(port.Port) == request.Port && port.TargetPort.Type == intstr.Int && port.TargetPort.IntVal != 0 { //nolint:gosec // a port
				request.Port = uint32(port.TargetPort.IntVal) //nolint:gosec // a port
				return nil
			}
		}
	}
	return nil // a port that the pod opens itself
}

func printAnswer(out io.Writer, a *explain.Answer) {
	line := func(name, format string, args ...any) {
		if text := fmt.Sprintf(format, args...); strings.TrimSpace(text) != "" {
			fmt.Fprintf(out, "  %-14s%s\n", name, text)
		}
	}
	line("listener", "%s", a.Listener)
	line("filter chain", "%s", a.FilterChain)
	line("route table", "%s", a.Table)
	if a.VirtualHost != "" {
		line("virtual host", "%s (domain %s)", a.VirtualHost, a.Domain)
	}
	for _, passed := range a.PassedOver {
		line("passed over", "%s", passed)
	}
	if a.Match != "" {
		owner := a.Owner
		if owner == "" {
			owner = "nobody: it is what the mesh does by itself"
		}
		line("route", "%s [%s] made by %s", dash(a.Route), a.Match, owner)
	}
	for _, note := range a.Notes {
		line("", "%s", note)
	}
	if a.Status != 0 {
		line("answer", "%d %s, by the proxy itself", a.Status, a.Location)
	}
	for _, choice := range a.Clusters {
		line("cluster", "%g %% %s, %s", choice.Percent, choice.Name, choice.Policy)
		line("", "%s", choice.Owner)
		line("", "%s", choice.Missing)
		for _, endpoint := range choice.Endpoints {
			line("endpoint", "%s", endpoint)
		}
	}
}
