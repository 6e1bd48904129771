package house

import (
	"encoding/json"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

// TestBundleIsCurrent writes config/ and bundle/ anew: what is checked in must be the same.
func TestBundleIsCurrent(t *testing.T) {
	out := t.TempDir()
	generate := exec.Command("go", "run", "./hack/genbundle", "-out", out)
	generate.Dir = root
	if text, err := generate.CombinedOutput(); err != nil {
		t.Fatalf("genbundle: %v\n%s", err, text)
	}
	err := filepath.WalkDir(out, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		name, _ := filepath.Rel(out, path)
		want, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		got, err := os.ReadFile(filepath.Join(root, name))
		if diff := cmp.Diff(string(want), string(got)); diff != "" {
			t.Errorf("%s is not what make generate writes (%v):\n%s", name, err, diff)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestBundleHoldsTogether: what the ClusterServiceVersion names is in the bundle, and its example is of the kind it owns.
func TestBundleHoldsTogether(t *testing.T) {
	var csv struct {
		Metadata struct{ Annotations map[string]string }
		Spec     struct {
			CustomResourceDefinitions struct {
				Owned []struct{ Name, Kind, Version string }
			}
			WebhookDefinitions []struct {
				Type, DeploymentName, WebhookPath, FailurePolicy string
				TargetPort                                       int
				Rules                                            []struct{ Resources []string }
			}
			Install struct {
				Spec struct {
					Deployments []struct {
						Name string
						Spec struct {
							Selector struct{ MatchLabels map[string]string }
							Template struct {
								Metadata struct{ Labels map[string]string }
								Spec     struct {
									ServiceAccountName string
									Containers         []struct{ Ports []struct{ ContainerPort int } }
								}
							}
						}
					}
					ClusterPermissions, Permissions []struct {
						ServiceAccountName string
						Rules              []any
					}
				}
			}
		}
	}
	read(t, "bundle/manifests/slipway.clusterserviceversion.yaml", &csv)
	var crd struct {
		Metadata struct{ Name string }
		Spec     struct {
			Names    struct{ Kind string }
			Versions []struct{ Name string }
		}
	}
	read(t, "bundle/manifests/install.istio.io_istiooperators.yaml", &crd)
	owned := csv.Spec.CustomResourceDefinitions.Owned
	if len(owned) != 1 || owned[0].Name != crd.Metadata.Name || owned[0].Kind != crd.Spec.Names.Kind || owned[0].Version != crd.Spec.Versions[0].Name {
		t.Errorf("it owns %v, and the bundle has %v", owned, crd)
	}
	var examples []struct{ Kind string }
	if err := json.Unmarshal([]byte(csv.Metadata.Annotations["alm-examples"]), &examples); err != nil || len(examples) == 0 || examples[0].Kind != owned[0].Kind {
		t.Errorf("examples: %v %v", examples, err)
	}
	install := csv.Spec.Install.Spec
	if len(install.Deployments) != 1 || len(install.ClusterPermissions) != 1 || len(install.Permissions) != 1 {
		t.Fatalf("it installs %+v", install)
	}
	pod := install.Deployments[0].Spec
	for name, value := range pod.Selector.MatchLabels {
		if pod.Template.Metadata.Labels[name] != value {
			t.Errorf("the Deployment selects %s=%s, and its pods have %v", name, value, pod.Template.Metadata.Labels)
		}
	}
	hooks := csv.Spec.WebhookDefinitions
	if len(hooks) != 1 || hooks[0].DeploymentName != install.Deployments[0].Name || hooks[0].WebhookPath != "/validate-install-istio-io-v1alpha1-istiooperator" ||
		!slices.Contains(hooks[0].Rules[0].Resources, "istiooperators") || hooks[0].FailurePolicy != "Ignore" {
		t.Errorf("webhooks: %+v", hooks)
	}
	served := false
	for _, port := range pod.Template.Spec.Containers[0].Ports {
		served = served || port.ContainerPort == hooks[0].TargetPort
	}
	if !served {
		t.Errorf("no container listens at the webhook's port %d", hooks[0].TargetPort)
	}
	for _, permission := range append(install.ClusterPermissions, install.Permissions...) {
		if permission.ServiceAccountName != pod.Template.Spec.ServiceAccountName || len(permission.Rules) == 0 {
			t.Errorf("permission %+v is not the Deployment's", permission)
		}
	}
}

func read(t *testing.T, name string, into any) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, name))
	if err == nil {
		err = yaml.Unmarshal(text, into)
	}
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}
