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

// nodeBinary returns the path of the multi-call binary, built from this module unless the cache has it. The cache's
// key is the hash of everything that the build reads from here.
func nodeBinary(ctx context.Context) (string, error) {
	const stamp = "k8s.io/component-base/version."
	ldflags := "-s -w -X " + stamp + "gitVersion=" + kubernetesVersion + " -X " + stamp + "gitMajor=1 -X " + stamp +
		"gitMinor=34 -X " + stamp + "gitTreeState=clean -X " + stamp + "gitCommit=" + kubernetesVersion
	return build(ctx, "node", ldflags)
}

// pauseBinary returns the path of the sandbox's only program.
func pauseBinary(ctx context.Context) (string, error) { return build(ctx, "pause", "-s -w") }

func build(ctx context.Context, program, ldflags string) (string, error) {
	source, err := sourceDir()
	if err != nil {
		return "", err
	}
	key, err := sourceHash(source, program, ldflags)
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	path := filepath.Join(cache, "slipway", program+"-"+key)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", err
	}
	fmt.Fprintf(os.Stderr, "building %s from its Go modules (Kubernetes takes some minutes the first time) ...\n", program)
	temporary := fmt.Sprintf("%s.%d", path, os.Getpid())
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", ldflags, "-o", temporary, "./"+program)
	cmd.Dir = source
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("build %s: %w", program, err)
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

func sourceHash(source, program, ldflags string) (string, error) {
	files, err := filepath.Glob(filepath.Join(source, program, "*.go"))
	if err != nil {
		return "", err
	}
	files = append(files, filepath.Join(source, "go.mod"), filepath.Join(source, "go.sum"))
	sort.Strings(files)
	sum := sha256.New()
	fmt.Fprintln(sum, runtime.Version(), runtime.GOARCH, ldflags)
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
