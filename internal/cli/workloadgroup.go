package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	networking "istio.io/api/networking/v1alpha3"
	group "istio.io/client-go/pkg/apis/networking/v1"
	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/slipway-mesh/slipway/internal/identity"
)

// workloadCommand is for workloads outside Kubernetes, such as virtual machines.
func workloadCommand(g *global) *cobra.Command {
	command := &cobra.Command{Use: "workload", Short: "Prepare workloads outside Kubernetes, such as virtual machines"}
	groups := &cobra.Command{Use: "group", Short: "Work with WorkloadGroups"}
	groups.AddCommand(groupCreateCommand(g))
	entries := &cobra.Command{Use: "entry", Short: "Work with single workloads of a WorkloadGroup"}
	entries.AddCommand(entryConfigureCommand(g))
	command.AddCommand(groups, entries)
	return command
}

func groupCreateCommand(g *global) *cobra.Command {
	var name, account string
	var labels, annotations, ports []string
	command := &cobra.Command{
		Use: "create", Short: "Print a WorkloadGroup", Args: cobra.NoArgs,
		Example: "  slipway x workload group create --name vm --namespace default --labels app=vm --ports http=8080 --serviceAccount vm",
		RunE: func(cmd *cobra.Command, _ []string) error {
			namespace, err := g.currentNamespace()
			if err != nil || name == "" {
				return errors.Join(err, errIf(name == "", "--name is required"))
			}
			out := group.WorkloadGroup{TypeMeta: metav1.TypeMeta{APIVersion: "networking.istio.io/v1", Kind: "WorkloadGroup"}, ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace}}
			out.Spec.Template = &networking.WorkloadEntry{ServiceAccount: account, Ports: map[string]uint32{}}
			out.Spec.Metadata = &networking.WorkloadGroup_ObjectMeta{Labels: pairs(labels), Annotations: pairs(annotations)}
			for port, text := range pairs(ports) {
				number, err := strconv.ParseUint(text, 10, 16)
				if err != nil {
					return fmt.Errorf("--ports %s=%s: %w", port, text, err)
				}
				out.Spec.Template.Ports[port] = uint32(number)
			}
			text, err := yaml.Marshal(&out)
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(text)
			return err
		},
	}
	flags := command.Flags()
	flags.StringVar(&name, "name", "", "name of the group")
	flags.StringVarP(&account, "serviceAccount", "s", "", "service account of its workloads")
	flags.StringSliceVarP(&labels, "labels", "l", nil, "labels of its workloads, as app=vm")
	flags.StringSliceVarP(&annotations, "annotations", "a", nil, "annotations of their WorkloadEntries")
	flags.StringSliceVarP(&ports, "ports", "p", nil, "their ports, as http=8080")
	return command
}

func errIf(condition bool, text string) error {
	if condition {
		return errors.New(text)
	}
	return nil
}

func pairs(list []string) map[string]string {
	out := map[string]string{}
	for _, pair := range list {
		name, value, _ := strings.Cut(pair, "=")
		out[name] = value
	}
	return out
}

// machine is what a workload outside Kubernetes is configured by.
type machine struct {
	group                                            *group.WorkloadGroup
	folder, cluster, ingressIP, internalIP, revision string
	autoregister                                     bool
	tokenSeconds                                     int64
	istioNamespace, trustDomain, meshID              string
}

func entryConfigureCommand(g *global) *cobra.Command {
	m := machine{}
	var file, name string
	command := &cobra.Command{
		Use: "configure", Short: "Write the files that a workload of a WorkloadGroup needs to join the mesh", Args: cobra.NoArgs,
		Long: "Write cluster.env, mesh.yaml, istio-token, root-cert.pem and hosts. On the workload's machine they go to /var/lib/istio/envoy/cluster.env, /etc/istio/config/mesh, " +
			"/var/run/secrets/tokens/istio-token, /var/run/secrets/istio/root-cert.pem, and into /etc/hosts. The token is one of the group's service account.",
		Example: "  slipway x workload entry configure -f group.yaml -o vm --autoregister",
		RunE: func(cmd *cobra.Command, _ []string) error {
			kube, err := g.client()
			if err != nil {
				return err
			}
			if m.group, err = readGroup(cmd.Context(), g, kube, file, name); err != nil {
				return err
			}
			m.istioNamespace = g.istioNamespace
			return m.write(cmd.Context(), kube)
		},
	}
	flags := command.Flags()
	flags.StringVarP(&file, "file", "f", "", "file with the WorkloadGroup")
	flags.StringVar(&name, "name", "", "name of a WorkloadGroup in the cluster")
	flags.StringVarP(&m.folder, "output", "o", "", "folder to write to")
	flags.StringVar(&m.cluster, "clusterID", "Kubernetes", "name of the cluster that the workload belongs to")
	flags.StringVar(&m.ingressIP, "ingressIP", "", "address by which the workload reaches the control plane")
	flags.StringVar(&m.internalIP, "internalIP", "", "address of the workload; otherwise its first one")
	flags.StringVar(&m.revision, "revision", "", "the control plane's revision")
	flags.BoolVar(&m.autoregister, "autoregister", false, "let the control plane make the WorkloadEntry when the workload connects")
	flags.Int64Var(&m.tokenSeconds, "tokenDuration", 3600, "for how many seconds the token is good")
	return command
}

func readGroup(ctx context.Context, g *global, kube client.Client, file, name string) (*group.WorkloadGroup, error) {
	out := &group.WorkloadGroup{}
	switch {
	case (file == "") == (name == ""):
		return nil, errors.New("one of --file and --name must say which WorkloadGroup it is")
	case file != "":
		text, err := os.ReadFile(file)
		if err == nil {
			err = yaml.Unmarshal(text, out)
		}
		if err != nil {
			return nil, err
		}
	default:
		namespace, err := g.currentNamespace()
		if err != nil {
			return nil, err
		}
		object := &unstructured.Unstructured{}
		object.SetAPIVersion("networking.istio.io/v1")
		object.SetKind("WorkloadGroup")
		if err := kube.Get(ctx, types.NamespacedName{Namespace: namespace, Name: name}, object); err != nil {
			return nil, err
		}
		text, err := object.MarshalJSON()
		if err == nil {
			err = json.Unmarshal(text, out)
		}
		if err != nil {
			return nil, err
		}
	}
	if out.Namespace == "" {
		namespace, err := g.currentNamespace()
		if err != nil {
			return nil, err
		}
		out.Namespace = namespace
	}
	if out.Kind != "WorkloadGroup" || out.Name == "" || out.Spec.Template == nil {
		return nil, errors.New("it is no WorkloadGroup with a name and spec.template")
	}
	return out, nil
}

// write writes all files.
func (m machine) write(ctx context.Context, kube client.Client) error {
	if m.folder == "" {
		return errors.New("--output must name a folder")
	}
	files := map[string]string{}
	config, err := m.meshConfig(ctx, kube)
	if err != nil {
		return err
	}
	discovery, _ := config["discoveryAddress"].(string)
	if files["mesh.yaml"], err = m.meshYAML(config); err != nil {
		return err
	}
	if files["cluster.env"], err = m.environment(discovery); err != nil {
		return err
	}
	if m.ingressIP != "" {
		host, _, err := net.SplitHostPort(discovery)
		if err != nil {
			return fmt.Errorf("discoveryAddress of MeshConfig: %w", err)
		}
		files["hosts"] = m.ingressIP + " " + host + "\n"
	}
	root := &corev1.ConfigMap{}
	if err := kube.Get(ctx, types.NamespacedName{Namespace: m.istioNamespace, Name: "istio-ca-root-cert"}, root); err != nil {
		return fmt.Errorf("the mesh's root certificate: %w", err)
	}
	files["root-cert.pem"] = root.Data["root-cert.pem"]
	if files["istio-token"], err = m.token(ctx, kube); err != nil {
		return err
	}
	if err := os.MkdirAll(m.folder, 0o755); err != nil {
		return err
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(m.folder, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (m *machine) account() string {
	if account := m.group.Spec.Template.ServiceAccount; account != "" {
		return account
	}
	return "default"
}

func (m *machine) token(ctx context.Context, kube client.Client) (string, error) {
	request := &authv1.TokenRequest{Spec: authv1.TokenRequestSpec{Audiences: []string{identity.Audience}, ExpirationSeconds: &m.tokenSeconds}}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: m.group.Namespace, Name: m.account()}}
	if err := kube.SubResource("token").Create(ctx, account, request); err != nil {
		return "", fmt.Errorf("a token of service account %s/%s: %w", account.Namespace, account.Name, err)
	}
	return request.Status.Token, nil
}

// meshConfig is defaultConfig of the control plane's, with the address that its proxies connect to.
func (m *machine) meshConfig(ctx context.Context, kube client.Client) (map[string]any, error) {
	suffix := ""
	if m.revision != "" && m.revision != "default" {
		suffix = "-" + m.revision
	}
	object := &corev1.ConfigMap{}
	if err := kube.Get(ctx, types.NamespacedName{Namespace: m.istioNamespace, Name: "istio" + suffix}, object); err != nil {
		return nil, fmt.Errorf("the mesh's configuration: %w", err)
	}
	var config struct {
		DefaultConfig map[string]any `json:"defaultConfig"`
		TrustDomain   string         `json:"trustDomain"`
	}
	if err := yaml.Unmarshal([]byte(object.Data["mesh"]), &config); err != nil {
		return nil, fmt.Errorf("the mesh's configuration: %w", err)
	}
	m.trustDomain = config.TrustDomain
	out := config.DefaultConfig
	if out == nil {
		out = map[string]any{}
	}
	if out["discoveryAddress"] == nil {
		out["discoveryAddress"] = "istiod" + suffix + "." + m.istioNamespace + ".svc:15012"
	}
	m.meshID, _ = out["meshId"].(string)
	return out, nil
}

func (m *machine) meshYAML(config map[string]any) (string, error) {
	if probe := m.group.Spec.Probe; probe != nil {
		text, err := json.Marshal(probe)
		if err != nil {
			return "", err
		}
		config["readinessProbe"] = json.RawMessage(text)
	}
	text, err := yaml.Marshal(map[string]any{"defaultConfig": config})
	return string(text), err
}

// environment is what the agent reads in the place of what Kubernetes tells a pod.
func (m *machine) environment(discovery string) (string, error) {
	t := m.group.Spec.Template
	labels := map[string]string{}
	maps.Copy(labels, t.Labels)
	maps.Copy(labels, m.group.Spec.Metadata.GetLabels())
	labels["service.istio.io/canonical-name"], labels["service.istio.io/canonical-revision"] = m.group.Name, "latest"
	if app := labels["app"]; app != "" {
		labels["service.istio.io/canonical-name"] = app
	}
	if version := labels["version"]; version != "" {
		labels["service.istio.io/canonical-revision"] = version
	}
	text, err := json.Marshal(labels)
	if err != nil {
		return "", err
	}
	var ports []string
	for _, port := range slices.Sorted(maps.Values(t.Ports)) {
		ports = append(ports, strconv.FormatUint(uint64(port), 10))
	}
	values := map[string]string{
		"CA_ADDR": discovery, "POD_NAMESPACE": m.group.Namespace, "SERVICE_ACCOUNT": m.account(), "TRUST_DOMAIN": m.trustDomain, "INSTANCE_IP": m.internalIP,
		"CANONICAL_SERVICE": labels["service.istio.io/canonical-name"], "CANONICAL_REVISION": labels["service.istio.io/canonical-revision"],
		"ISTIO_META_CLUSTER_ID": m.cluster, "ISTIO_META_MESH_ID": m.meshID, "ISTIO_META_NETWORK": t.Network, "ISTIO_META_WORKLOAD_NAME": m.group.Name, "ISTIO_METAJSON_LABELS": string(text),
		"ISTIO_INBOUND_PORTS": strings.Join(ports, ","), "ISTIO_LOCAL_EXCLUDE_PORTS": "22,15090,15021,15020", "ISTIO_SERVICE": m.group.Name + "." + m.group.Namespace, "ISTIO_SERVICE_CIDR": "*",
	}
	if m.autoregister {
		values["ISTIO_META_AUTO_REGISTER_GROUP"] = m.group.Name
	}
	var out strings.Builder
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if values[name] != "" {
			fmt.Fprintf(&out, "%s='%s'\n", name, values[name])
		}
	}
	fmt.Fprintf(&out, "# written by slipway, %s\n", time.Now().UTC().Format(time.RFC3339))
	return out.String(), nil
}
