// Package debugclient asks control planes and proxies how they stand, by way of the API server. What the answers mean it
// does not know.
package debugclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
)

const (
	// AdminPort is where Envoy's admin interface listens, inside its pod only.
	AdminPort = 15000
	// PlanePort is where a control plane tells of itself, to those who come through a forwarded port.
	PlanePort = 8080
)

// Client asks.
type Client struct {
	config *rest.Config
	kube   kubernetes.Interface
}

// New makes a client of a cluster.
func New(config *rest.Config) (*Client, error) {
	kube, err := kubernetes.NewForConfig(config)
	return &Client{config, kube}, err
}

// ControlPlane gets a path of a control plane's pod.
func (c *Client) ControlPlane(ctx context.Context, namespace, pod, path string) ([]byte, error) {
	answer, err := c.ask(ctx, namespace, pod, http.MethodGet, path, PlanePort)
	if err != nil {
		return nil, fmt.Errorf("ask %s/%s: %w", namespace, pod, err)
	}
	return answer, nil
}

// Admin asks a proxy's admin interface. The path may have a query.
func (c *Client) Admin(ctx context.Context, namespace, pod, method, path string, port int) ([]byte, error) {
	answer, err := c.ask(ctx, namespace, pod, method, path, port)
	if err != nil {
		return nil, fmt.Errorf("ask the proxy of %s/%s: %w", namespace, pod, err)
	}
	return answer, nil
}

func (c *Client) ask(ctx context.Context, namespace, pod, method, path string, port int) (answer []byte, err error) {
	err = c.Forward(ctx, namespace, pod, port, "127.0.0.1:0", func(ctx context.Context, address string) error {
		request, err := http.NewRequestWithContext(ctx, method, "http://"+address+"/"+path, http.NoBody)
		if err != nil {
			return err
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return err
		}
		defer func() { _ = response.Body.Close() }()
		if answer, err = io.ReadAll(response.Body); err != nil {
			return err
		}
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("it answers %s: %.200s", response.Status, answer)
		}
		return nil
	})
	return answer, err
}

// Forward makes a pod's port one of this machine's, at ADDRESS:NUMBER, where 0 is any number, while do runs. Its context
// ends when the pod goes away.
func (c *Client) Forward(ctx context.Context, namespace, pod string, port int, at string, do func(ctx context.Context, address string) error) error {
	host, number, err := net.SplitHostPort(at)
	if err != nil {
		return err
	}
	url := c.kube.CoreV1().RESTClient().Post().Resource("pods").Namespace(namespace).Name(pod).SubResource("portforward").URL()
	transport, upgrader, err := spdy.RoundTripperFor(c.config)
	if err != nil {
		return err
	}
	dialer := spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, url)
	stop, ready := make(chan struct{}), make(chan struct{})
	forwarder, err := portforward.NewOnAddresses(dialer, []string{host}, []string{fmt.Sprintf("%s:%d", number, port)}, stop, ready, io.Discard, io.Discard)
	if err != nil {
		return err
	}
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		err := forwarder.ForwardPorts()
		end(errors.Join(errors.New("the port is not forwarded"), err))
	}()
	defer func() { close(stop); <-ended }()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-ready:
	}
	ports, err := forwarder.GetPorts()
	if err != nil {
		return err
	}
	return do(ctx, net.JoinHostPort(host, strconv.Itoa(int(ports[0].Local))))
}
