package adopt

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/slipway-mesh/slipway/internal/install/apply"
	"github.com/slipway-mesh/slipway/internal/install/manifest"
)

// release is what Helm keeps of a release, as far as it is of use here.
type release struct {
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
	Chart     struct {
		Metadata struct {
			Name       string `json:"name"`
			AppVersion string `json:"appVersion"`
		} `json:"metadata"`
	} `json:"chart"`
	// Config has the values that a person gave.
	Config   map[string]any `json:"config"`
	Manifest string         `json:"manifest"`
}

// charts are Istio's, by the component that they make. A gateway is told from the objects.
var charts = map[string]string{"base": "Base", "istiod": "Pilot", "gateway": "", "istio-ingress": "IngressGateways", "istio-egress": "EgressGateways",
	"cni": "Cni", "ztunnel": "Ztunnel", "istio-discovery": "Pilot"}

// releasesOf reads the releases of Istio's charts that are deployed.
func releasesOf(ctx context.Context, kube client.Reader) ([]release, error) {
	secrets := &corev1.SecretList{}
	if err := kube.List(ctx, secrets, client.MatchingLabels{"owner": "helm", "status": "deployed"}); err != nil {
		return nil, fmt.Errorf("list Helm's releases: %w", err)
	}
	var found []release
	for _, secret := range secrets.Items {
		one, err := decode(secret.Data["release"])
		if err != nil {
			return nil, fmt.Errorf("read Helm's release in Secret %s/%s: %w", secret.Namespace, secret.Name, err)
		}
		if _, ok := charts[one.Chart.Metadata.Name]; ok && strings.Contains(one.Manifest, manifest.LabelRevision+":") || one.Chart.Metadata.Name == "base" {
			found = append(found, one)
		}
	}
	return found, nil
}

// decode reads the text that Helm stores: JSON, zipped, in base64.
func decode(text []byte) (release, error) {
	var out release
	zipped, err := base64.StdEncoding.DecodeString(string(text))
	if err != nil {
		return out, err
	}
	reader, err := gzip.NewReader(bytes.NewReader(zipped))
	if err != nil {
		return out, err
	}
	return out, json.NewDecoder(reader).Decode(&out)
}

func (r release) revision() string {
	revision, _ := r.Config["revision"].(string)
	return revision
}

// objects reads what the release made, as it is now. CRDs are everybody's.
func (r release) objects(ctx context.Context, kube client.Reader) ([]apply.Object, error) {
	rendered, err := manifest.Parse("the release "+r.Namespace+"/"+r.Name, r.Manifest)
	if err != nil {
		return nil, err
	}
	var found []apply.Object
	for _, object := range rendered {
		if object.GetKind() == "CustomResourceDefinition" {
			continue
		}
		live := &unstructured.Unstructured{}
		live.SetGroupVersionKind(object.GroupVersionKind())
		key := client.ObjectKeyFromObject(object)
		err := kube.Get(ctx, key, live)
		if err != nil && key.Namespace == "" {
			key.Namespace = r.Namespace
			err = kube.Get(ctx, key, live)
		}
		switch {
		case meta.IsNoMatchError(err) || client.IgnoreNotFound(err) == nil && err != nil:
			continue
		case err != nil:
			return nil, fmt.Errorf("read %s: %w", apply.RefOf(object), err)
		}
		if labels := live.GetLabels(); labels[manifest.LabelComponent] == "" {
			live.SetLabels(withComponent(labels, r.component(live)))
		}
		if !apply.Ours(live) {
			found = append(found, live)
		}
	}
	return found, nil
}

func (r release) component(object apply.Object) string {
	if name := charts[r.Chart.Metadata.Name]; name != "" {
		return name
	}
	if strings.Contains(r.Name, "egress") || strings.Contains(object.GetName(), "egress") {
		return egress
	}
	return ingress
}

func withComponent(labels map[string]string, name string) map[string]string {
	if labels == nil {
		labels = map[string]string{}
	}
	labels[manifest.LabelComponent] = name
	return labels
}
