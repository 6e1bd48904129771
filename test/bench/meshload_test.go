//go:build bench

package bench

import (
	"os"
	"os/exec"
	"strconv"
	"testing"
)

// TestMeshload lets another program that measures xDS servers drive slipwayd: MESHLOAD is its path. It fills the API server by `fill
// -services -replicas`, and connects by `drive -addr -clients -pid`. SIZES says how much; see sizes.
func TestMeshload(t *testing.T) {
	path := os.Getenv("MESHLOAD")
	if path == "" {
		t.Fatal("MESHLOAD names no program")
	}
	b := newBench(t)
	run := func(arguments ...string) {
		t.Helper()
		cmd := exec.Command(path, arguments...)
		cmd.Env = append(os.Environ(), "KUBECONFIG="+b.kube.Kubeconfig)
		out, err := cmd.CombinedOutput()
		t.Logf("%v\n%s", arguments, out)
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, size := range sizes(t) {
		run("fill", "-services", strconv.Itoa(size[0]), "-replicas", strconv.Itoa(replicas))
		p := b.start(t)
		run("drive", "-addr", p.address, "-clients", strconv.Itoa(size[1]), "-pid", strconv.Itoa(p.pid))
		p.stop()
	}
}
