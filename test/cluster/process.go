package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is one long-running program of a cluster. It runs in the cluster's network namespace and outlives us.
type process struct {
	name string
	args []string // args[0] is the program
}

// start runs the process in the background, unless it runs already. nsenter, not `ip netns exec`: that one remounts
// /sys and the kubelet then finds no cgroups.
func (c *cluster) start(p process) error {
	if c.running(p.name) {
		return nil
	}
	log, err := os.OpenFile(c.path("log", p.name+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	cmd := exec.Command("nsenter", append([]string{"--net=" + c.netnsPath(), "--", p.args[0]}, p.args[1:]...)...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Dir = c.dir
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	pid := cmd.Process.Pid
	if err := os.WriteFile(c.path("run", p.name+".pid"), []byte(strconv.Itoa(pid)), 0o644); err != nil {
		return err
	}
	go func() { _ = cmd.Wait() }() // reaps it while we live; init does afterwards
	return nil
}

// running says whether the process that was started under this name is alive, in our namespace and no zombie.
func (c *cluster) running(name string) bool {
	text, err := os.ReadFile(c.path("run", name+".pid"))
	if err != nil {
		return false
	}
	pid := strings.TrimSpace(string(text))
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil || strings.Contains(string(stat), ") Z ") {
		return false
	}
	ours, err1 := os.Stat(c.netnsPath())
	its, err2 := os.Stat("/proc/" + pid + "/ns/net")
	return err1 == nil && err2 == nil && os.SameFile(ours, its)
}

// waitFor polls until check answers nil, or says what it last answered and where to look.
func (c *cluster) waitFor(ctx context.Context, what, logName string, timeout time.Duration, check func() error) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: not there after %s: %w; see %s", what, timeout, err, c.path("log", logName+".log"))
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// members lists the processes that belong to the cluster: those in its network namespace or cgroup, and the shims of
// its containerd. It does not trust files, so it also finds what a crashed `up` left.
func (c *cluster) members() []int {
	ours, nsErr := os.Stat(c.netnsPath())
	entries, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil
	}
	var pids []int
	for _, dir := range entries {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil || pid == os.Getpid() {
			continue
		}
		if its, err := os.Stat(dir + "/ns/net"); nsErr == nil && err == nil && os.SameFile(ours, its) {
			pids = append(pids, pid)
			continue
		}
		groups, _ := os.ReadFile(dir + "/cgroup")
		command, _ := os.ReadFile(dir + "/cmdline")
		if strings.Contains(string(groups), ":/"+c.cgroup()+"/") || strings.Contains(string(command), c.socket()) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// killMembers ends every process of the cluster and waits until none is left.
func (c *cluster) killMembers() error {
	deadline := time.Now().Add(20 * time.Second)
	for {
		pids := c.members()
		if len(pids) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("processes %v do not end", pids)
		}
		for _, pid := range pids {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("kill %d: %w", pid, err)
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
}
