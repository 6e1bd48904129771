package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// makeNetwork makes the namespace, a veth pair to the host, and the host's route to the LoadBalancer pool.
// The node needs a default route: without one, connections from it to ClusterIPs fail as unreachable.
func (c *cluster) makeNetwork(ctx context.Context) error {
	ns, host := c.netns(), c.vethHost()
	steps := [][]string{
		{"ip", "netns", "add", ns},
		{"ip", "link", "add", host, "type", "veth", "peer", "name", "eth0", "netns", ns},
		{"ip", "addr", "add", c.hostIP() + "/30", "dev", host},
		{"ip", "link", "set", host, "up"},
		{"ip", "-n", ns, "link", "set", "lo", "up"},
		{"ip", "-n", ns, "addr", "add", c.nodeIP() + "/30", "dev", "eth0"},
		{"ip", "-n", ns, "link", "set", "eth0", "up"},
		{"ip", "-n", ns, "route", "add", "default", "via", c.hostIP()},
		{"ip", "route", "replace", c.loadBalancerPool(), "via", c.nodeIP()},
		{"nsenter", "--net=" + c.netnsPath(), "sysctl", "-q", "-w", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.rp_filter=0"},
		// Packets for a LoadBalancer address that has no Service would go back to the host and loop.
		{"ip", "-n", ns, "route", "add", "blackhole", c.loadBalancerPool()},
	}
	for _, step := range steps {
		if out, err := exec.CommandContext(ctx, step[0], step[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", strings.Join(step, " "), err, strings.TrimSpace(string(out)))
		}
	}
	return nil
}

// removeNetwork undoes makeNetwork, whichever steps of it were done. The veth pair goes with the namespace.
func (c *cluster) removeNetwork() error {
	_ = exec.Command("ip", "route", "del", c.loadBalancerPool()).Run() // gone already where the veth is
	_ = exec.Command("ip", "link", "del", c.vethHost()).Run()
	if _, err := os.Stat(c.netnsPath()); os.IsNotExist(err) {
		return nil
	}
	if out, err := exec.Command("ip", "netns", "del", c.netns()).CombinedOutput(); err != nil {
		return fmt.Errorf("delete network namespace %s: %w: %s", c.netns(), err, out)
	}
	return nil
}

// cgroupControllers are the hierarchies of cgroup v1 below which the kubelet needs its root, or "" for v2.
func cgroupControllers() ([]string, error) {
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		return []string{""}, nil
	}
	entries, err := os.ReadDir("/sys/fs/cgroup")
	if err != nil {
		return nil, fmt.Errorf("read cgroups: %w", err)
	}
	var names []string
	for _, entry := range entries {
		if entry.IsDir() && entry.Name() != "unified" {
			names = append(names, entry.Name())
		}
	}
	return names, nil
}

func (c *cluster) makeCgroups() error {
	controllers, err := cgroupControllers()
	if err != nil {
		return err
	}
	for _, controller := range controllers {
		dir := "/sys/fs/cgroup/" + controller + "/" + c.cgroup()
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if controller == "cpuset" { // a cpuset without CPUs takes no process
			for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
				value, err := os.ReadFile("/sys/fs/cgroup/cpuset/" + file)
				if err != nil {
					return err
				}
				if err := os.WriteFile(dir+"/"+file, value, 0o644); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
