package lifecycle

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// profilesLabel is on ConfigMaps whose entries are profiles: NAME or NAME.yaml, each an IstioOperator.
const profilesLabel = "install.operator.istio.io/profiles"

// Profiles reads the user's own profiles of a namespace.
func (i Installer) Profiles(ctx context.Context, namespace string) (map[string][]byte, error) {
	list := &corev1.ConfigMapList{}
	if err := i.Cluster.Client.List(ctx, list, client.InNamespace(namespace), client.MatchingLabels{profilesLabel: "true"}); err != nil {
		return nil, fmt.Errorf("list profiles: %w", err)
	}
	profiles := map[string][]byte{}
	for _, configMap := range list.Items {
		for key, text := range configMap.Data {
			profiles[strings.TrimSuffix(key, ".yaml")] = []byte(text)
		}
	}
	return profiles, nil
}
