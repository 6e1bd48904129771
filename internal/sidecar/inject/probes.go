package inject

import (
	"encoding/json"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// The kubelet has no certificate, and what it asks an application would be captured: a port that takes mesh traffic only
// would turn it away. So its questions go to the agent, which asks the application in the kubelet's place.
// https://istio.io/latest/docs/ops/configuration/mesh/app-health-check/

const (
	// probersVariable tells the agent what to ask: a prober by path.
	probersVariable = "ISTIO_KUBE_APP_PROBERS"
	// rewriteAnnotation switches it for a pod.
	rewriteAnnotation = "sidecar.istio.io/rewriteAppHTTPProbers"
	// statusPortAnnotation moves the agent's port.
	statusPortAnnotation = "status.sidecar.istio.io/port"
)

// prober is what the kubelet would have asked.
type prober struct {
	HTTPGet        *corev1.HTTPGetAction   `json:"httpGet,omitempty"`
	TCPSocket      *corev1.TCPSocketAction `json:"tcpSocket,omitempty"`
	GRPC           *corev1.GRPCAction      `json:"grpc,omitempty"`
	TimeoutSeconds int32                   `json:"timeoutSeconds,omitempty"`
}

// question is a probe or a hook of a container: how it is read and written, and at which path the agent answers it.
type question struct {
	path    string
	timeout int32
	// http, tcp and grpc are nil where the container asks in another way.
	http **corev1.HTTPGetAction
	tcp  **corev1.TCPSocketAction
	grpc **corev1.GRPCAction
}

// questions lists a container's, those that a command answers left out.
func questions(c *corev1.Container) []question {
	var all []question
	for _, p := range []struct {
		name  string
		probe *corev1.Probe
	}{{"readyz", c.ReadinessProbe}, {"livez", c.LivenessProbe}, {"startupz", c.StartupProbe}} {
		if p.probe != nil {
			all = append(all, question{"/app-health/" + c.Name + "/" + p.name, p.probe.TimeoutSeconds, &p.probe.HTTPGet, &p.probe.TCPSocket, &p.probe.GRPC})
		}
	}
	if c.Lifecycle == nil {
		return all
	}
	for _, h := range []struct {
		name string
		hook *corev1.LifecycleHandler
	}{{"prestopz", c.Lifecycle.PreStop}, {"poststartz", c.Lifecycle.PostStart}} {
		if h.hook != nil {
			all = append(all, question{"/app-lifecycle/" + c.Name + "/" + h.name, 0, &h.hook.HTTPGet, &h.hook.TCPSocket, nil})
		}
	}
	return all
}

// applications visits the containers of the pod's own that run beside the proxy.
func applications(pod *corev1.Pod, visit func(*corev1.Container)) {
	for i := range pod.Spec.Containers {
		if pod.Spec.Containers[i].Name != proxyName {
			visit(&pod.Spec.Containers[i])
		}
	}
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		if c.Name != proxyName && c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			visit(c)
		}
	}
}

// rewriteProbes leads the kubelet's questions to the agent, and tells it what they were.
func rewriteProbes(pod *corev1.Pod, config *Config, port int32) {
	if port == 0 || !rewrites(pod, config) {
		return
	}
	probers := map[string]prober{}
	applications(pod, func(c *corev1.Container) {
		for _, q := range questions(c) {
			if p, ok := q.take(c, port); ok {
				probers[q.path] = p
			}
		}
	})
	if len(probers) == 0 {
		return
	}
	text, err := json.Marshal(probers)
	if err != nil {
		return // Kubernetes' own types can always be written
	}
	setVariable(pod, probersVariable, string(text))
}

func rewrites(pod *corev1.Pod, config *Config) bool {
	if wanted, err := strconv.ParseBool(pod.Annotations[rewriteAnnotation]); err == nil {
		return wanted
	}
	wanted, set := at(config.Values, "sidecarInjectorWebhook", "rewriteAppHTTPProbe").(bool)
	return wanted || !set
}

// take replaces the question by one to the agent, and returns what it was. One that is the agent's already stays.
func (q question) take(c *corev1.Container, port int32) (prober, bool) {
	p := prober{TimeoutSeconds: q.timeout}
	agent := &corev1.HTTPGetAction{Path: q.path, Port: intstr.FromInt32(port), Scheme: corev1.URISchemeHTTP}
	switch {
	case *q.http != nil:
		if (*q.http).Port.IntVal == port {
			return p, false
		}
		p.HTTPGet = (*q.http).DeepCopy()
		p.HTTPGet.Port = number(c, p.HTTPGet.Port)
		agent.HTTPHeaders = p.HTTPGet.HTTPHeaders
	case *q.tcp != nil:
		p.TCPSocket = (*q.tcp).DeepCopy()
		p.TCPSocket.Port = number(c, p.TCPSocket.Port)
		*q.tcp = nil
	case q.grpc != nil && *q.grpc != nil:
		p.GRPC = (*q.grpc).DeepCopy()
		*q.grpc = nil
	default:
		return p, false
	}
	*q.http = agent
	return p, true
}

// number is a port's number; a name is looked up in the container.
func number(c *corev1.Container, port intstr.IntOrString) intstr.IntOrString {
	for _, named := range c.Ports {
		if port.Type == intstr.String && named.Name == port.StrVal {
			return intstr.FromInt32(named.ContainerPort)
		}
	}
	return port
}

// restoreProbes gives the containers the questions back that an earlier injection took.
func restoreProbes(pod *corev1.Pod) {
	var probers map[string]prober
	for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for _, c := range list {
			for _, variable := range c.Env {
				if c.Name == proxyName && variable.Name == probersVariable {
					_ = json.Unmarshal([]byte(variable.Value), &probers) // what cannot be read was not ours
				}
			}
		}
	}
	applications(pod, func(c *corev1.Container) {
		for _, q := range questions(c) {
			if p, ours := probers[q.path]; ours && *q.http != nil && (*q.http).Path == q.path {
				*q.http, *q.tcp = p.HTTPGet, p.TCPSocket
				if q.grpc != nil {
					*q.grpc = p.GRPC
				}
			}
		}
	})
}
