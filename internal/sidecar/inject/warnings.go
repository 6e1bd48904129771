package inject

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Warnings tell what of a pod that is injected will not be as its owner may think.
func Warnings(pod *corev1.Pod) []string {
	var out []string
	if policy := pod.Spec.DNSPolicy; policy != "" && policy != corev1.DNSClusterFirst {
		out = append(out, fmt.Sprintf("dnsPolicy is %s: the sidecar may not find the control plane by its name, unless it is ClusterFirst", policy))
	}
	applications(pod, func(c *corev1.Container) {
		if userOf(pod, c) == proxyUserID {
			out = append(out, fmt.Sprintf("container %s runs as user %d, which is the proxy's: what it calls does not go through the proxy; let it run as another", c.Name, proxyUserID))
		}
		for _, q := range questions(c) {
			if name := q.portName(); name != "" && number(c, intstr.FromString(name)).Type == intstr.String {
				out = append(out, fmt.Sprintf("container %s: a probe asks port %q, and the container has none of that name: it will fail", c.Name, name))
			}
		}
	})
	return out
}

// userOf is whom a container runs as; 0 where its image says, or root.
func userOf(pod *corev1.Pod, c *corev1.Container) int64 {
	if s := c.SecurityContext; s != nil && s.RunAsUser != nil {
		return *s.RunAsUser
	}
	if s := pod.Spec.SecurityContext; s != nil && s.RunAsUser != nil {
		return *s.RunAsUser
	}
	return 0
}

// portName is that of the port that is asked; empty where it is asked by number.
func (q question) portName() string {
	switch {
	case *q.http != nil:
		return (*q.http).Port.StrVal
	case *q.tcp != nil:
		return (*q.tcp).Port.StrVal
	}
	return ""
}
