package adopt_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/slipway-mesh/slipway/internal/install/adopt"
	"github.com/slipway-mesh/slipway/internal/install/apply"
	"github.com/slipway-mesh/slipway/internal/install/lifecycle"
	"github.com/slipway-mesh/slipway/internal/install/manifest"
	"github.com/slipway-mesh/slipway/test/kubetest"
)

// The meshes here are made as their installers make them, on a real API server: with their field managers and with what
// they write down. There is no kubelet, so ready plays its part.

var (
	ctx   = context.Background()
	build = lifecycle.Build{Hub: "docker.io/slipway", Tag: "1.0.0", Version: "1.0.0"}
)

// installer makes the fixture's mesh in a way of its own.
type installer struct {
	name    string
	install func(t *testing.T, kube client.Client, objects []*unstructured.Unstructured)
	spec    string
	losses  []string
}

// gateway is what the gateway's objects say.
const gateway = `
components:
  ingressGateways:
  - name: istio-ingressgateway
    enabled: true
    label: {app: istio-ingressgateway, istio: ingressgateway}
    k8s:
      env: [{name: OLD_VARIABLE, value: of istio's own}, {name: ISTIO_META_DNS_CAPTURE, value: "true"}]
      resources: {requests: {cpu: 100m, memory: 128Mi}}
      hpaSpec:
        minReplicas: 1
        maxReplicas: 5
        scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: istio-ingressgateway}
        metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 80}}}]
      service:
        type: LoadBalancer
        ports:
        - {name: status-port, port: 15021, targetPort: 15021, protocol: TCP}
        - {name: http2, port: 80, targetPort: 8080, protocol: TCP}
        - {name: https, port: 443, targetPort: 8443, protocol: TCP}
`

var installers = []installer{
	{name: adopt.ByIstioctl, install: byIstioctl, spec: `
profile: default
meshConfig: {accessLogFile: /dev/stdout}
components: {pilot: {k8s: {env: [{name: A, value: b}]}}}
values: {global: {proxy: {logLevel: debug}}}
`, losses: []string{"spec.hub", "spec.tag", "spec.values.global.oldSetting"}},
	{name: adopt.ByHelm, install: byHelm, spec: `
profile: minimal
meshConfig: {outboundTrafficPolicy: {mode: REGISTRY_ONLY}}
values: {global: {proxy: {logLevel: debug}}, pilot: {resources: {requests: {cpu: 500m}}}}
` + gateway, losses: []string{"spec.values.global.tag"}},
	{name: adopt.ByManifests, install: byManifests, spec: `
profile: minimal
meshConfig: {accessLogFile: /dev/stdout, outboundTrafficPolicy: {mode: REGISTRY_ONLY}}
values: {global: {proxy: {logLevel: debug}}}
` + gateway + `
  pilot:
    k8s:
      nodeSelector: {disk: fast}
      env: [{name: PILOT_FILTER_GATEWAY_CLUSTER_CONFIG, value: "true"}]
      resources: {requests: {cpu: 500m, memory: 1Gi}}
      hpaSpec:
        minReplicas: 2
        maxReplicas: 4
        scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: istiod}
        metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 70}}}]
`, losses: []string{"spec.values.global.hub", "spec.values.global.tag", "spec.values.global.oldSetting"}},
}

func send(t *testing.T, kube client.Client, objects []*unstructured.Unstructured, manager string) {
	t.Helper()
	for _, object := range objects {
		if err := kube.Apply(ctx, client.ApplyConfigurationFromUnstructured(object.DeepCopy()), client.FieldOwner(manager), client.ForceOwnership); err != nil {
			t.Fatal(err)
		}
	}
}

// byIstioctl applies as istioctl does, with its labels and its record of what it was told.
func byIstioctl(t *testing.T, kube client.Client, objects []*unstructured.Unstructured) {
	label(objects, map[string]string{manifest.LabelOwner: "unknown", manifest.LabelVersion: "1.20.3", manifest.LabelManaged: "Reconcile"})
	send(t, kube, objects, "istio-operator")
	record := kubetest.Objects(t, `
apiVersion: install.istio.io/v1alpha1
kind: IstioOperator
metadata: {name: installed-state, namespace: istio-system, annotations: {install.istio.io/ignoreReconcile: "true"}}
spec:
  profile: default
  hub: docker.io/istio
  tag: 1.20.3
  meshConfig: {accessLogFile: /dev/stdout}
  components: {pilot: {k8s: {env: [{name: A, value: b}]}}}
  values: {global: {proxy: {logLevel: debug}, oldSetting: true}}
`)
	send(t, kube, record, "istio-operator")
}

// byHelm creates as Helm does, and stores the releases.
func byHelm(t *testing.T, kube client.Client, objects []*unstructured.Unstructured) {
	releases := map[string][]*unstructured.Unstructured{}
	for _, object := range objects {
		name := "istiod"
		if strings.Contains(object.GetName(), "gateway") {
			name = "istio-ingressgateway"
		}
		labels := object.GetLabels()
		delete(labels, manifest.LabelComponent) // the newer charts do not set it on all
		labels["app.kubernetes.io/managed-by"] = "Helm"
		object.SetLabels(labels)
		object.SetAnnotations(map[string]string{"meta.helm.sh/release-name": name, "meta.helm.sh/release-namespace": "istio-system"})
		releases[name] = append(releases[name], object)
	}
	for _, object := range objects {
		if err := kube.Create(ctx, object.DeepCopy(), client.FieldOwner("helm")); err != nil {
			t.Fatal(err)
		}
	}
	configs := map[string]map[string]any{
		"istiod": {"meshConfig": map[string]any{"outboundTrafficPolicy": map[string]any{"mode": "REGISTRY_ONLY"}},
			"global":    map[string]any{"tag": "1.20.3", "proxy": map[string]any{"logLevel": "debug"}},
			"resources": map[string]any{"requests": map[string]any{"cpu": "500m"}}},
		"istio-ingressgateway": {"autoscaling": map[string]any{"enabled": true}},
	}
	for name, list := range releases {
		text, err := manifest.YAML(list)
		if err != nil {
			t.Fatal(err)
		}
		chart := "gateway"
		if name == "istiod" {
			chart = "istiod"
		}
		storeRelease(t, kube, map[string]any{"name": name, "namespace": "istio-system", "config": configs[name], "manifest": string(text),
			"chart": map[string]any{"metadata": map[string]any{"name": chart, "appVersion": "1.20.3"}}})
	}
}

func storeRelease(t *testing.T, kube client.Client, release map[string]any) {
	t.Helper()
	var zipped bytes.Buffer
	writer := gzip.NewWriter(&zipped)
	if err := json.NewEncoder(writer).Encode(release); err != nil {
		t.Fatal(err)
	}
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	name := release["name"].(string)
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "istio-system", Name: "sh.helm.release.v1." + name + ".v1", Labels: map[string]string{"owner": "helm", "name": name, "status": "deployed"}},
		Type:       "helm.sh/release.v1",
		Data:       map[string][]byte{"release": []byte(base64.StdEncoding.EncodeToString(zipped.Bytes()))},
	}
	if err := kube.Create(ctx, secret); err != nil {
		t.Fatal(err)
	}
}

// byManifests applies what istioctl prints, as kubectl does.
func byManifests(t *testing.T, kube client.Client, objects []*unstructured.Unstructured) {
	label(objects, map[string]string{manifest.LabelOwner: "unknown"})
	send(t, kube, objects, "kubectl")
}

func label(objects []*unstructured.Unstructured, more map[string]string) {
	for _, object := range objects {
		labels := object.GetLabels()
		if labels[manifest.LabelComponent] == "" {
			labels[manifest.LabelComponent] = "Pilot"
		}
		for name, value := range more {
			labels[name] = value
		}
		object.SetLabels(labels)
	}
}

func TestAdopt(t *testing.T) {
	for _, one := range installers {
		t.Run(one.name, func(t *testing.T) { adoption(t, one) })
	}
}

// adoption goes the whole way: found, owned without a change, moved to another revision with the gateway, old one removed.
func adoption(t *testing.T, one installer) {
	server := kubetest.Start(t)
	kube := server.Client
	crds, err := manifest.CRDs()
	if err != nil {
		t.Fatal(err)
	}
	for _, object := range crds {
		if object.GetName() == "istiooperators.install.istio.io" {
			send(t, kube, []*unstructured.Unstructured{object}, "test")
		}
	}
	send(t, kube, kubetest.Objects(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: istio-system}"), "test")
	text, err := os.ReadFile("testdata/istio.yaml")
	if err != nil {
		t.Fatal(err)
	}
	kubetest.Eventually(t, 10e9, func() error {
		return kube.List(ctx, list("install.istio.io", "v1alpha1", "IstioOperatorList"))
	})
	one.install(t, kube, kubetest.Objects(t, string(text)))
	// Its control plane writes its certificate into its webhook.
	send(t, kube, kubetest.Objects(t, `
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingWebhookConfiguration
metadata: {name: istio-sidecar-injector}
webhooks:
- name: namespace.sidecar-injector.istio.io
  clientConfig: {service: {name: istiod, namespace: istio-system, path: /inject, port: 443}, caBundle: LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCk1JSUJkekNDQVIyZ0F3SUJBZ0lCQURBS0JnZ3Foa2pPUFFRREFqQWpNU0V3SHdZRFZRUUREQmhyTTNNdGMyVnkKZG1WeUxXTmhRREUyTXpneU9EQTVNekF3SGhjTk1qRXhNVE13TVRRd01qRXdXaGNOTXpFeE1USTRNVFF3TWpFdwpXakFqTVNFd0h3WURWUVFEREJock0zTXRjMlZ5ZG1WeUxXTmhRREUyTXpneU9EQTVNekF3V1RBVEJnY3Foa2pPClBRSUJCZ2dxaGtqT1BRTUJCd05DQUFRPQotLS0tLUVORCBDRVJUSUZJQ0FURS0tLS0tCg==}
  sideEffects: None
  admissionReviewVersions: [v1]`), "pilot-discovery")

	meshes, err := adopt.Find(ctx, kube)
	if err != nil || len(meshes) != 1 {
		t.Fatal(meshes, err)
	}
	mesh := meshes[0]
	if mesh.Installer != one.name || mesh.Version != "1.20.3" || mesh.Name() != "default" || len(mesh.Objects) != 13 {
		t.Errorf("found %s %s %s with %d objects", mesh.Installer, mesh.Version, mesh.Name(), len(mesh.Objects))
	}
	old, target := owned(t, kube, one, mesh)
	moved(t, kube, old, target.Spec)
}

func list(group, version, kind string) *unstructured.UnstructuredList {
	list := &unstructured.UnstructuredList{}
	list.SetAPIVersion(group + "/" + version)
	list.SetKind(kind)
	return list
}

// owned makes the mesh an owner's and checks that nothing of it changes.
func owned(t *testing.T, kube client.Client, one installer, mesh *adopt.Mesh) (lifecycle.Owner, *lifecycle.Target) {
	t.Helper()
	owner := lifecycle.Owner{Namespace: "istio-system", Name: "adopted"}
	spec, losses := mesh.Spec(func(spec map[string]any) error { _, err := lifecycle.Render(build, owner, spec); return err })
	var want map[string]any
	if err := yaml.Unmarshal([]byte(one.spec), &want); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(asYAML(t, want), asYAML(t, spec)); diff != "" {
		t.Errorf("spec (-want +got):\n%s", diff)
	}
	var fields []string
	for _, loss := range losses {
		fields = append(fields, loss.Field)
	}
	slices.Sort(fields)
	slices.Sort(one.losses)
	if diff := cmp.Diff(one.losses, fields); diff != "" {
		t.Errorf("losses (-want +got):\n%s", diff)
	}
	in := lifecycle.Installer{Cluster: apply.Cluster{Client: kube}}
	found := lifecycle.Found(owner, spec, mesh.Version, mesh.Revision, mesh.Components())
	plan, err := in.Plan(ctx, found)
	if err != nil || len(plan.Refused) > 0 || len(plan.Restarts) > 0 {
		t.Fatalf("plan: %v %v %v", err, plan.Refused, plan.Restarts)
	}
	for _, change := range plan.Changes {
		for _, path := range change.Paths() {
			if !strings.HasPrefix(path, "metadata.labels") {
				t.Errorf("taking over changes %s of %s", path, change.Ref)
			}
		}
	}
	for range 2 { // the second is somebody's who was interrupted
		if err := in.Adopt(ctx, found); err != nil {
			t.Fatal(err)
		}
	}
	spec["lifecycle"] = map[string]any{"installation": int64(1)}
	send(t, kube, []*unstructured.Unstructured{{Object: map[string]any{"apiVersion": "install.istio.io/v1alpha1", "kind": "IstioOperator",
		"metadata": map[string]any{"namespace": owner.Namespace, "name": owner.Name}, "spec": spec}}}, "slipway")
	generations := generationsOf(t, kube)
	kept, err := in.Kept(ctx, owner, spec)
	if err != nil || kept == nil {
		t.Fatal("not kept", err)
	}
	if diff := cmp.Diff(plan.Lines(), linesOf(converge(t, kube, in, kept))); diff != "" {
		t.Errorf("the plan is not what was done (-plan +done):\n%s", diff)
	}
	if diff := cmp.Diff(generations, generationsOf(t, kube)); diff != "" {
		t.Errorf("Deployments changed:\n%s", diff)
	}
	if again := linesOf(converge(t, kube, in, kept)); len(again) > 0 {
		t.Errorf("a second step writes %v", again)
	}
	return owner, kept
}

// moved brings Slipway's control plane beside it, gives that the gateway, and removes what was adopted.
func moved(t *testing.T, kube client.Client, old lifecycle.Owner, spec map[string]any) {
	t.Helper()
	in := lifecycle.Installer{Cluster: apply.Cluster{Client: kube}}
	service := &corev1.Service{}
	key := client.ObjectKey{Namespace: "istio-system", Name: "istio-ingressgateway"}
	if err := kube.Get(ctx, key, service); err != nil {
		t.Fatal(err)
	}
	spec["revision"], spec["lifecycle"] = "slipway", map[string]any{"adopt": true}
	owner := lifecycle.Owner{Namespace: "istio-system", Name: "slipway"}
	send(t, kube, []*unstructured.Unstructured{{Object: map[string]any{"apiVersion": "install.istio.io/v1alpha1", "kind": "IstioOperator",
		"metadata": map[string]any{"namespace": owner.Namespace, "name": owner.Name}, "spec": spec}}}, "slipway")
	target, err := lifecycle.Render(build, owner, spec)
	if err != nil {
		t.Fatal(err)
	}
	plan, err := in.Plan(ctx, target)
	if err != nil || len(plan.Refused) > 0 {
		t.Fatal(err, plan.Refused)
	}
	if diff := cmp.Diff(plan.Lines(), linesOf(converge(t, kube, in, target))); diff != "" {
		t.Errorf("the plan of the move is not what was done (-plan +done):\n%s", diff)
	}
	deployment := &appsv1.Deployment{}
	if err := kube.Get(ctx, key, deployment); err != nil {
		t.Fatal(err)
	}
	container := deployment.Spec.Template.Spec.Containers[0]
	if !strings.HasPrefix(container.Image, "docker.io/slipway/") {
		t.Errorf("the gateway runs %s", container.Image)
	}
	if slices.ContainsFunc(container.Env, func(e corev1.EnvVar) bool { return e.Name == "OLD_VARIABLE" }) != strings.Contains(asYAML(t, spec), "OLD_VARIABLE") {
		t.Errorf("the other installer's variables: %v", container.Env)
	}
	after := &corev1.Service{}
	if err := kube.Get(ctx, key, after); err != nil || after.UID != service.UID || after.Spec.ClusterIP != service.Spec.ClusterIP ||
		after.Spec.Ports[1].NodePort != service.Spec.Ports[1].NodePort {
		t.Errorf("the gateway's Service is another: %v", err)
	}
	kept, err := in.Kept(ctx, old, map[string]any{"lifecycle": map[string]any{"installation": int64(1)}})
	if err != nil {
		t.Fatal(err)
	}
	if took := linesOf(converge(t, kube, in, kept)); len(took) > 0 {
		t.Errorf("the adopted mesh takes back %v", took)
	}
	remove(t, kube, in, old)
	err = kube.Get(ctx, client.ObjectKey{Namespace: "istio-system", Name: "istiod"}, &appsv1.Deployment{})
	if !apierrors.IsNotFound(err) {
		t.Errorf("the old control plane is still there: %v", err)
	}
	if err := kube.Get(ctx, key, after); err != nil {
		t.Errorf("the gateway's Service went with it: %v", err)
	}
}

func remove(t *testing.T, kube client.Client, in lifecycle.Installer, owner lifecycle.Owner) {
	t.Helper()
	resource := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "install.istio.io/v1alpha1", "kind": "IstioOperator"}}
	resource.SetNamespace(owner.Namespace)
	resource.SetName(owner.Name)
	if err := kube.Delete(ctx, resource); err != nil {
		t.Fatal(err)
	}
	for range 30 {
		if remaining, err := in.Remove(ctx, owner); err != nil || remaining == "" {
			if err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatal("never gone")
}

func linesOf(changes apply.ChangeSet) []string { return lifecycle.Plan{Changes: changes}.Lines() }

func generationsOf(t *testing.T, kube client.Client) map[string]int64 {
	t.Helper()
	deployments := &appsv1.DeploymentList{}
	if err := kube.List(ctx, deployments); err != nil {
		t.Fatal(err)
	}
	out := map[string]int64{}
	for _, d := range deployments.Items {
		out[d.Name] = d.Generation
	}
	return out
}

// converge takes steps until all is healthy, and returns what was changed on the way.
func converge(t *testing.T, kube client.Client, in lifecycle.Installer, target *lifecycle.Target) apply.ChangeSet {
	t.Helper()
	var written apply.ChangeSet
	var last lifecycle.Report
	for range 30 {
		report, err := in.Install(ctx, target)
		if err != nil {
			t.Fatal(err)
		}
		for _, change := range report.Changes {
			if change.Wrote() {
				written = append(written, change)
			}
		}
		if last = report; report.Healthy() {
			return written
		}
		if err := kubetest.Play(ctx, kube, true); err != nil {
			t.Fatal(err)
		}
	}
	t.Fatalf("never healthy: %+v", last.Components)
	return nil
}

func asYAML(t *testing.T, value any) string {
	t.Helper()
	text, err := yaml.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
