package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sort"
)

const kubernetesVersion = "v1.34.4"

// A program is built from a module of ours and kept in the cache. The cache's key is the hash of everything that the build
// reads from here.
type program struct {
	name    string
	module  string // folder of its go.mod, below this module's
	pkg     string // from there
	ldflags string
}

// nodeBinary returns the path of the multi-call binary.
func nodeBinary(ctx context.Context) (string, error) {
	const stamp = "k8s.io/component-base/version."
	return build(ctx, program{name: "node", pkg: "./node", ldflags: "-s -w -X " + stamp + "gitVersion=" + kubernetesVersion + " -X " + stamp + "gitMajor=1 -X " + stamp +
		"gitMinor=34 -X " + stamp + "gitTreeState=clean -X " + stamp + "gitCommit=" + kubernetesVersion})
}

// pauseBinary returns the path of the sandbox's only program.
func pauseBinary(ctx context.Context) (string, error) {
	return build(ctx, program{name: "pause", pkg: "./pause", ldflags: "-s -w"})
}

// metricsBinary returns the path of metrics-server, which is built with another version of Kubernetes' libraries.
func metricsBinary(ctx context.Context) (string, error) {
	return build(ctx, program{name: "metrics", module: "metrics", pkg: "sigs.k8s.io/metrics-server/cmd/metrics-server", ldflags: "-s -w"})
}

func buildAll(ctx context.Context) error {
	for _, one := range []func(context.Context) (string, error){nodeBinary, pauseBinary, metricsBinary} {
		if _, err := one(ctx); err != nil {
			return err
		}
	}
	return nil
}

func build(ctx context.Context, p program) (string, error) {
	source, err := sourceDir()
	if err != nil {
		return "", err
	}
	source = filepath.Join(source, p.module)
	key, err := sourceHash(source, p)
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	path := filepath.Join(cache, "slipway", p.name+"-"+key)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", err
	}
	fmt.Fprintf(os.Stderr, "building %s from its Go modules (Kubernetes takes some minutes the first time) ...\n", p.name)
	temporary := fmt.Sprintf("%s.%d", path, os.Getpid())
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", p.ldflags, "-o", temporary, p.pkg)
	cmd.Dir = source
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("build %s: %w", p.name, err)
	}
	return path, os.Rename(temporary, path)
}

// sourceDir finds this module from the working directory upwards, or in test/cluster below it.
func sourceDir() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		for _, candidate := range []string{dir, filepath.Join(dir, "test", "cluster")} {
			if _, err := os.Stat(filepath.Join(candidate, "node", "main.go")); err == nil {
				return candidate, nil
			}
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("run it inside a checkout of the repository: the Kubernetes binary is built from test/cluster")
		}
		dir = filepath.Dir(dir)
	}
}

func sourceHash(source string, p program) (string, error) {
	files, err := filepath.Glob(filepath.Join(source, p.name, "*.go"))
	if err != nil {
		return "", err
	}
	files = append(files, filepath.Join(source, "go.mod"), filepath.Join(source, "go.sum"))
	sort.Strings(files)
	sum := sha256.New()
	fmt.Fprintln(sum, runtime.Version(), runtime.GOARCH, p.ldflags)
	for _, file := range files {
		f, err := os.Open(file)
		if err != nil {
			return "", err
		}
		_, err = io.Copy(sum, f)
		_ = f.Close()
		if err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(sum.Sum(nil))[:16], nil
}
