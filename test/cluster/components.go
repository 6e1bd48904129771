package main

import (
	"bufio"
	"fmt"
	"os"
	"strings"
)

// controlPlane lists what runs beside containerd and the kubelet, in the order of its start.
func (c *cluster) etcd(node string) process {
	return process{name: "etcd", args: []string{node, "etcd", "--name=" + c.name, "--data-dir=" + c.path("etcd"),
		"--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379",
		"--listen-peer-urls=http://127.0.0.1:2380", "--unsafe-no-fsync", "--log-level=warn"}}
}

func (c *cluster) apiserver(node string) process {
	pki := func(file string) string { return c.path("pki", file) }
	return process{name: "kube-apiserver", args: []string{node, "kube-apiserver",
		"--etcd-servers=http://127.0.0.1:2379", "--bind-address=0.0.0.0", "--secure-port=6443", "--advertise-address=" + c.nodeIP(),
		"--service-cluster-ip-range=" + serviceCIDR, "--authorization-mode=Node,RBAC", "--allow-privileged=true",
		"--client-ca-file=" + pki("ca.crt"), "--tls-cert-file=" + pki("apiserver.crt"), "--tls-private-key-file=" + pki("apiserver.key"),
		"--kubelet-client-certificate=" + pki("apiserver-kubelet.crt"), "--kubelet-client-key=" + pki("apiserver-kubelet.key"),
		"--kubelet-certificate-authority=" + pki("ca.crt"), "--kubelet-preferred-address-types=InternalIP",
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local", "--service-account-key-file=" + pki("sa.pub"),
		"--service-account-signing-key-file=" + pki("sa.key"), "--api-audiences=https://kubernetes.default.svc.cluster.local,istio-ca",
		"--requestheader-client-ca-file=" + pki("ca.crt"), "--requestheader-allowed-names=front-proxy", "--requestheader-username-headers=X-Remote-User",
		"--requestheader-group-headers=X-Remote-Group", "--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file=" + pki("front-proxy.crt"), "--proxy-client-key-file=" + pki("front-proxy.key"), "--enable-aggregator-routing=true",
		"--enable-admission-plugins=NodeRestriction", "--profiling=false", "--v=1"}}
}

func (c *cluster) controllerManager(node string) process {
	return process{name: "kube-controller-manager", args: []string{node, "kube-controller-manager",
		"--kubeconfig=" + c.path("pki", "controller-manager.kubeconfig"), "--root-ca-file=" + c.path("pki", "ca.crt"),
		"--service-account-private-key-file=" + c.path("pki", "sa.key"), "--use-service-account-credentials=true",
		"--leader-elect=false", "--profiling=false", "--node-monitor-period=2s",
		// A real cluster waits minutes before it scales: here the tests would.
		"--horizontal-pod-autoscaler-sync-period=5s", "--horizontal-pod-autoscaler-initial-readiness-delay=5s",
		"--horizontal-pod-autoscaler-cpu-initialization-period=5s", "--horizontal-pod-autoscaler-downscale-stabilization=20s"}}
}

func (c *cluster) metricsServer(binary string) process {
	kubeconfig := c.path("pki", "metrics.kubeconfig")
	return process{name: "metrics-server", args: []string{binary, "--kubeconfig=" + kubeconfig, "--authentication-kubeconfig=" + kubeconfig,
		"--authorization-kubeconfig=" + kubeconfig, "--secure-port=4443", "--cert-dir=" + c.path("run", "metrics"),
		"--kubelet-certificate-authority=" + c.path("pki", "ca.crt"), "--kubelet-preferred-address-types=InternalIP", "--metric-resolution=10s", "--kubelet-request-timeout=5s"}}
}

func (c *cluster) scheduler(node string) process {
	return process{name: "kube-scheduler", args: []string{node, "kube-scheduler",
		"--kubeconfig=" + c.path("pki", "scheduler.kubeconfig"), "--leader-elect=false", "--profiling=false"}}
}

func (c *cluster) kubelet(node string) process {
	return process{name: "kubelet", args: []string{node, "kubelet", "--config=" + c.path("run", "kubelet.yaml"),
		"--kubeconfig=" + c.path("pki", "kubelet.kubeconfig"), "--root-dir=" + c.path("kubelet"), "--cert-dir=" + c.path("pki"),
		"--hostname-override=" + c.nodeName(), "--node-ip=" + c.nodeIP(), "--v=1"}}
}

func (c *cluster) kubeProxy(node string) process {
	return process{name: "kube-proxy", args: []string{node, "kube-proxy", "--config=" + c.path("run", "kube-proxy.yaml")}}
}

func (c *cluster) coreDNS(node string) process {
	return process{name: "coredns", args: []string{node, "coredns", "-conf", c.path("run", "Corefile")}}
}

func (c *cluster) containerd() process {
	return process{name: "containerd", args: []string{"containerd", "--config", c.path("run", "containerd.toml")}}
}

// writeConfiguration writes the files that the processes read.
func (c *cluster) writeConfiguration(cni string) error {
	files := map[string]string{
		"run/kubelet.yaml":       c.kubeletConfiguration(),
		"run/kube-proxy.yaml":    c.kubeProxyConfiguration(),
		"run/containerd.toml":    c.containerdConfiguration(cni),
		"run/Corefile":           c.corefile(),
		"run/hosts":              "", // tests add names of "external" hosts here; CoreDNS reads it again
		"run/resolv.conf":        "nameserver " + c.nodeIP() + "\n",
		"cni/10-bridge.conflist": c.cniConfiguration(),
	}
	for name, text := range files {
		if err := os.WriteFile(c.path(name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func (c *cluster) kubeletConfiguration() string {
	return fmt.Sprintf(`apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: %[1]s/pki/ca.crt}
authorization: {mode: Webhook}
tlsCertFile: %[1]s/pki/kubelet-server.crt
tlsPrivateKeyFile: %[1]s/pki/kubelet-server.key
cgroupDriver: cgroupfs
cgroupRoot: /%[2]s
clusterDNS: [%[3]s]
clusterDomain: cluster.local
containerRuntimeEndpoint: unix://%[4]s
resolvConf: %[1]s/run/resolv.conf
failSwapOn: false
localStorageCapacityIsolation: false
evictionHard: {memory.available: 100Mi}
imageGCHighThresholdPercent: 100
podLogsDir: %[1]s/log/pods
volumePluginDir: %[1]s/kubelet/volume-plugins
maxPods: 250
registerNode: true
nodeStatusUpdateFrequency: 2s
syncFrequency: 10s
serializeImagePulls: false
shutdownGracePeriod: 0s
`, c.dir, c.cgroup(), dnsService, c.socket())
}

func (c *cluster) kubeProxyConfiguration() string {
	return fmt.Sprintf(`apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
clusterCIDR: %s
hostnameOverride: %s
clientConnection: {kubeconfig: %s}
conntrack: {maxPerCore: 0, min: 0}
iptables: {minSyncPeriod: 200ms, syncPeriod: 30s}
`, podCIDR, c.nodeName(), c.path("pki", "proxy.kubeconfig"))
}

func (c *cluster) containerdConfiguration(cni string) string {
	return fmt.Sprintf(`version = 2
root = "%[1]s/containerd"
state = "%[1]s/run/containerd"
[grpc]
  address = "%[2]s"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "%[3]s"
  netns_mounts_under_state_dir = true
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "%[4]s"
    conf_dir = "%[1]s/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
`, c.dir, c.socket(), pauseImage, cni)
}

func (c *cluster) cniConfiguration() string {
	return fmt.Sprintf(`{"cniVersion": "0.4.0", "name": "%[1]s", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "dataDir": "%[2]s", "ranges": [[{"subnet": "%[3]s"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}
]}
`, c.netns(), c.path("run", "ipam"), podCIDR)
}

// corefile serves the cluster's names, names from run/hosts, and, where the machine has a resolver, all others.
func (c *cluster) corefile() string {
	forward := ""
	if machineHasResolver() {
		forward = "    forward . /etc/resolv.conf\n"
	}
	return fmt.Sprintf(`.:53 {
    bind %s
    errors
    health 127.0.0.1:8090
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        kubeconfig %s
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
        ttl 5
    }
    hosts %s {
        reload 200ms
        ttl 1
        fallthrough
    }
%s    cache 5
}
`, c.nodeIP(), c.path("pki", "dns.kubeconfig"), c.path("run", "hosts"), forward)
}

func machineHasResolver() bool {
	f, err := os.Open("/etc/resolv.conf")
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "nameserver") {
			return true
		}
	}
	return false
}
