// Package kubetest gives tests a real kube-apiserver over a real etcd, without root and without nodes. The binary is the
// one that slipway-cluster builds.
package kubetest

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/slipway-mesh/slipway/api/v1alpha1"
)

const token = "kubetest-administrator"

// Server is a running API server.
type Server struct {
	Config *rest.Config
	Client client.Client
	// Kubeconfig is the path of a kubeconfig for other programs.
	Kubeconfig string
	// SigningKey is the path of the key, RSA in PEM, that service accounts' tokens are signed with.
	SigningKey string
}

// Root is the repository's top folder.
func Root(t testing.TB) string {
	t.Helper()
	root, err := FindRoot()
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// FindRoot looks for the repository's top folder from the working directory upwards.
func FindRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "PROJECT")); err == nil {
			return dir, nil
		}
	}
	return "", errors.New("not in the repository")
}

// Start starts etcd and kube-apiserver, and ends them with the test.
func Start(t testing.TB) *Server {
	t.Helper()
	root := Root(t)
	find := exec.Command("go", "run", ".", "binary")
	find.Dir = filepath.Join(root, "test", "cluster")
	find.Stderr = os.Stderr
	out, err := find.Output()
	if err != nil {
		t.Fatalf("find the Kubernetes binary: %v", err)
	}
	node, dir := strings.TrimSpace(string(out)), t.TempDir()
	etcdPort, peerPort, port := FreePort(t), FreePort(t), FreePort(t)
	writeKeys(t, dir)
	Process(t, dir, "etcd", node, "etcd", "--data-dir="+filepath.Join(dir, "etcd"), "--listen-client-urls="+local(etcdPort), "--advertise-client-urls="+local(etcdPort),
		"--listen-peer-urls="+local(peerPort), "--initial-advertise-peer-urls="+local(peerPort), "--initial-cluster=default="+local(peerPort), "--unsafe-no-fsync", "--log-level=error")
	Process(t, dir, "kube-apiserver", node, "kube-apiserver", "--etcd-servers="+local(etcdPort), "--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", port),
		"--cert-dir="+filepath.Join(dir, "certs"), "--token-auth-file="+filepath.Join(dir, "tokens"), "--authorization-mode=RBAC", "--service-cluster-ip-range=10.0.0.0/16",
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file="+filepath.Join(dir, "sa.key"), "--service-account-signing-key-file="+filepath.Join(dir, "sa.key"),
		"--api-audiences=https://kubernetes.default.svc,istio-ca", "--disable-admission-plugins=ServiceAccount", "--advertise-address=127.0.0.1", "--endpoint-reconciler-type=none")
	config := &rest.Config{Host: fmt.Sprintf("https://127.0.0.1:%d", port), BearerToken: token, TLSClientConfig: rest.TLSClientConfig{Insecure: true}, QPS: 1000, Burst: 2000}
	waitReady(t, config, filepath.Join(dir, "kube-apiserver.log"))
	scheme := runtime.NewScheme()
	if err := clientscheme.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	kube, err := client.New(config, client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	return &Server{Config: config, Client: kube, Kubeconfig: writeKubeconfig(t, dir, config), SigningKey: filepath.Join(dir, "sa.key")}
}

func local(port int) string { return fmt.Sprintf("http://127.0.0.1:%d", port) }

// FreePort finds a TCP port that nobody listens on, and that no other test on this machine is given before this one's process ends. It is
// below those that the kernel gives to outgoing connections: one of these could take it before it is used.
func FreePort(t testing.TB) int {
	t.Helper()
	dir := filepath.Join(os.TempDir(), "slipway-test-ports")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for range 1000 {
		port := 20000 + mathrand.IntN(10000)
		if !claim(t, filepath.Join(dir, strconv.Itoa(port))) {
			continue
		}
		listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			_ = listener.Close()
			return port
		}
	}
	t.Fatal("no TCP port is free")
	return 0
}

// claims are the files of the ports that this process was given. They are locked as long as they are open.
var claims = struct {
	sync.Mutex
	files []*os.File
}{}

// claim locks a file until the process ends; false if it is locked already.
func claim(t testing.TB, path string) bool {
	t.Helper()
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = file.Close()
		return false
	}
	claims.Lock()
	defer claims.Unlock()
	claims.files = append(claims.files, file)
	return true
}

// Process starts a program whose log goes to dir/NAME.log, and ends it with the test.
func Process(t testing.TB, dir, name, path string, args ...string) (kill func()) {
	t.Helper()
	log, err := os.Create(filepath.Join(dir, name+".log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	kill = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	t.Cleanup(func() {
		kill()
		_ = log.Close()
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("end of %s's log:\n%s", name, text[max(0, len(text)-3000):])
		}
	})
	return kill
}

func writeKeys(t testing.TB, dir string) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{
		"sa.key": pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}),
		"tokens": []byte(token + ",admin,admin,system:masters\n"),
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func waitReady(t testing.TB, config *rest.Config, log string) {
	t.Helper()
	plain, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	// The default roles take another second and are not needed: the administrator's group is let through without them.
	const ready = "/readyz?exclude=poststarthook/rbac/bootstrap-roles&exclude=poststarthook/scheduling/bootstrap-system-priority-classes"
	Eventually(t, 60*time.Second, func() error {
		response, err := plain.Get(config.Host + ready)
		if err != nil {
			return err
		}
		defer func() { _ = response.Body.Close() }()
		if body, _ := io.ReadAll(response.Body); response.StatusCode != http.StatusOK {
			return fmt.Errorf("not ready: %s (see %s)", body, log)
		}
		return nil
	})
}

func writeKubeconfig(t testing.TB, dir string, config *rest.Config) string {
	t.Helper()
	text := fmt.Sprintf("apiVersion: v1\nkind: Config\ncurrent-context: test\nclusters: [{name: test, cluster: {server: %q, insecure-skip-tls-verify: true}}]\n"+
		"contexts: [{name: test, context: {cluster: test, user: test}}]\nusers: [{name: test, user: {token: %s}}]\n", config.Host, token)
	path := filepath.Join(dir, "kubeconfig")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Eventually polls until check answers nil, or fails with its last answer.
func Eventually(t testing.TB, timeout time.Duration, check func() error) {
	t.Helper()
	deadline := time.Now().Add(timeout)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not so after %s: %v", timeout, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// Objects reads a stream of YAML documents.
func Objects(t testing.TB, stream string) []*unstructured.Unstructured {
	t.Helper()
	var all []*unstructured.Unstructured
	for _, document := range strings.Split(stream, "\n---") {
		object := &unstructured.Unstructured{}
		text, err := yaml.YAMLToJSON([]byte(strings.TrimPrefix(strings.TrimSpace(document), "---")))
		if err == nil {
			err = json.Unmarshal(text, &object.Object)
		}
		if err != nil {
			t.Fatalf("read YAML: %v\n%s", err, document)
		}
		if len(object.Object) > 0 {
			all = append(all, object)
		}
	}
	return all
}

// Apply applies YAML by server-side apply.
func (s *Server) Apply(t testing.TB, stream string) {
	t.Helper()
	for _, object := range Objects(t, stream) {
		if object.GetNamespace() == "" && object.GetKind() != "Namespace" && object.GetKind() != "CustomResourceDefinition" {
			object.SetNamespace("default")
		}
		if err := s.Client.Apply(context.Background(), client.ApplyConfigurationFromUnstructured(object), client.FieldOwner("test"), client.ForceOwnership); err != nil {
			t.Fatalf("apply %s %s: %v", object.GetKind(), object.GetName(), err)
		}
	}
}

// Delete deletes what the YAML names.
func (s *Server) Delete(t testing.TB, stream string) {
	t.Helper()
	for _, object := range Objects(t, stream) {
		if object.GetNamespace() == "" {
			object.SetNamespace("default")
		}
		if err := client.IgnoreNotFound(s.Client.Delete(context.Background(), object)); err != nil {
			t.Fatalf("delete %s %s: %v", object.GetKind(), object.GetName(), err)
		}
	}
}
