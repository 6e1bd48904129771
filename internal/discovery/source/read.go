package source

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"

	networking "istio.io/client-go/pkg/apis/networking/v1"
	filter "istio.io/client-go/pkg/apis/networking/v1alpha3"
	security "istio.io/client-go/pkg/apis/security/v1"
	telemetry "istio.io/client-go/pkg/apis/telemetry/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

// NewObject is an empty object of a kind that is watched, nil for another kind. The versions of Istio's APIs have one
// shape, so v1alpha3 and v1beta1 are read as v1.
func NewObject(kind string) metav1.Object {
	switch kind {
	case "ConfigMap":
		return &corev1.ConfigMap{}
	case "Namespace":
		return &corev1.Namespace{}
	case "Node":
		return &corev1.Node{}
	case "Service":
		return &corev1.Service{}
	case "EndpointSlice":
		return &discoveryv1.EndpointSlice{}
	case "Pod":
		return &corev1.Pod{}
	case "Gateway":
		return &networking.Gateway{}
	case "VirtualService":
		return &networking.VirtualService{}
	case "DestinationRule":
		return &networking.DestinationRule{}
	case "ServiceEntry":
		return &networking.ServiceEntry{}
	case "AuthorizationPolicy":
		return &security.AuthorizationPolicy{}
	case "RequestAuthentication":
		return &security.RequestAuthentication{}
	case "Ingress":
		return &networkingv1.Ingress{}
	case "IngressClass":
		return &networkingv1.IngressClass{}
	case "WorkloadEntry":
		return &networking.WorkloadEntry{}
	case "Sidecar":
		return &networking.Sidecar{}
	case "EnvoyFilter": // there is no v1 of it
		return &filter.EnvoyFilter{}
	case "Telemetry":
		return &telemetry.Telemetry{}
	case "PeerAuthentication":
		return &security.PeerAuthentication{}
	}
	return nil
}

// Read reads a stream of YAML documents as the changes that adding their objects would be. Objects of other kinds are left
// out; those without a namespace are in the one given.
func Read(stream []byte, namespace string) ([]Change, error) {
	var changes []Change
	documents := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(stream)))
	for n := 1; ; n++ {
		text, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return changes, nil
		}
		if err != nil {
			return nil, err
		}
		var head metav1.TypeMeta
		if err := yaml.Unmarshal(text, &head); err != nil {
			return nil, fmt.Errorf("document %d: %w", n, err)
		}
		if NewObject(head.Kind) == nil {
			continue
		}
		if text, err = yaml.YAMLToJSON(text); err != nil {
			return nil, fmt.Errorf("document %d, %s: %w", n, head.Kind, err)
		}
		object, err := Decode(head.Kind, text)
		if err != nil {
			return nil, fmt.Errorf("document %d, %s: %w", n, head.Kind, err)
		}
		if object.GetNamespace() == "" && !clusterWide(head.Kind) {
			object.SetNamespace(namespace)
		}
		changes = append(changes, Change{Kind: head.Kind, Namespace: object.GetNamespace(), Name: object.GetName(), Object: object})
	}
}

func clusterWide(kind string) bool {
	return kind == "Node" || kind == "Namespace" || kind == "IngressClass"
}
