// Package nettest gives tests pods without a kubelet: network and mount namespaces on a bridge of their own, in which real
// programs run and from which the test itself opens connections. Nothing of it is seen outside, and it all goes with the
// processes that hold it. It needs root.
package nettest

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slipway-mesh/slipway/test/kubetest"
)

// Network is a bridge that forwards between the pods on it.
type Network struct {
	hub  *Pod
	pods int
}

// Pod is a network namespace with an address, and a mount namespace with an /etc and a /run of its own.
type Pod struct {
	Name, Address string
	Address6      string
	pid           int
	dir           string
	hub           *Pod
	link          string // of the hub that leads here
}

// The networks of pods and of what is outside the mesh; the bridge routes between the two.
const (
	podSubnet     = "10.77.0."
	outsideSubnet = "10.88.0."
	subnet6       = "fd00:77::"
)

// New makes a network that ends with the test.
func New(t testing.TB) *Network {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("network namespaces need root")
	}
	n := &Network{hub: hold(t, "hub")}
	for _, command := range []string{"ip link add br0 type bridge", "ip addr add " + podSubnet + "1/24 dev br0", "ip addr add " + outsideSubnet + "1/24 dev br0", "ip link set br0 up"} {
		n.hub.Run(t, command)
	}
	n.hub.Do(t, func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o600) })
	return n
}

// Pod adds a pod.
func (n *Network) Pod(t testing.TB, name string) *Pod { return n.add(t, name, podSubnet) }

// Outside adds a host that is not in the mesh's network.
func (n *Network) Outside(t testing.TB, name string) *Pod { return n.add(t, name, outsideSubnet) }

func (n *Network) add(t testing.TB, name, subnet string) *Pod {
	t.Helper()
	n.pods++
	p := hold(t, name)
	p.Address = fmt.Sprintf("%s%d", subnet, 10+n.pods)
	link := fmt.Sprintf("pod%d", n.pods)
	p.hub, p.link = n.hub, link
	n.hub.Run(t, fmt.Sprintf("ip link add %s type veth peer name eth0 netns %d", link, p.pid))
	n.hub.Run(t, "ip link set "+link+" master br0 up")
	p.Address6 = fmt.Sprintf("%s%d", subnet6, 10+n.pods)
	for _, command := range []string{"ip addr add " + p.Address + "/24 dev eth0", "ip addr add " + p.Address6 + "/64 dev eth0 nodad", "ip link set eth0 up", "ip route add default via " + subnet + "1"} {
		p.Run(t, command)
	}
	return p
}

// hold starts the process that keeps a pod's namespaces alive.
func hold(t testing.TB, name string) *Pod {
	t.Helper()
	dir, err := os.MkdirTemp("", "slipway-pod-")
	if err != nil {
		t.Fatal(err)
	}
	for _, sub := range []string{"etc", "work"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil { // the proxy's user reads its programs here
		t.Fatal(err)
	}
	script := "mount -t overlay overlay -o lowerdir=/etc,upperdir=" + dir + "/etc,workdir=" + dir + "/work /etc && mount -t tmpfs tmpfs /run && chmod 755 /run && ip link set lo up && echo up && exec sleep infinity"
	cmd := exec.Command("unshare", "--net", "--mount", "--propagation", "private", "sh", "-c", script)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = os.Stderr
	ready, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = os.RemoveAll(dir)
	})
	if _, err := ready.Read(make([]byte, 3)); err != nil {
		t.Fatalf("make the namespaces of %s: %v", name, err)
	}
	return &Pod{Name: name, pid: cmd.Process.Pid, dir: dir}
}

// Cut takes the pod off the network without a word, as a machine that dies does; Join puts it back.
func (p *Pod) Cut(t testing.TB) { p.hub.Run(t, "ip link set "+p.link+" nomaster") }

// Join undoes Cut.
func (p *Pod) Join(t testing.TB) { p.hub.Run(t, "ip link set "+p.link+" master br0") }

// Dir is a folder of the host's that programs in the pod see under the same path.
func (p *Pod) Dir() string { return p.dir }

// Write puts a file into the pod, readable for all.
func (p *Pod) Write(t testing.TB, path, text string) {
	t.Helper()
	inside := p.Path(path)
	if err := os.MkdirAll(filepath.Dir(inside), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(inside, []byte(text), 0o644); err != nil { //nolint:gosec // a test's own file
		t.Fatal(err)
	}
}

// Mkdir makes a folder in the pod that everybody there can write to.
func (p *Pod) Mkdir(t testing.TB, path string) {
	t.Helper()
	inside := p.Path(path)
	if err := os.MkdirAll(inside, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(inside, 0o777); err != nil { //nolint:gosec // a test's own folder
		t.Fatal(err)
	}
}

// command is a program in the pod's namespaces, as a user and a group.
func (p *Pod) command(uid, gid int, words ...string) []string {
	return append([]string{"nsenter", "-t", fmt.Sprint(p.pid), "-n", "-m", "-S", fmt.Sprint(uid), "-G", fmt.Sprint(gid), "--"}, words...)
}

// Run runs a command in the pod as root and waits for it.
func (p *Pod) Run(t testing.TB, line string) {
	t.Helper()
	words := p.command(0, 0, strings.Fields(line)...)
	if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %s: %v\n%s", p.Name, line, err, out)
	}
}

// Output runs a program in the pod as a user, with only this environment, and returns what it says.
func (p *Pod) Output(uid int, environment []string, words ...string) (string, error) {
	line := p.command(uid, uid, append(append([]string{"env", "-i"}, environment...), words...)...)
	out, err := exec.Command(line[0], line[1:]...).CombinedOutput()
	return string(out), err
}

// Start starts a program in the pod as a user, with only this environment, and ends it with the test, or when it is told to.
func (p *Pod) Start(t testing.TB, uid int, environment []string, words ...string) (kill func()) {
	t.Helper()
	return p.StartAs(t, uid, uid, environment, words...)
}

// StartAs is Start in another group than the user's own.
func (p *Pod) StartAs(t testing.TB, uid, gid int, environment []string, words ...string) (kill func()) {
	t.Helper()
	line := p.command(uid, gid, append(append([]string{"env", "-i"}, environment...), words...)...)
	return kubetest.Process(t, p.dir, filepath.Base(words[0]), line[0], line[1:]...)
}

// Do runs a function on a thread that is in the pod's network.
func (p *Pod) Do(t testing.TB, work func() error) {
	t.Helper()
	if err := p.inside(work); err != nil {
		t.Fatalf("%s: %v", p.Name, err)
	}
}

func (p *Pod) inside(work func() error) error {
	there, err := unix.Open(fmt.Sprintf("/proc/%d/ns/net", p.pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(there) }()
	runtime.LockOSThread()
	home, err := unix.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer func() { _ = unix.Close(home) }()
	if err := unix.Setns(there, unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return err
	}
	result := work()
	if err := unix.Setns(home, unix.CLONE_NEWNET); err != nil {
		return err // the thread stays locked, and ends with its goroutine: nobody else may run on it
	}
	runtime.UnlockOSThread()
	return result
}

// Dial opens a connection from inside the pod. The address is an IP and a port.
func (p *Pod) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	var connection net.Conn
	err := p.inside(func() (err error) {
		dialer := net.Dialer{Timeout: 5 * time.Second}
		connection, err = dialer.DialContext(ctx, network, address)
		return err
	})
	return connection, err
}

// Listen listens inside the pod until the test ends.
func (p *Pod) Listen(t testing.TB, address string) net.Listener {
	t.Helper()
	return p.ListenWith(t, &net.ListenConfig{}, address)
}

// ListenWith listens with sockets that are set up in some way.
func (p *Pod) ListenWith(t testing.TB, config *net.ListenConfig, address string) net.Listener {
	t.Helper()
	var listener net.Listener
	p.Do(t, func() (err error) {
		listener, err = config.Listen(t.Context(), "tcp", address)
		return err
	})
	t.Cleanup(func() { _ = listener.Close() })
	return listener
}

// Full listens inside the pod at a port that takes no connection any more: whoever tries gets no answer.
func (p *Pod) Full(t testing.TB) (port string) {
	t.Helper()
	p.Do(t, func() error {
		socket, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		t.Cleanup(func() { _ = unix.Close(socket) })
		if err := unix.Bind(socket, &unix.SockaddrInet4{}); err != nil {
			return err
		}
		if err := unix.Listen(socket, 0); err != nil {
			return err
		}
		name, err := unix.Getsockname(socket)
		if err != nil {
			return err
		}
		port = strconv.Itoa(name.(*unix.SockaddrInet4).Port)
		waiting, err := net.Dial("tcp", "127.0.0.1:"+port) // the one that there is room for
		if err == nil {
			t.Cleanup(func() { _ = waiting.Close() })
		}
		return err
	})
	return port
}

// ListenPacket listens for UDP inside the pod until the test ends.
func (p *Pod) ListenPacket(t testing.TB, address string) net.PacketConn {
	t.Helper()
	var packets net.PacketConn
	p.Do(t, func() (err error) {
		packets, err = net.ListenPacket("udp", address)
		return err
	})
	t.Cleanup(func() { _ = packets.Close() })
	return packets
}

// Namespace is the file of the pod's network namespace.
func (p *Pod) Namespace() string { return fmt.Sprintf("/proc/%d/ns/net", p.pid) }

// Path is where the host finds a file of the pod.
func (p *Pod) Path(path string) string { return fmt.Sprintf("/proc/%d/root%s", p.pid, path) }

// Read returns what is in a file of the pod; nothing if there is none.
func (p *Pod) Read(path string) string {
	text, _ := os.ReadFile(p.Path(path))
	return string(text)
}
