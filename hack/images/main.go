// Command images writes the project's container images as archives, without Docker or a registry: one layer each, of
// static Go binaries, and for the proxy stock Envoy with the libraries that it links. The same sources make the same bytes.
package main

import (
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/slipway-mesh/slipway/internal/version"
)

// image is one archive to write.
type image struct {
	name       string
	tags       []string
	programs   map[string]string // path in the image to Go package
	links      map[string]string
	files      map[string]string // path in the image to file here
	entrypoint []string
	user       string
}

func main() {
	out := flag.String("out", "dist/images", "folder to write to")
	samples := flag.Bool("samples", true, "write the samples' images too")
	envoyOnly := flag.Bool("envoy-only", false, "only fetch Envoy into the cache")
	flag.Parse()
	if *envoyOnly {
		if _, err := envoyBinary(); err != nil {
			log.Fatal("images: ", err)
		}
		return
	}
	if err := run(*out, *samples); err != nil {
		log.Fatal("images: ", err)
	}
}

func run(out string, samples bool) error {
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	envoy, err := envoyFiles()
	if err != nil {
		return err
	}
	images := productImages(envoy)
	if samples {
		images = append(images, sampleImages()...)
	}
	binaries := map[string]string{}
	for _, i := range images {
		for path, pkg := range i.programs {
			if binaries[pkg] == "" {
				if binaries[pkg], err = build(pkg); err != nil {
					return err
				}
			}
			i.files[path] = binaries[pkg]
		}
		file := filepath.Join(out, i.name+".tar")
		if err := write(file, i); err != nil {
			return fmt.Errorf("write %s: %w", file, err)
		}
		fmt.Println(file)
	}
	return nil
}

func productImages(envoy map[string]string) []image {
	tag := func(name string) []string { return []string{version.Hub + "/" + name + ":" + version.Version} }
	proxy := image{name: "proxyv2", tags: tag("proxyv2"), programs: map[string]string{"/usr/local/bin/slipway-agent": "./cmd/slipway-agent"},
		links: map[string]string{"/usr/local/bin/pilot-agent": "slipway-agent"}, files: envoy, entrypoint: []string{"/usr/local/bin/slipway-agent"}, user: "1337:1337"}
	return []image{
		{name: "operator", tags: tag("operator"), programs: map[string]string{"/usr/local/bin/operator": "."}, files: map[string]string{}, entrypoint: []string{"/usr/local/bin/operator"}, user: "1337:1337"},
		{name: "pilot", tags: tag("pilot"), programs: map[string]string{"/usr/local/bin/slipwayd": "./cmd/slipwayd"}, files: map[string]string{}, entrypoint: []string{"/usr/local/bin/slipwayd"}, user: "1337:1337"},
		proxy,
	}
}

// sampleImages: one program serves all of Bookinfo, under the names that tutorials use; the entry point says its part.
func sampleImages() []image {
	var images []image
	for _, part := range [][2]string{{"productpage", "v1"}, {"details", "v1"}, {"ratings", "v1"}, {"reviews", "v1"}, {"reviews", "v2"}, {"reviews", "v3"}} {
		name := "examples-bookinfo-" + part[0] + "-" + part[1]
		var tags []string
		for _, release := range []string{"1.15.0", "1.16.2", "1.17.0", "1.18.0", "1.19.1", "1.20.3"} {
			tags = append(tags, "docker.io/istio/"+name+":"+release)
		}
		images = append(images, image{name: name, tags: tags, programs: map[string]string{"/bookinfo": "./samples/bookinfo"},
			files: map[string]string{}, entrypoint: []string{"/bookinfo", part[0], part[1]}, user: "1000:1000"})
	}
	return images
}

// build compiles a static binary and returns its path.
func build(pkg string) (string, error) {
	dir := filepath.Join("dist", "bin")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	name := filepath.Base(pkg)
	if pkg == "." {
		name = "operator"
	}
	path := filepath.Join(dir, name)
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-tags", "grpcnotrace", "-ldflags", "-s -w", "-o", path, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", pkg, err, strings.TrimSpace(string(text)))
	}
	return path, nil
}
