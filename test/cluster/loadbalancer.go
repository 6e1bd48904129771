package main

import (
	"context"
	"fmt"
	"os"
	"sort"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
)

// serveLoadBalancers gives each Service of type LoadBalancer an address from the cluster's pool, as a cloud's
// controller would; kube-proxy then routes the address. One kept in status stays; what is released is used again.
func (c *cluster) serveLoadBalancers(ctx context.Context) error {
	config, err := clientcmd.BuildConfigFromFlags("", c.kubeconfig())
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	services := factory.Core().V1().Services()
	wake := make(chan struct{}, 1)
	poke := func(any) {
		select {
		case wake <- struct{}{}:
		default:
		}
	}
	if _, err := services.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: poke, UpdateFunc: func(_, b any) { poke(b) }, DeleteFunc: poke,
	}); err != nil {
		return err
	}
	factory.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), services.Informer().HasSynced) {
		return ctx.Err()
	}
	retry := time.NewTicker(2 * time.Second)
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-wake:
		case <-retry.C:
		}
		list, err := services.Lister().List(labels.Everything())
		if err != nil {
			return err
		}
		for _, service := range c.assign(list) {
			if _, err := client.CoreV1().Services(service.Namespace).UpdateStatus(ctx, service, metav1.UpdateOptions{}); err != nil {
				fmt.Fprintln(os.Stderr, "assign an address:", err) // tried again at the next tick
			}
		}
	}
}

// assign returns the Services whose status must change, changed.
func (c *cluster) assign(services []*corev1.Service) []*corev1.Service {
	used := map[string]bool{}
	var wanting []*corev1.Service
	for _, s := range services {
		if s.Spec.Type != corev1.ServiceTypeLoadBalancer {
			continue
		}
		if in := s.Status.LoadBalancer.Ingress; len(in) > 0 {
			used[in[0].IP] = true
		} else if s.DeletionTimestamp == nil {
			wanting = append(wanting, s)
		}
	}
	sort.Slice(wanting, func(i, j int) bool { return wanting[i].UID < wanting[j].UID })
	var changed []*corev1.Service
	next := 1
	for _, s := range wanting {
		ip := s.Spec.LoadBalancerIP
		for ; ip == "" && next < 255; next++ {
			if candidate := c.loadBalancerIP(next); !used[candidate] {
				ip = candidate
			}
		}
		if ip == "" {
			fmt.Fprintln(os.Stderr, "no free address for", s.Namespace+"/"+s.Name)
			continue
		}
		used[ip] = true
		s = s.DeepCopy()
		mode := corev1.LoadBalancerIPModeVIP
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: ip, IPMode: &mode}}
		changed = append(changed, s)
	}
	return changed
}
