package conformance

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/slipway-mesh/slipway/test/kubetest"
)

// tooLarge is a regular expression that the API and Go take and that is too large for Envoy.
const tooLarge = `([a-c]x?\p{L}[0-9]?\p{P}[d-f]?[g-i]?){1000}`

// TestRejection: what Envoy itself rejects stops nothing else, says whose it is, and is over when it is mended.
func TestRejection(t *testing.T) {
	m := start(t)
	rule := func(name, rules string) string {
		return strings.Replace(strings.Replace(virtualService(rules), "name: case", "name: "+name, 1), "reviews.test]", name+".test]", 1)
	}
	answers := func(host string, status int) func() error {
		return func() error {
			response, _, err := m.get(host, "/")
			return orErr(err, expect(response != nil && response.StatusCode == status, "%s answers %v", host, response))
		}
	}
	m.kube.Apply(t, rule("good", "- directResponse: {status: 202}")+"---\n"+rule("bad", "- directResponse: {status: 203}"))
	kubetest.Eventually(t, 20*time.Second, answers("good.test", 202))
	kubetest.Eventually(t, 20*time.Second, answers("bad.test", 203))
	m.kube.Apply(t, rule("bad", "- match: [{uri: {regex: '"+tooLarge+"'}}]\n  directResponse: {status: 418}\n- directResponse: {status: 204}")+"---\n"+rule("good", "- directResponse: {status: 205}"))
	kubetest.Eventually(t, 20*time.Second, answers("good.test", 205))
	kubetest.Eventually(t, 20*time.Second, func() error {
		list, err := m.rejected()
		return orErr(err, expect(len(list) == 1 && strings.HasSuffix(list[0].Owner, "/virtual-service/bad") && list[0].Error != "", "rejected: %+v", list))
	})
	told := func(status, reason string) func() error {
		return func() error {
			object := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "networking.istio.io/v1", "kind": "VirtualService"}}
			if err := m.kube.Client.Get(t.Context(), client.ObjectKey{Namespace: "default", Name: "bad"}, object); err != nil {
				return err
			}
			conditions, _, _ := unstructured.NestedSlice(object.Object, "status", "conditions")
			if text := fmt.Sprint(conditions); len(conditions) != 1 || !strings.Contains(text, "status:"+status) || !strings.Contains(text, "reason:"+reason) {
				return fmt.Errorf("conditions: %s", text)
			}
			events := &eventsv1.EventList{}
			if err := m.kube.Client.List(t.Context(), events); err != nil {
				return err
			}
			for _, event := range events.Items {
				if event.Reason == reason && event.Regarding.Name == "bad" && event.Regarding.UID == object.GetUID() {
					return nil
				}
			}
			return fmt.Errorf("no event says %s", reason)
		}
	}
	kubetest.Eventually(t, 10*time.Second, told("False", "Rejected"))
	if err := answers("bad.test", 203)(); err != nil {
		t.Errorf("the last good rule does not stand: %v", err)
	}
	m.kube.Apply(t, rule("good", "- directResponse: {status: 206}")) // changes go on
	kubetest.Eventually(t, 20*time.Second, answers("good.test", 206))
	m.kube.Apply(t, rule("bad", "- directResponse: {status: 207}"))
	kubetest.Eventually(t, 20*time.Second, answers("bad.test", 207))
	kubetest.Eventually(t, 20*time.Second, func() error {
		list, err := m.rejected()
		return orErr(err, expect(len(list) == 0, "rejected: %+v", list))
	})
	kubetest.Eventually(t, 10*time.Second, told("True", "Accepted"))
}

// TestProgress: where it is asked for, an object's status says how many proxies hold what it makes, and since when all do.
func TestProgress(t *testing.T) {
	t.Setenv("PILOT_ENABLE_STATUS", "true")
	m := start(t)
	says := func(want string) func() error {
		return func() error {
			object := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "networking.istio.io/v1", "kind": "VirtualService"}}
			if err := m.kube.Client.Get(t.Context(), client.ObjectKey{Namespace: "default", Name: "case"}, object); err != nil {
				return err
			}
			conditions, _, _ := unstructured.NestedSlice(object.Object, "status", "conditions")
			text := fmt.Sprint(conditions)
			return expect(len(conditions) == 1 && strings.Contains(text, want) && strings.Contains(text, fmt.Sprintf("observedGeneration:%d", object.GetGeneration())), "generation %d: %s", object.GetGeneration(), text)
		}
	}
	m.kube.Apply(t, virtualService("- directResponse: {status: 202}"))
	kubetest.Eventually(t, 20*time.Second, says("message:1 of 1 proxies hold it"))
	m.kube.Apply(t, virtualService("- directResponse: {status: 203}"))
	kubetest.Eventually(t, 20*time.Second, says("message:1 of 1 proxies hold it"))
	m.kube.Apply(t, virtualService("- match: [{uri: {regex: '"+tooLarge+"'}}]\n  directResponse: {status: 418}"))
	kubetest.Eventually(t, 20*time.Second, says("reason:Rejected"))
}

// rejected is what the control plane says that proxies do not take.
func (m *mesh) rejected() ([]struct{ Name, Owner, Error string }, error) {
	response, err := http.Get(m.debug + "/debug/rejections")
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	var list []struct{ Name, Owner, Error string }
	if err := json.NewDecoder(response.Body).Decode(&list); err != nil {
		return nil, fmt.Errorf("read /debug/rejections: %w", err)
	}
	return list, nil
}
