// Command genbundle writes config/ (kustomize, in kubebuilder's layout) and bundle/ (OLM) from the operator's chart, so that
// every way to install the operator installs the same.
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"sigs.k8s.io/yaml"

	"github.com/slipway-mesh/slipway/internal/install/manifest"
	"github.com/slipway-mesh/slipway/internal/version"
)

const (
	namespace = "istio-operator"
	hub       = "docker.io/slipway"
	crdFile   = "config/crd/bases/install.istio.io_istiooperators.yaml"
	csvName   = "slipway"
)

type object = map[string]any

func main() {
	out := flag.String("out", ".", "folder to write to")
	flag.Parse()
	if err := run(*out); err != nil {
		log.Fatal("genbundle: ", err)
	}
}

func run(out string) error {
	objects, err := manifest.RenderOperator(manifest.OperatorOptions{Hub: hub, Tag: version.Version, Namespace: namespace, WatchedNamespaces: []string{"istio-system"}})
	if err != nil {
		return err
	}
	files := map[string][]byte{}
	for folder, kinds := range map[string][]string{"rbac": {"ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"}, "manager": {"Namespace", "Deployment", "Service"}, "webhook": {"ValidatingWebhookConfiguration"}} {
		if err := kustomize(files, folder, kinds, objects); err != nil {
			return err
		}
	}
	files["config/default/kustomization.yaml"] = []byte("resources:\n- ../crd\n- ../rbac\n- ../manager\n- ../webhook\n")
	if err := olm(files, objects); err != nil {
		return err
	}
	for path, text := range files {
		path = filepath.Join(out, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, text, 0o644); err != nil { //nolint:gosec // documents
			return err
		}
	}
	return nil
}

// kustomize writes the objects of some kinds into one folder of config/.
func kustomize(files map[string][]byte, folder string, kinds []string, objects []manifest.Object) error {
	list := "resources:\n"
	for _, kind := range kinds {
		chosen := ofKind(objects, kind)
		text, err := manifest.YAML(chosen)
		if err != nil {
			return err
		}
		name := snake(kind) + ".yaml"
		files["config/"+folder+"/"+name] = text
		list += "- " + name + "\n"
	}
	files["config/"+folder+"/kustomization.yaml"] = []byte(list)
	return nil
}

func ofKind(objects []manifest.Object, kind string) []manifest.Object {
	var chosen []manifest.Object
	for _, o := range objects {
		if o.GetKind() == kind {
			chosen = append(chosen, o)
		}
	}
	return chosen
}

func snake(kind string) string {
	var out bytes.Buffer
	for i, r := range kind {
		if r >= 'A' && r <= 'Z' {
			if i > 0 {
				out.WriteByte('_')
			}
			r += 'a' - 'A'
		}
		out.WriteRune(r)
	}
	return out.String()
}

// olm writes the bundle: OLM makes the service account, the roles and the Deployment from the ClusterServiceVersion.
func olm(files map[string][]byte, objects []manifest.Object) error {
	sample, err := os.ReadFile("config/samples/default.yaml")
	if err != nil {
		return err
	}
	var example object
	if err := yaml.Unmarshal(sample, &example); err != nil {
		return err
	}
	examples, err := json.MarshalIndent([]object{example}, "", "  ")
	if err != nil {
		return err
	}
	csv, err := yaml.Marshal(clusterServiceVersion(objects, string(examples)))
	if err != nil {
		return err
	}
	service, err := manifest.YAML(ofKind(objects, "Service"))
	if err != nil {
		return err
	}
	crd, err := os.ReadFile(crdFile)
	if err != nil {
		return err
	}
	files["bundle/manifests/"+csvName+".clusterserviceversion.yaml"] = csv
	files["bundle/manifests/istio-operator_v1_service.yaml"] = service
	files["bundle/manifests/install.istio.io_istiooperators.yaml"] = crd
	annotations := ""
	for _, a := range bundleAnnotations {
		annotations += "  " + a[0] + ": " + a[1] + "\n"
	}
	files["bundle/metadata/annotations.yaml"] = []byte("annotations:\n" + annotations)
	files["bundle/tests/scorecard/config.yaml"] = []byte(scorecard)
	docker := "FROM scratch\n"
	for _, a := range bundleAnnotations {
		docker += fmt.Sprintf("LABEL %s=%s\n", a[0], a[1])
	}
	files["bundle.Dockerfile"] = []byte(docker + "COPY bundle/manifests /manifests/\nCOPY bundle/metadata /metadata/\nCOPY bundle/tests/scorecard /tests/scorecard/\n")
	return nil
}

// bundleAnnotations say how OLM reads the bundle.
var bundleAnnotations = [][2]string{
	{"operators.operatorframework.io.bundle.mediatype.v1", "registry+v1"}, {"operators.operatorframework.io.bundle.manifests.v1", "manifests/"},
	{"operators.operatorframework.io.bundle.metadata.v1", "metadata/"}, {"operators.operatorframework.io.bundle.package.v1", csvName},
	{"operators.operatorframework.io.bundle.channels.v1", "alpha"}, {"operators.operatorframework.io.bundle.channel.default.v1", "alpha"},
	{"operators.operatorframework.io.test.mediatype.v1", "scorecard+v1"}, {"operators.operatorframework.io.test.config.v1", "tests/scorecard/"},
}

const scorecard = `apiVersion: scorecard.operatorframework.io/v1alpha3
kind: Configuration
metadata:
  name: config
stages:
- parallel: true
  tests:
  - entrypoint: [scorecard-test, basic-check-spec]
    image: quay.io/operator-framework/scorecard-test:v1.41.1
    labels: {suite: basic, test: basic-check-spec-test}
  - entrypoint: [scorecard-test, olm-bundle-validation]
    image: quay.io/operator-framework/scorecard-test:v1.41.1
    labels: {suite: olm, test: olm-bundle-validation-test}
`

func clusterServiceVersion(objects []manifest.Object, examples string) object {
	deployment := ofKind(objects, "Deployment")[0]
	rules := func(kind string) []any {
		var out []any
		for _, role := range ofKind(objects, kind) {
			own, _ := role.Object["rules"].([]any)
			out = append(out, own...)
		}
		return []any{object{"serviceAccountName": deployment.GetName(), "rules": out}}
	}
	modes := []any{}
	for _, mode := range []string{"OwnNamespace", "SingleNamespace", "MultiNamespace", "AllNamespaces"} {
		modes = append(modes, object{"type": mode, "supported": true})
	}
	return object{
		"apiVersion": "operators.coreos.com/v1alpha1", "kind": "ClusterServiceVersion",
		"metadata": object{
			"name": csvName + ".v" + version.Version,
			"annotations": object{"alm-examples": examples, "capabilities": "Seamless Upgrades", "categories": "Networking", "containerImage": hub + "/operator:" + version.Version,
				"description": "Installs and runs service meshes from one IstioOperator."},
		},
		"spec": object{
			"displayName": "Slipway", "description": "Slipway installs an Istio-compatible service mesh from one `IstioOperator`, keeps it as written, and removes it in order.",
			"version": version.Version, "maturity": "alpha", "minKubeVersion": "1.29.0", "provider": object{"name": "Slipway"}, "keywords": []any{"istio", "service mesh", "envoy"},
			"links":        []any{object{"name": "Slipway", "url": "https://github.com/slipway-mesh/slipway"}},
			"installModes": modes,
			"customresourcedefinitions": object{"owned": []any{object{"kind": "IstioOperator", "name": "istiooperators.install.istio.io", "version": "v1alpha1",
				"displayName": "Istio Operator", "description": "A mesh: profile, components, and settings."}}},
			"webhookdefinitions": webhookDefinitions(objects, deployment.GetName()),
			"install": object{"strategy": "deployment", "spec": object{
				"clusterPermissions": rules("ClusterRole"), "permissions": rules("Role"),
				"deployments": []any{object{"name": deployment.GetName(), "label": object{"name": deployment.GetName()}, "spec": olmSpec(deployment.Object["spec"].(object))}},
			}},
		},
	}
}

// webhookDefinitions are the webhooks as OLM registers them: it makes their configuration, Service and certificates.
func webhookDefinitions(objects []manifest.Object, deployment string) []any {
	var out []any
	for _, configuration := range ofKind(objects, "ValidatingWebhookConfiguration") {
		for _, w := range configuration.Object["webhooks"].([]any) {
			hook := w.(object)
			out = append(out, object{"type": "ValidatingAdmissionWebhook", "generateName": hook["name"], "deploymentName": deployment, "containerPort": 443, "targetPort": 9443,
				"webhookPath": hook["clientConfig"].(object)["service"].(object)["path"], "rules": hook["rules"], "failurePolicy": hook["failurePolicy"],
				"sideEffects": hook["sideEffects"], "timeoutSeconds": hook["timeoutSeconds"], "admissionReviewVersions": hook["admissionReviewVersions"]})
		}
	}
	return out
}

// olmSpec watches the namespaces that OLM's OperatorGroup names instead of fixed ones.
func olmSpec(spec object) object {
	text, err := json.Marshal(spec)
	if err != nil {
		log.Fatal(err)
	}
	var out object
	if err := json.Unmarshal(text, &out); err != nil {
		log.Fatal(err)
	}
	pod := out["template"].(object)["spec"].(object)
	for _, variable := range pod["containers"].([]any)[0].(object)["env"].([]any) {
		if v := variable.(object); v["name"] == "WATCH_NAMESPACE" {
			delete(v, "value")
			v["valueFrom"] = object{"fieldRef": object{"fieldPath": "metadata.annotations['olm.targetNamespaces']"}}
		}
	}
	return out
}
