// Package envoytest finds the real Envoy that tests use: the one of the proxy image, fetched once into the cache.
package envoytest

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/slipway-mesh/slipway/test/kubetest"
)

// Binary returns Envoy's path.
func Binary(t testing.TB) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(cache, "slipway", "envoy-1.40.0")
	if _, err := os.Stat(path); err == nil {
		return path
	}
	setup := exec.Command("go", "run", "./hack/images", "-envoy-only")
	setup.Dir = kubetest.Root(t)
	if out, err := setup.CombinedOutput(); err != nil {
		t.Fatalf("fetch Envoy: %v\n%s", err, out)
	}
	return path
}

// Validate puts a whole configuration to Envoy, which opens no port.
func Validate(t testing.TB, config []byte) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "envoy.json")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		t.Fatal(err)
	}
	Accepts(t, "-c", file)
}

// Accepts fails the test unless Envoy would start with the arguments.
func Accepts(t testing.TB, args ...string) {
	t.Helper()
	if out, err := exec.Command(Binary(t), append([]string{"--mode", "validate"}, args...)...).CombinedOutput(); err != nil {
		t.Errorf("Envoy refuses the configuration: %v\n%s", err, out)
	}
}
