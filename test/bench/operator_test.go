//go:build bench

package bench

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/slipway-mesh/slipway/internal/install/manifest"
	"github.com/slipway-mesh/slipway/test/kubetest"
)

// manyPods is how many pods there are that are none of the operator's business.
const manyPods = 10_000

// TestOperator measures the operator in a cluster of many pods: its memory, and what a look at a settled installation
// takes.
func TestOperator(t *testing.T) {
	kube, root, dir := kubetest.Start(t), kubetest.Root(t), t.TempDir()
	crd, err := os.ReadFile(filepath.Join(root, "config/crd/bases/install.istio.io_istiooperators.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	kube.Apply(t, string(crd))
	kube.Apply(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: istio-system}\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: crowd}\n")
	crowd(t, kube.Client)
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "operator"), ".")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the operator: %v\n%s", err, out)
	}
	metrics, probes := fmt.Sprintf("127.0.0.1:%d", kubetest.FreePort(t)), fmt.Sprintf("127.0.0.1:%d", kubetest.FreePort(t))
	cmd := exec.Command(filepath.Join(dir, "operator"), "server", "--leader-elect=false", "--webhook-port=0", "--metrics-bind-address="+metrics, "--health-probe-bind-address="+probes)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+kube.Kubeconfig)
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	operator := &plane{pid: cmd.Process.Pid}
	resource := func(look int) string {
		return fmt.Sprintf("apiVersion: install.istio.io/v1alpha1\nkind: IstioOperator\nmetadata: {name: mesh, namespace: istio-system, annotations: {look: 'n%d'}}\nspec: {profile: demo}\n", look)
	}
	kubetest.Eventually(t, time.Minute, func() error {
		kube.Apply(t, resource(0))
		return healthy(t, kube.Client)
	})
	time.Sleep(65 * time.Second) // young CRDs are read whole, to see whether they are established
	const looks = 20
	count, sum := reconciles(t, metrics)
	wroteBefore := written(t, metrics)
	for k := range looks {
		kube.Apply(t, resource(k+1))
		kubetest.Eventually(t, 10*time.Second, func() error {
			if now, _ := reconciles(t, metrics); now < count+float64(k)+1 {
				return fmt.Errorf("%v looks", now)
			}
			return nil
		})
	}
	after, spent := reconciles(t, metrics)
	if wrote := written(t, metrics) - wroteBefore; wrote != 0 {
		t.Errorf("%v objects were written by settled looks", wrote)
	}
	mean := (spent - sum) / (after - count) * 1000
	peak := operator.memory(t, "VmHWM") >> 20
	fmt.Printf("operator, %d pods in the cluster: a settled look takes %.0f ms (mean of %.0f), peak memory %d MB\n", manyPods, mean, after-count, peak)
	if mean > 100 || peak > 100 {
		t.Errorf("the aims are 100 ms and 100 MB")
	}
}

// TestRender measures what a render of each profile takes, the first of a process left out.
func TestRender(t *testing.T) {
	const rounds = 10
	options := manifest.Options{Hub: "docker.io/slipway", Tag: "1.0.0", Version: "1.0.0", Owner: "mesh", OwnerNamespace: "istio-system"}
	fmt.Println("render of a profile: mean of", rounds)
	for _, name := range []string{"default", "demo", "minimal", "empty", "preview", "stable"} {
		layer := manifest.Layer{Name: "test", Spec: map[string]any{"profile": name}}
		var objects int
		var began time.Time
		for round := range rounds + 1 {
			if round == 1 {
				began = time.Now()
			}
			made, err := manifest.Render(options, layer)
			if err != nil {
				t.Fatal(err)
			}
			objects = len(made.Objects())
		}
		took := time.Since(began) / rounds
		fmt.Printf("  %-8s %5.1f ms, %d objects\n", name, took.Seconds()*1000, objects)
		if took > 100*time.Millisecond {
			t.Errorf("profile %s takes %s; the aim is 100 ms", name, took)
		}
	}
}

func crowd(t *testing.T, kube client.Client) {
	t.Helper()
	var wait sync.WaitGroup
	for worker := range 16 {
		wait.Add(1)
		go func() {
			defer wait.Done()
			for k := worker; k < manyPods; k += 16 {
				pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "crowd", Name: fmt.Sprintf("pod-%d", k), Labels: map[string]string{"app": "crowd"}},
					Spec: corev1.PodSpec{NodeName: "none", Containers: []corev1.Container{{Name: "app", Image: "none"}}}}
				if err := kube.Create(context.Background(), pod); err != nil {
					t.Error(err)
					return
				}
			}
		}()
	}
	wait.Wait()
}

// healthy plays the parts of kubelet and control plane, and says whether the resource is HEALTHY.
func healthy(t *testing.T, kube client.Client) error {
	t.Helper()
	if err := kubetest.Play(t.Context(), kube, true); err != nil {
		return err
	}
	for _, object := range kubetest.Objects(t, "apiVersion: install.istio.io/v1alpha1\nkind: IstioOperator\nmetadata: {name: mesh, namespace: istio-system}\n") {
		if err := kube.Get(t.Context(), client.ObjectKeyFromObject(object), object); err != nil {
			return err
		}
		status, _ := object.Object["status"].(map[string]any)
		if status["status"] != "HEALTHY" {
			return fmt.Errorf("status: %v", status)
		}
	}
	return nil
}

// reconciles is how often the operator looked, and for how many seconds in all.
func reconciles(t *testing.T, address string) (count, sum float64) {
	t.Helper()
	const name = "controller_runtime_reconcile_time_seconds_"
	return total(t, address, name+"count"), total(t, address, name+"sum")
}

// written is how many objects the operator wrote.
func written(t *testing.T, address string) float64 {
	t.Helper()
	return total(t, address, "istio_install_operator_resource_changes_total")
}

// total adds up the series of a metric.
func total(t *testing.T, address, metric string) (sum float64) {
	t.Helper()
	response, err := http.Get("http://" + address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	for lines := bufio.NewScanner(response.Body); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), " ")
		if number, err := strconv.ParseFloat(value, 64); err == nil && strings.HasPrefix(name, metric) {
			sum += number
		}
	}
	return sum
}
