package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"time"
)

// up starts the cluster. Run again, it starts only what does not run.
func (c *cluster) up(ctx context.Context) error {
	release, err := c.lock()
	if err != nil {
		return err
	}
	defer release()
	if c.complete() {
		fmt.Printf("cluster %q is up; export KUBECONFIG=%s\n", c.name, c.kubeconfig())
		return nil
	}
	if err := ensurePackages(ctx); err != nil {
		return err
	}
	node, err := nodeBinary(ctx)
	if err != nil {
		return err
	}
	metrics, err := metricsBinary(ctx)
	if err != nil {
		return err
	}
	if err := c.prepare(ctx); err != nil {
		return fmt.Errorf("%w; `slipway-cluster down --name %s` cleans up", err, c.name)
	}
	began := time.Now()
	if err := c.startAll(ctx, node, metrics); err != nil {
		return fmt.Errorf("%w; `slipway-cluster down --name %s` cleans up", err, c.name)
	}
	fmt.Printf("cluster %q is up (%.1fs); export KUBECONFIG=%s\n", c.name, time.Since(began).Seconds(), c.kubeconfig())
	return nil
}

// prepare makes what the processes stand on; a cluster that was prepared before is left as it is.
func (c *cluster) prepare(ctx context.Context) error {
	if _, err := os.Stat(c.path("prepared")); err == nil {
		if _, err := os.Stat(c.netnsPath()); err == nil {
			return nil
		}
	}
	if err := c.clean(); err != nil { // what a crash or a reboot left
		return err
	}
	if err := c.claim(); err != nil {
		return err
	}
	cni, err := cniBin()
	if err != nil {
		return err
	}
	for _, step := range []func() error{
		c.writePKI,
		func() error { return c.writeConfiguration(cni) },
		c.makeCgroups,
		func() error { return c.makeNetwork(ctx) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return os.WriteFile(c.path("prepared"), nil, 0o644)
}

// processes are the names of all that must run, in the order of their start.
var processes = []string{"containerd", "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "coredns", "metrics-server", "load-balancer"}

func (c *cluster) complete() bool {
	for _, name := range processes {
		if !c.running(name) {
			return false
		}
	}
	return true
}

func (c *cluster) startAll(ctx context.Context, node, metrics string) error {
	for _, p := range []process{c.containerd(), c.etcd(node), c.apiserver(node)} {
		if err := c.start(p); err != nil {
			return err
		}
	}
	if err := c.waitFor(ctx, "containerd", "containerd", 30*time.Second, func() error { return c.loadPause(ctx) }); err != nil {
		return err
	}
	if err := c.waitFor(ctx, "kube-apiserver", "kube-apiserver", 90*time.Second, func() error { return c.apiReady(ctx) }); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	balancer := process{name: "load-balancer", args: []string{self, "load-balancer", "--name", c.name}}
	for _, p := range []process{c.controllerManager(node), c.scheduler(node), c.kubelet(node), c.kubeProxy(node), balancer} {
		if err := c.start(p); err != nil {
			return err
		}
	}
	if err := c.kubectlApply(ctx, node, c.systemObjects()); err != nil {
		return err
	}
	for _, p := range []process{c.coreDNS(node), c.metricsServer(metrics)} {
		if err := c.start(p); err != nil {
			return err
		}
	}
	ready := []string{"wait", "--for=condition=Ready", "node", c.nodeName(), "--timeout=1s"}
	if err := c.waitFor(ctx, "node", "kubelet", 60*time.Second, func() error { return c.kubectl(ctx, node, "", ready...) }); err != nil {
		return err
	}
	account := []string{"get", "serviceaccount", "default", "-n", "default"}
	return c.waitFor(ctx, "default service account", "kube-controller-manager", 30*time.Second, func() error { return c.kubectl(ctx, node, "", account...) })
}

func (c *cluster) apiReady(ctx context.Context) error {
	certificate, err := tls.LoadX509KeyPair(c.path("pki", "admin.crt"), c.path("pki", "admin.key"))
	if err != nil {
		return err
	}
	// Only readiness is asked here; every other client checks the server's certificate.
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true,
		TLSClientConfig: &tls.Config{Certificates: []tls.Certificate{certificate}, InsecureSkipVerify: true}}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.apiServer()+"/readyz", nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	body, _ := io.ReadAll(io.LimitReader(response.Body, 300))
	if response.StatusCode != http.StatusOK {
		return errors.New(string(body))
	}
	return nil
}

func (c *cluster) kubectlApply(ctx context.Context, node, objects string) error {
	return c.waitFor(ctx, "system objects", "kube-apiserver", 30*time.Second, func() error {
		return c.kubectl(ctx, node, objects, "apply", "--server-side", "-f", "-")
	})
}

func (c *cluster) kubectl(ctx context.Context, node, stdin string, args ...string) error {
	cmd := exec.CommandContext(ctx, node, append([]string{"kubectl", "--kubeconfig", c.kubeconfig()}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("kubectl %s: %w: %s", args[0], err, strings.TrimSpace(string(out)))
	}
	return nil
}

// systemObjects: CoreDNS and metrics-server run on the node itself, so their Services have no selector and their endpoints
// are written here.
func (c *cluster) systemObjects() string {
	return fmt.Sprintf(`apiVersion: v1
kind: Service
metadata:
  name: kube-dns
  namespace: kube-system
  labels: {k8s-app: kube-dns, kubernetes.io/name: CoreDNS}
spec:
  clusterIP: %[1]s
  ports:
  - {name: dns, port: 53, protocol: UDP}
  - {name: dns-tcp, port: 53, protocol: TCP}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: kube-dns-node
  namespace: kube-system
  labels: {kubernetes.io/service-name: kube-dns}
addressType: IPv4
ports:
- {name: dns, port: 53, protocol: UDP}
- {name: dns-tcp, port: 53, protocol: TCP}
endpoints:
- addresses: [%[2]s]
  conditions: {ready: true}
---
apiVersion: v1
kind: Service
metadata: {name: metrics-server, namespace: kube-system}
spec:
  ports:
  - {name: https, port: 443, targetPort: 4443}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: metrics-server-node
  namespace: kube-system
  labels: {kubernetes.io/service-name: metrics-server}
addressType: IPv4
ports:
- {name: https, port: 4443}
endpoints:
- addresses: [%[2]s]
  conditions: {ready: true}
---
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: v1beta1.metrics.k8s.io}
spec:
  group: metrics.k8s.io
  version: v1beta1
  groupPriorityMinimum: 100
  versionPriority: 100
  insecureSkipTLSVerify: true # it signs its own certificate
  service: {name: metrics-server, namespace: kube-system}
`, dnsService, c.nodeIP())
}

func (c *cluster) printKubeconfig() error {
	if _, err := os.Stat(c.kubeconfig()); err != nil {
		return fmt.Errorf("cluster %q is not up", c.name)
	}
	fmt.Println(c.kubeconfig())
	return nil
}

func (c *cluster) status(ctx context.Context) error {
	if _, err := os.Stat(c.path("prepared")); err != nil {
		fmt.Printf("cluster %q: not there\n", c.name)
		return nil
	}
	fmt.Printf("cluster %q: API %s, LoadBalancer addresses %s, logs %s\n", c.name, c.apiServer(), c.loadBalancerPool(), c.path("log"))
	for _, name := range processes {
		state := "down"
		if c.running(name) {
			state = "running"
		}
		fmt.Printf("  %-24s %s\n", name, state)
	}
	if err := c.apiReady(ctx); err != nil {
		return fmt.Errorf("kube-apiserver is not ready: %w", err)
	}
	return nil
}
