package leader

import (
	"context"
	"log/slog"
	"reflect"
	"time"

	corev1 "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// ServedIngresses are the Ingresses of the mesh, and the Service at whose address they are reached.
type ServedIngresses struct {
	Service   types.NamespacedName
	Ingresses []types.NamespacedName
}

// WriteIngressStatus tells in each Ingress at which address it is served, for ever: the addresses of the gateways' Service.
func WriteIngressStatus(ctx context.Context, kube kubernetes.Interface, served func() ServedIngresses) {
	const period = 5 * time.Second
	for {
		if now := served(); len(now.Ingresses) > 0 {
			writeIngresses(ctx, kube, now)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(period):
		}
	}
}

func writeIngresses(ctx context.Context, kube kubernetes.Interface, served ServedIngresses) {
	service, err := kube.CoreV1().Services(served.Service.Namespace).Get(ctx, served.Service.Name, metav1.GetOptions{})
	if err != nil {
		if !apierrors.IsNotFound(err) {
			slog.Warn("Ingress: cannot read the gateways' Service", "service", served.Service.String(), "error", err)
		}
		return
	}
	want := ingressAddresses(service)
	for _, name := range served.Ingresses {
		client := kube.NetworkingV1().Ingresses(name.Namespace)
		object, err := client.Get(ctx, name.Name, metav1.GetOptions{})
		if err == nil && !reflect.DeepEqual(object.Status.LoadBalancer.Ingress, want) {
			object.Status.LoadBalancer.Ingress = want
			_, err = client.UpdateStatus(ctx, object, metav1.UpdateOptions{})
		}
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			slog.Warn("Ingress: cannot write its status", "ingress", name.String(), "error", err)
		}
	}
}

func ingressAddresses(service *corev1.Service) []networking.IngressLoadBalancerIngress {
	var out []networking.IngressLoadBalancerIngress
	for _, at := range service.Status.LoadBalancer.Ingress {
		out = append(out, networking.IngressLoadBalancerIngress{IP: at.IP, Hostname: at.Hostname})
	}
	for _, ip := range service.Spec.ExternalIPs {
		out = append(out, networking.IngressLoadBalancerIngress{IP: ip})
	}
	return out
}
