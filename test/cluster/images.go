package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// load imports image archives (OCI or docker-archive), as `ctr images import` takes them.
func (c *cluster) load(ctx context.Context, archives []string) error {
	if len(archives) == 0 {
		return errors.New("load: name at least one image archive")
	}
	if !c.running("containerd") {
		return fmt.Errorf("cluster %q is not up", c.name)
	}
	for _, archive := range archives {
		cmd := exec.CommandContext(ctx, "ctr", "--address", c.socket(), "--namespace", "k8s.io", "images", "import", "--digests=false", archive)
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("import %s: %w: %s", archive, err, strings.TrimSpace(string(out)))
		}
	}
	return nil
}

// loadPause imports the sandbox image, made here from one static program.
func (c *cluster) loadPause(ctx context.Context) error {
	binary, err := pauseBinary(ctx)
	if err != nil {
		return err
	}
	program, err := os.ReadFile(binary)
	if err != nil {
		return err
	}
	archive, err := dockerArchive(pauseImage, "/pause", program)
	if err != nil {
		return err
	}
	path := c.path("run", "pause.tar")
	if err := os.WriteFile(path, archive, 0o644); err != nil {
		return err
	}
	return c.load(ctx, []string{path})
}

// dockerArchive is an image of one layer that holds one program.
func dockerArchive(name, path string, program []byte) ([]byte, error) {
	layer, err := tarOf(map[string][]byte{strings.TrimPrefix(path, "/"): program})
	if err != nil {
		return nil, err
	}
	config := fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","config":{"Entrypoint":[%q]},"rootfs":{"type":"layers","diff_ids":["sha256:%x"]}}`,
		path, sha256.Sum256(layer))
	manifest := fmt.Appendf(nil, `[{"Config":"config.json","RepoTags":[%q],"Layers":["layer.tar"]}]`, name)
	return tarOf(map[string][]byte{"config.json": config, "layer.tar": layer, "manifest.json": manifest})
}

func tarOf(files map[string][]byte) ([]byte, error) {
	var buffer bytes.Buffer
	w := tar.NewWriter(&buffer)
	for name, content := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(content)), Typeflag: tar.TypeReg}); err != nil {
			return nil, err
		}
		if _, err := w.Write(content); err != nil {
			return nil, err
		}
	}
	return buffer.Bytes(), w.Close()
}
