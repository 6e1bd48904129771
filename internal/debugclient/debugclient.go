// Package debugclient asks control planes and proxies how they stand, by way of the API server. What the answers mean it
// does not know.
package debugclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
)

const (
	// AdminPort is where Envoy's admin interface listens, inside its pod only.
	AdminPort = 15000
	// planePort is where a control plane tells of itself.
	planePort = "8080"
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
	text, err := c.kube.CoreV1().Pods(namespace).ProxyGet("http", pod, planePort, path, nil).DoRaw(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask %s/%s: %w", namespace, pod, err)
	}
	return text, nil
}

// Admin asks a proxy's admin interface through a forwarded port. The path may have a query.
func (c *Client) Admin(ctx context.Context, namespace, pod, method, path string, port int) ([]byte, error) {
	var answer []byte
	err := c.forward(ctx, namespace, pod, port, func(address string) error {
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
	if err != nil {
		return nil, fmt.Errorf("ask the proxy of %s/%s: %w", namespace, pod, err)
	}
	return answer, nil
}

// forward makes a pod's port one of this machine's while do runs.
func (c *Client) forward(ctx context.Context, namespace, pod string, port int, do func(address string) error) error {
	url := c.kube.CoreV1().RESTClient().Post().Resource("pods").Namespace(namespace).Name(pod).SubResource("portforward").URL()
	transport, upgrader, err := spdy.RoundTripperFor(c.config)
	if err != nil {
		return err
	}
	dialer := spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, url)
	stop, ready := make(chan struct{}), make(chan struct{})
	forwarder, err := portforward.NewOnAddresses(dialer, []string{"127.0.0.1"}, []string{fmt.Sprintf("0:%d", port)}, stop, ready, io.Discard, io.Discard)
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- forwarder.ForwardPorts() }()
	defer func() { close(stop); <-ended }()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case err := <-ended:
		ended <- err // for the deferred wait
		return errors.Join(errors.New("the port is not forwarded"), err)
	case <-ready:
	}
	ports, err := forwarder.GetPorts()
	if err != nil {
		return err
	}
	return do(fmt.Sprintf("127.0.0.1:%d", ports[0].Local))
}
