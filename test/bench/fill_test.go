//go:build bench

package bench

import (
	"context"
	"fmt"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	slices "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	perNamespace = 50 // services
	replicas     = 2
)

func namespaceOf(service int) string      { return fmt.Sprintf("load-%d", service/perNamespace) }
func serviceName(service int) string      { return fmt.Sprintf("svc-%d", service) }
func podName(service, replica int) string { return fmt.Sprintf("svc-%d-%d", service, replica) }

func address(service, replica, replicas int) string {
	n := service*replicas + replica + 1
	return fmt.Sprintf("10.%d.%d.%d", 64+n/62500, (n/250)%250, n%250+1)
}

// fill makes the services from..to, each with an EndpointSlice and pods.
func fill(t *testing.T, kube client.Client, from, to int) {
	t.Helper()
	ctx := context.Background()
	for s := from; s < to; s++ {
		namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespaceOf(s)}}
		if s%perNamespace == 0 {
			if err := kube.Create(ctx, namespace); client.IgnoreAlreadyExists(err) != nil {
				t.Fatal(err)
			}
		}
	}
	work := make(chan int)
	var wait sync.WaitGroup
	for range 16 {
		wait.Add(1)
		go func() {
			defer wait.Done()
			for s := range work {
				if err := makeService(ctx, kube, s); err != nil {
					t.Error(err)
				}
			}
		}()
	}
	for s := from; s < to; s++ {
		work <- s
	}
	close(work)
	wait.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

func makeService(ctx context.Context, kube client.Client, s int) error {
	labels := map[string]string{"app": serviceName(s)}
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespaceOf(s), Name: serviceName(s), Labels: labels}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "http", Port: 80}}}}
	if err := kube.Create(ctx, service); err != nil {
		return err
	}
	for r := range replicas {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespaceOf(s), Name: podName(s, r), Labels: map[string]string{"app": serviceName(s), "security.istio.io/tlsMode": "istio"}},
			Spec: corev1.PodSpec{NodeName: "none", ServiceAccountName: "default", Containers: []corev1.Container{{Name: "app", Image: "none"}}}}
		if err := kube.Create(ctx, pod); err != nil {
			return err
		}
		at := address(s, r, replicas)
		pod.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: at, PodIPs: []corev1.PodIP{{IP: at}}, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}
		if err := kube.Status().Update(ctx, pod); err != nil {
			return err
		}
	}
	return kube.Create(ctx, slice(s, replicas))
}

// slice is the service's EndpointSlice with n endpoints.
func slice(s, n int) *slices.EndpointSlice {
	name, port, ready := "http", int32(8080), true
	out := &slices.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: namespaceOf(s), Name: serviceName(s) + "-a", Labels: map[string]string{slices.LabelServiceName: serviceName(s)}},
		AddressType: slices.AddressTypeIPv4, Ports: []slices.EndpointPort{{Name: &name, Port: &port}}}
	for r := range n {
		out.Endpoints = append(out.Endpoints, slices.Endpoint{Addresses: []string{address(s, r, replicas)}, Conditions: slices.EndpointConditions{Ready: &ready},
			TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: namespaceOf(s), Name: podName(s, r)}})
	}
	return out
}
