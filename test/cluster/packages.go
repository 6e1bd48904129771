package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
)

// needs maps each program that a cluster uses to the Debian package that brings it.
var needs = map[string]string{
	"containerd": "containerd", "ctr": "containerd", "runc": "runc", "iptables": "iptables", "ip": "iproute2",
	"conntrack": "conntrack", "nft": "nftables", "nsenter": "util-linux", "mount": "mount", "ethtool": "ethtool", "socat": "socat",
}

// ensurePackages installs what is missing where apt-get can, and otherwise says what is missing.
func ensurePackages(ctx context.Context) error {
	missing := missingPackages()
	if len(missing) == 0 {
		return nil
	}
	list := strings.Join(missing, " ")
	if _, err := exec.LookPath("apt-get"); err != nil {
		return errors.New("missing packages, install them by the distribution's means: " + list)
	}
	fmt.Fprintln(os.Stderr, "installing packages:", list)
	for _, args := range [][]string{{"update", "-qq"}, append([]string{"install", "-y", "-qq", "--no-install-recommends"}, missing...)} {
		cmd := exec.CommandContext(ctx, "apt-get", args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("apt-get %s: %w\n%s", args[0], err, out)
		}
	}
	if still := missingPackages(); len(still) > 0 {
		return errors.New("packages still missing after apt-get install: " + strings.Join(still, " "))
	}
	return nil
}

func missingPackages() []string {
	set := map[string]bool{}
	for program, pkg := range needs {
		if _, err := exec.LookPath(program); err != nil {
			set[pkg] = true
		}
	}
	if _, err := cniBin(); err != nil {
		set["containernetworking-plugins"] = true
	}
	missing := make([]string, 0, len(set))
	for pkg := range set {
		missing = append(missing, pkg)
	}
	sort.Strings(missing)
	return missing
}

// cniBin returns the folder of the CNI plugins.
func cniBin() (string, error) {
	for _, dir := range []string{"/usr/lib/cni", "/opt/cni/bin"} {
		if _, err := os.Stat(filepath.Join(dir, "bridge")); err == nil {
			return dir, nil
		}
	}
	return "", errors.New("no CNI plugins in /usr/lib/cni or /opt/cni/bin")
}
