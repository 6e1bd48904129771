package kubetest

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// TestServer: what is applied is there, what is deleted is gone; and the log says how long the start took.
func TestServer(t *testing.T) {
	began := time.Now()
	server := Start(t)
	t.Logf("started in %.1f s", time.Since(began).Seconds())
	const text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: one}\ndata: {a: b}\n"
	server.Apply(t, text)
	var object corev1.ConfigMap
	key := client.ObjectKey{Namespace: "default", Name: "one"}
	if err := server.Client.Get(t.Context(), key, &object); err != nil || object.Data["a"] != "b" {
		t.Errorf("got %v, %v", object.Data, err)
	}
	server.Delete(t, text)
	if err := server.Client.Get(t.Context(), key, &object); client.IgnoreNotFound(err) != nil || err == nil {
		t.Errorf("after deletion: %v", err)
	}
}
