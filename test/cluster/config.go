package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
)

const (
	stateRoot   = "/var/lib/slipway-cluster"
	podCIDR     = "10.244.0.0/16"
	serviceCIDR = "10.96.0.0/16"
	apiService  = "10.96.0.1"
	dnsService  = "10.96.0.10"
	pauseImage  = "registry.k8s.io/pause:slipway"
)

// A cluster is known by its name; everything else follows from it and from its number, which keeps the addresses
// that the host sees apart. Inside its network namespace every cluster uses the same pod and service ranges.
type cluster struct {
	name   string
	number int // 0..254
	dir    string
}

var nameForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,9}[a-z0-9])?$`)

// clusterNamed finds the cluster's number, or takes the first free one. The number is written down by up.
func clusterNamed(name string) (*cluster, error) {
	if !nameForm.MatchString(name) {
		return nil, fmt.Errorf("name %q: use at most 11 lower-case letters, digits and dashes", name)
	}
	c := &cluster{name: name, number: -1, dir: filepath.Join(stateRoot, name)}
	taken := map[int]bool{}
	files, err := filepath.Glob(filepath.Join(stateRoot, "*", "number"))
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // its cluster is being taken down
		}
		n, err := strconv.Atoi(strings.TrimSpace(string(text)))
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", file, err)
		}
		taken[n] = true
		if filepath.Dir(file) == c.dir {
			c.number = n
		}
	}
	for n := 0; c.number < 0 && n < 255; n++ {
		if !taken[n] {
			c.number = n
		}
	}
	if c.number < 0 {
		return nil, errors.New("no free number: 255 clusters exist")
	}
	return c, nil
}

// claim makes the cluster's folder and writes its number down.
func (c *cluster) claim() error {
	for _, sub := range []string{"pki", "log", "run", "etcd", "kubelet", "containerd", "cni", "manifests"} {
		if err := os.MkdirAll(c.path(sub), 0o755); err != nil {
			return err
		}
	}
	return os.WriteFile(c.path("number"), []byte(strconv.Itoa(c.number)), 0o644)
}

// lock makes up, down and load of one cluster take turns. The lock goes with the process.
func (c *cluster) lock() (release func(), err error) {
	if err := os.MkdirAll(stateRoot, 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(stateRoot, "."+c.name+".lock"), os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return nil, err
	}
	return func() { _ = f.Close() }, nil
}

func (c *cluster) path(parts ...string) string {
	return filepath.Join(append([]string{c.dir}, parts...)...)
}

func (c *cluster) netns() string     { return "slipway-" + c.name }
func (c *cluster) netnsPath() string { return "/run/netns/" + c.netns() }
func (c *cluster) cgroup() string    { return "slipway-" + c.name }
func (c *cluster) hostIP() string    { return fmt.Sprintf("172.31.%d.1", c.number) }
func (c *cluster) nodeIP() string    { return fmt.Sprintf("172.31.%d.2", c.number) }
func (c *cluster) vethHost() string  { return fmt.Sprintf("swh%d", c.number) }
func (c *cluster) apiServer() string { return "https://" + c.nodeIP() + ":6443" }
func (c *cluster) socket() string    { return c.path("run", "containerd.sock") }

// loadBalancerPool is the range that LoadBalancer Services get their addresses from; the host has a route to it.
func (c *cluster) loadBalancerPool() string { return fmt.Sprintf("172.30.%d.0/24", c.number) }

func (c *cluster) loadBalancerIP(n int) string { return fmt.Sprintf("172.30.%d.%d", c.number, n) }

// kubeconfig is the path of the administrator's kubeconfig.
func (c *cluster) kubeconfig() string { return c.path("kubeconfig") }
