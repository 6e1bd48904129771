package cli

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/slipway-mesh/slipway/api/v1alpha1"
	"github.com/slipway-mesh/slipway/internal/debugclient"
	"github.com/slipway-mesh/slipway/internal/version"
)

// bugReport gathers what helps to understand a mesh. What cannot be read is noted, and stops nothing.
type bugReport struct {
	g        *global
	kube     client.Client
	pods     kubernetes.Interface
	ask      *debugclient.Client
	out      *tar.Writer
	missing  []string
	tail     int64
	proxies  int
	include  []string
	operator string
}

func bugReportCommand(g *global) *cobra.Command {
	r := &bugReport{g: g}
	var file string
	var timeout time.Duration
	command := &cobra.Command{
		Use:   "bug-report",
		Short: "Gather the state and the logs of the mesh into an archive",
		Long: `Gather the state and the logs of the mesh into an archive: versions, IstioOperators, the mesh's configuration and what is wrong
with it, events, the control plane's and the operator's logs and state, and of some proxies the log and the configuration.
Secrets are not read; private keys and tokens are struck from all that is.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			if file == "" {
				file = "slipway-bug-report-" + time.Now().UTC().Format("20060102-150405") + ".tar.gz"
			}
			if err := r.write(ctx, file); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "✔ %s\n", file)
			for _, line := range r.missing {
				fmt.Fprintf(cmd.ErrOrStderr(), "! not in it: %s\n", line)
			}
			return nil
		},
	}
	flags := command.Flags()
	flags.StringVar(&file, "output-file", "", "the archive; otherwise slipway-bug-report-TIME.tar.gz here")
	flags.Int64Var(&r.tail, "tail", 2000, "how many lines of each log")
	flags.IntVar(&r.proxies, "proxies", 10, "of how many proxies")
	flags.StringSliceVar(&r.include, "include", nil, "namespaces of the proxies; otherwise any")
	flags.StringVar(&r.operator, "operatorNamespace", "istio-operator", "the operator's namespace")
	flags.DurationVar(&timeout, "timeout", 10*time.Minute, "how long it may take")
	return command
}

func (r *bugReport) write(ctx context.Context, file string) error {
	config, err := r.g.restConfig()
	if err != nil {
		return err
	}
	if r.kube, err = r.g.client(); err != nil {
		return err
	}
	if r.pods, err = kubernetes.NewForConfig(config); err != nil {
		return err
	}
	if r.ask, err = debugclient.New(config); err != nil {
		return err
	}
	target, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = target.Close() }()
	zipped := gzip.NewWriter(target)
	r.out = tar.NewWriter(zipped)
	for _, part := range []func(context.Context){r.versions, r.objects, r.findings, r.controlPlane, r.sidecars} {
		part(ctx)
	}
	r.add("missing.txt", []byte(strings.Join(r.missing, "\n")), nil)
	if err := r.out.Close(); err != nil {
		return err
	}
	return zipped.Close()
}

var secret = regexp.MustCompile(`(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----|eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*`)

// add puts a file into the archive, without what is secret.
func (r *bugReport) add(name string, text []byte, err error) {
	if err != nil {
		r.missing = append(r.missing, name+": "+err.Error())
		return
	}
	text = secret.ReplaceAll(text, []byte("[struck]"))
	err = r.out.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(text)), ModTime: time.Now()})
	if err == nil {
		_, err = r.out.Write(text)
	}
	if err != nil {
		r.missing = append(r.missing, name+": "+err.Error())
	}
}

func (r *bugReport) versions(ctx context.Context) {
	r.add("version.txt", []byte(version.String()+"\n"), nil)
	server, err := r.pods.Discovery().ServerVersion()
	text := []byte{}
	if err == nil {
		text = []byte(server.GitVersion + "\n")
	}
	r.add("cluster/version.txt", text, err)
	for _, namespace := range []string{r.g.istioNamespace, r.operator} {
		r.list(ctx, "cluster/"+namespace+"/pods.yaml", "", "v1", "Pod", namespace)
		r.list(ctx, "cluster/"+namespace+"/deployments.yaml", "apps", "v1", "Deployment", namespace)
		r.list(ctx, "cluster/"+namespace+"/events.yaml", "", "v1", "Event", namespace)
	}
}

// list writes all objects of a kind; an empty namespace is all.
func (r *bugReport) list(ctx context.Context, name, group, version, kind, namespace string) {
	list := &unstructured.UnstructuredList{}
	list.SetAPIVersion(strings.TrimPrefix(group+"/"+version, "/"))
	list.SetKind(kind + "List")
	if err := r.kube.List(ctx, list, client.InNamespace(namespace)); err != nil {
		r.add(name, nil, err)
		return
	}
	var text bytes.Buffer
	for i := range list.Items {
		list.Items[i].SetManagedFields(nil)
		document, err := yaml.Marshal(list.Items[i].Object)
		if err != nil {
			r.add(name, nil, err)
			return
		}
		text.WriteString("---\n")
		text.Write(document)
	}
	r.add(name, text.Bytes(), nil)
}

// objects are the mesh's own: IstioOperators, the mesh's configuration, and users' objects.
func (r *bugReport) objects(ctx context.Context) {
	r.list(ctx, "istiooperators.yaml", v1alpha1.GroupVersion.Group, v1alpha1.GroupVersion.Version, "IstioOperator", "")
	for _, name := range []string{"istio", "istio-sidecar-injector"} {
		object := &corev1.ConfigMap{}
		err := r.kube.Get(ctx, client.ObjectKey{Namespace: r.g.istioNamespace, Name: name}, object)
		var text []byte
		if err == nil {
			text, err = yaml.Marshal(object.Data)
		}
		r.add("configuration/"+name+".yaml", text, err)
	}
	for _, kind := range clusterKinds {
		if kind.Group == "networking.istio.io" || kind.Group == "security.istio.io" {
			r.list(ctx, "configuration/"+kind.Kind+".yaml", kind.Group, kind.Version, kind.Kind, "")
		}
	}
}

// findings are what the other commands say.
func (r *bugReport) findings(ctx context.Context) {
	var out bytes.Buffer
	state, err := clusterState(ctx, r.g, "")
	if err == nil {
		err = json.NewEncoder(&out).Encode(append(state.Problems(), state.Analyze()...))
	}
	r.add("analyze.json", out.Bytes(), err)
	list, err := proxies(ctx, r.g, "")
	out.Reset()
	if err == nil {
		err = printProxies(&out, list, "table")
	}
	r.add("proxy-status.txt", out.Bytes(), err)
}

func (r *bugReport) controlPlane(ctx context.Context) {
	for namespace, selector := range map[string]client.MatchingLabels{r.g.istioNamespace: {"app": "istiod"}, r.operator: {"name": "istio-operator"}} {
		pods := &corev1.PodList{}
		if err := r.kube.List(ctx, pods, client.InNamespace(namespace), selector); err != nil {
			r.add(namespace, nil, err)
			continue
		}
		for i := range pods.Items {
			pod := &pods.Items[i]
			folder := namespace + "/" + pod.Name + "/"
			r.log(ctx, folder, pod, "")
			if selector["app"] == "" {
				continue
			}
			for _, path := range []string{"syncz", "rejections", "problems"} {
				text, err := r.ask.ControlPlane(ctx, namespace, pod.Name, "debug/"+path)
				r.add(folder+path+".json", text, err)
			}
		}
	}
}

// log writes the logs of a pod's containers, or of one.
func (r *bugReport) log(ctx context.Context, folder string, pod *corev1.Pod, only string) {
	for _, container := range append(slices.Clone(pod.Spec.InitContainers), pod.Spec.Containers...) {
		if only != "" && container.Name != only {
			continue
		}
		stream, err := r.pods.CoreV1().Pods(pod.Namespace).GetLogs(pod.Name, &corev1.PodLogOptions{Container: container.Name, TailLines: &r.tail}).Stream(ctx)
		var text []byte
		if err == nil {
			text, err = io.ReadAll(stream)
			_ = stream.Close()
		}
		r.add(folder+container.Name+".log", text, err)
	}
}

// sidecars writes the log and the configuration of some proxies, gateways among them.
func (r *bugReport) sidecars(ctx context.Context) {
	list, err := proxies(ctx, r.g, "")
	if err != nil {
		return // noted before
	}
	taken := 0
	for _, proxy := range list {
		name, namespace, _ := strings.Cut(proxy.name(), ".")
		if taken == r.proxies || len(r.include) > 0 && !slices.Contains(r.include, namespace) {
			continue
		}
		taken++
		folder := "proxies/" + namespace + "/" + name + "/"
		pod := &corev1.Pod{}
		if err := r.kube.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, pod); err != nil {
			r.add(folder, nil, err)
			continue
		}
		r.log(ctx, folder, pod, "istio-proxy")
		text, err := r.ask.Admin(ctx, namespace, name, http.MethodGet, "config_dump?include_eds", debugclient.AdminPort)
		if err == nil {
			text, err = withoutSecrets(text)
		}
		r.add(folder+"config_dump.json", text, err)
	}
}

// withoutSecrets takes the secrets out of a dump; Envoy writes their keys as redacted, but their names tell as well.
func withoutSecrets(text []byte) ([]byte, error) {
	var dump struct {
		Configs []json.RawMessage `json:"configs"`
	}
	if err := json.Unmarshal(text, &dump); err != nil {
		return nil, err
	}
	dump.Configs = slices.DeleteFunc(dump.Configs, func(part json.RawMessage) bool {
		return bytes.Contains(part[:min(len(part), 200)], []byte("SecretsConfigDump"))
	})
	return json.MarshalIndent(dump, "", " ")
}
