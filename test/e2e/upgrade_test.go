package e2e

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// upgrade brings the mesh to images of another tag in place, control plane, gateway and sidecars, while requests go on.
func (w *world) upgrade(t *testing.T) {
	const next = "next"
	for _, name := range []string{"pilot", "proxyv2"} {
		w.run(t, 2*time.Minute, "bin/slipway-cluster", "load", "--name", clusterName, w.retagged(t, name, next))
	}
	image := func(deployment, namespace, container string) string {
		return w.kubectl(t, "get", "deployment", "-n", namespace, deployment, "-o", "jsonpath={.spec.template.spec.containers[?(@.name=='"+container+"')].image}")
	}
	stop := w.keepAsking(t)
	w.mustApply(t, operatorYAML("  profile: demo\n  tag: "+next+"\n"))
	w.healthy(t)
	for deployment, container := range map[string]string{"istiod": "discovery", "istio-ingressgateway": "istio-proxy"} {
		if got := image(deployment, "istio-system", container); !strings.HasSuffix(got, ":"+next) {
			t.Errorf("%s runs %s", deployment, got)
		}
	}
	w.slipway(t, "x", "workloads", "restart", "--batch-size", "3")
	pods := w.kubectl(t, "get", "pods", "-n", "default", "-l", "app=reviews", "-o", "jsonpath={.items[?(@.status.phase=='Running')].spec['containers','initContainers'][?(@.name=='istio-proxy')].image}")
	if !strings.Contains(pods, ":"+next) {
		t.Errorf("the sidecars of reviews run %s", pods)
	}
	asked, failed := stop()
	t.Logf("%d requests while the mesh was upgraded in place, %d of them failed", asked, failed)
	if failed > 0 {
		t.Errorf("%d of %d requests failed", failed, asked)
	}
	w.mustApply(t, operatorYAML("  profile: demo\n"))
	w.healthy(t)
	w.slipway(t, "x", "workloads", "restart", "--batch-size", "3")
}

// retagged writes the archive of an image anew, with another tag.
func (w *world) retagged(t *testing.T, name, tag string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(w.root, "dist/images", "*"+name+"*.tar"))
	if err != nil || len(found) != 1 {
		t.Fatal(name, found, err)
	}
	source, err := os.Open(found[0])
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = source.Close() }()
	path := filepath.Join(t.TempDir(), name+".tar")
	target, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = target.Close() }()
	in, out := tar.NewReader(source), tar.NewWriter(target)
	for {
		header, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		if header.Name == "manifest.json" {
			at := bytes.Index(content, []byte("/"+name+":"))
			end := at + bytes.IndexByte(content[at:], '"')
			content = append(append(content[:at:at], []byte("/"+name+":"+tag)...), content[end:]...)
			header.Size = int64(len(content))
		}
		if err := out.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
		if _, err := out.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}
