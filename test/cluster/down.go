package main

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
)

// down removes the cluster: its processes, mounts, cgroups, network namespace and folder, in this order.
func (c *cluster) down() error {
	release, err := c.lock()
	if err != nil {
		return err
	}
	defer release()
	if err := c.clean(); err != nil {
		return err
	}
	fmt.Printf("cluster %q is gone\n", c.name)
	return nil
}

// clean works from what the machine shows, not from what up wrote down, so it also cleans after a crash.
func (c *cluster) clean() error {
	for _, step := range []func() error{c.killMembers, c.unmount, c.removeCgroups, c.removeNetwork} {
		if err := step(); err != nil {
			return err
		}
	}
	return os.RemoveAll(c.dir)
}

func (c *cluster) unmount() error {
	f, err := os.Open("/proc/self/mounts")
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	var points []string
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) > 1 && strings.HasPrefix(fields[1], c.dir+"/") {
			points = append(points, strings.ReplaceAll(fields[1], `\040`, " "))
		}
	}
	sort.Sort(sort.Reverse(sort.StringSlice(points))) // children before parents
	for _, point := range points {
		if err := syscall.Unmount(point, syscall.MNT_DETACH); err != nil && err != syscall.EINVAL && err != syscall.ENOENT {
			return fmt.Errorf("unmount %s: %w", point, err)
		}
	}
	return nil
}

func (c *cluster) removeCgroups() error {
	controllers, err := cgroupControllers()
	if err != nil {
		return err
	}
	for _, controller := range controllers {
		root := "/sys/fs/cgroup/" + controller + "/" + c.cgroup()
		var dirs []string
		_ = filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		sort.Sort(sort.Reverse(sort.StringSlice(dirs)))
		for _, dir := range dirs {
			if err := syscall.Rmdir(dir); err != nil && err != syscall.ENOENT {
				return fmt.Errorf("remove cgroup %s: %w", dir, err)
			}
		}
	}
	return nil
}
