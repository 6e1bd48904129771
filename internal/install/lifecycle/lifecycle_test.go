package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/yaml"

	"github.com/slipway-mesh/slipway/internal/install/apply"
	"github.com/slipway-mesh/slipway/internal/install/manifest"
	"github.com/slipway-mesh/slipway/test/kubetest"
)

// The tests here run on a real API server. There is no kubelet, so ready plays its part: it says that Deployments are
// ready.

var testBuild = Build{Hub: "docker.io/slipway", Tag: "1.0.0", Version: "1.0.0"}

var ctx = context.Background()

func target(t *testing.T, owner Owner, spec string) *Target {
	t.Helper()
	var m map[string]any
	if err := yaml.Unmarshal([]byte(spec), &m); err != nil {
		t.Fatal(err)
	}
	made, err := Render(testBuild, owner, m)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// ready plays the part of kubelet and control plane.
func ready(t *testing.T, kube client.Client) {
	t.Helper()
	if err := kubetest.Play(ctx, kube, true); err != nil {
		t.Fatal(err)
	}
}

// converge takes steps until all is healthy, and returns what was changed on the way.
func converge(t *testing.T, kube client.Client, in Installer, target *Target) apply.ChangeSet {
	t.Helper()
	var written apply.ChangeSet
	for range 30 {
		report, err := in.Install(ctx, target)
		if err != nil {
			t.Fatal(err)
		}
		for _, change := range report.Changes {
			if change.Wrote() || change.Action == apply.Drifted {
				written = append(written, change)
			}
		}
		if report.Healthy() {
			return written
		}
		ready(t, kube)
	}
	t.Fatal("never healthy")
	return nil
}

func remove(t *testing.T, in Installer, owner Owner) {
	t.Helper()
	for range 30 {
		remaining, err := in.Remove(ctx, owner)
		if err != nil {
			t.Fatal(err)
		}
		if remaining == "" {
			return
		}
	}
	t.Fatal("never gone")
}

// on gives an installer a client of which every call goes through intercept.
func on(t *testing.T, server *kubetest.Server, funcs interceptor.Funcs) Installer {
	t.Helper()
	kube, err := client.NewWithWatch(server.Config, client.Options{Scheme: server.Client.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	return Installer{Cluster: apply.Cluster{Client: interceptor.NewClient(kube, funcs)}}
}

// writes calls before at each write.
func writes(before func() error) interceptor.Funcs {
	guard := func(do func() error) error {
		if err := before(); err != nil {
			return err
		}
		return do()
	}
	return interceptor.Funcs{
		Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
			return guard(func() error { return c.Create(ctx, o, opts...) })
		},
		Update: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.UpdateOption) error {
			return guard(func() error { return c.Update(ctx, o, opts...) })
		},
		Patch: func(ctx context.Context, c client.WithWatch, o client.Object, p client.Patch, opts ...client.PatchOption) error {
			return guard(func() error { return c.Patch(ctx, o, p, opts...) })
		},
		Apply: func(ctx context.Context, c client.WithWatch, o runtime.ApplyConfiguration, opts ...client.ApplyOption) error {
			return guard(func() error { return c.Apply(ctx, o, opts...) })
		},
		Delete: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.DeleteOption) error {
			return guard(func() error { return c.Delete(ctx, o, opts...) })
		},
		DeleteAllOf: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.DeleteAllOfOption) error {
			return guard(func() error { return c.DeleteAllOf(ctx, o, opts...) })
		},
	}
}

func named(changes apply.ChangeSet) []string {
	var lines []string
	for _, change := range changes {
		if change.Wrote() {
			line := string(change.Action) + " " + change.Ref.String()
			for _, field := range change.Fields {
				line += " " + field.Path
			}
			lines = append(lines, line)
		}
	}
	sort.Strings(lines)
	return lines
}

var mesh = Owner{Namespace: "istio-system", Name: "mesh"}

// resource makes the IstioOperator that stands for an owner: an owner without one is not alive.
func resource(t *testing.T, kube client.Client, owner Owner) {
	t.Helper()
	object := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "install.istio.io/v1alpha1", "kind": "IstioOperator"}}
	object.SetNamespace(owner.Namespace)
	object.SetName(owner.Name)
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: owner.Namespace}}
	if err := kube.Create(ctx, namespace); client.IgnoreAlreadyExists(err) != nil {
		t.Fatal(err)
	}
	kubetest.Eventually(t, 10e9, func() error { return client.IgnoreAlreadyExists(kube.Create(ctx, object)) })
	t.Cleanup(func() { _ = kube.Delete(ctx, object) })
}

func start(t *testing.T) *kubetest.Server {
	t.Helper()
	server := kubetest.Start(t)
	operator, err := manifest.CRDs()
	if err != nil {
		t.Fatal(err)
	}
	for _, object := range operator {
		if object.GetName() == "istiooperators.install.istio.io" {
			if err := server.Client.Create(ctx, object); err != nil {
				t.Fatal(err)
			}
		}
	}
	resource(t, server.Client, mesh)
	return server
}

func TestLifecycle(t *testing.T) {
	server := start(t)
	for _, test := range []struct {
		name string
		run  func(t *testing.T, server *kubetest.Server)
	}{
		{"a plan equals what is applied then", planEqualsApply},
		{"when settled nothing is written", settledWritesNothing},
		{"drift is corrected, reported or left", driftModes},
		{"owners do not take from each other", owners},
		{"the history goes back", history},
		{"tags", tags},
		{"stale workloads restart in batches", staleWorkloads},
		{"killed at any write it comes to the same end", crashPoints},
	} {
		if !t.Run(test.name, func(t *testing.T) { test.run(t, server) }) {
			t.FailNow()
		}
	}
}

func planEqualsApply(t *testing.T, server *kubetest.Server) {
	in := Installer{Cluster: apply.Cluster{Client: server.Client}}
	for _, spec := range []string{
		"profile: demo",
		"profile: demo\ncomponents: {pilot: {k8s: {replicaCount: 2, env: [{name: A, value: b}]}}}\nmeshConfig: {accessLogFile: ''}",
		"profile: minimal", // prunes both gateways
		"profile: minimal", // nothing
	} {
		target := target(t, mesh, spec)
		plan, err := in.Plan(ctx, target)
		if err != nil || len(plan.Refused) > 0 {
			t.Fatal(err, plan.Refused)
		}
		if diff := cmp.Diff(named(plan.Changes), named(converge(t, server.Client, in, target))); diff != "" {
			t.Errorf("%s: the plan is not what was applied (-plan +applied):\n%s", spec, diff)
		}
	}
	plan, err := in.Plan(ctx, target(t, mesh, "profile: minimal\ncomponents: {pilot: {k8s: {podAnnotations: {a: b}}}}"))
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"Deployment istio-system/istiod"}; !slices.Equal(plan.Restarts, want) {
		t.Errorf("a changed pod template restarts %v", plan.Restarts)
	}
}

func settledWritesNothing(t *testing.T, server *kubetest.Server) {
	var count atomic.Int32
	in := on(t, server, writes(func() error { count.Add(1); return nil }))
	target := target(t, mesh, "profile: demo")
	converge(t, server.Client, in, target)
	for range 2 {
		count.Store(0)
		if _, err := in.Install(ctx, target); err != nil {
			t.Fatal(err)
		}
		if n := count.Load(); n != 0 {
			t.Errorf("%d writes when settled", n)
		}
	}
	// An autoscaler sets the replicas, and the control plane its webhooks: both are theirs.
	patch(t, server.Client, "apps/v1", "Deployment", "istiod", `{"spec":{"replicas":4}}`)
	patch(t, server.Client, "admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration", "istio-sidecar-injector",
		`[{"op":"replace","path":"/webhooks/0/clientConfig/caBundle","value":"YQ=="}]`)
	count.Store(0)
	settledTarget := demoWithHPA(t)
	converge(t, server.Client, in, settledTarget)
	count.Store(0)
	patch(t, server.Client, "apps/v1", "Deployment", "istiod", `{"spec":{"replicas":3}}`)
	ready(t, server.Client)
	if _, err := in.Install(ctx, settledTarget); err != nil {
		t.Fatal(err)
	}
	if n := count.Load(); n != 0 {
		t.Errorf("%d writes after an autoscaler changed the replicas", n)
	}
	scaleBeyond(t, server.Client)
	if report, err := in.Install(ctx, settledTarget); err != nil || !report.Healthy() {
		t.Errorf("not healthy while an autoscaler waits for more than its fewest: %v %+v", err, report)
	}
	patch(t, server.Client, "admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration", "istio-sidecar-injector",
		`[{"op":"remove","path":"/webhooks/0/clientConfig/caBundle"}]`)
	if report, err := in.Install(ctx, settledTarget); err != nil || report.Healthy() {
		t.Errorf("healthy while nobody can be injected: %v", err)
	}
}

// scaleBeyond plays an autoscaler that asks for more of istiod's replicas than the nodes have room for.
func scaleBeyond(t *testing.T, kube client.Client) {
	t.Helper()
	patch(t, kube, "apps/v1", "Deployment", "istiod", `{"spec":{"replicas":5}}`)
	istiod := &appsv1.Deployment{}
	if err := kube.Get(ctx, client.ObjectKey{Namespace: mesh.Namespace, Name: "istiod"}, istiod); err != nil {
		t.Fatal(err)
	}
	istiod.Status = appsv1.DeploymentStatus{ObservedGeneration: istiod.Generation, Replicas: 5, UpdatedReplicas: 5, ReadyReplicas: 3, AvailableReplicas: 3}
	if err := kube.Status().Update(ctx, istiod); err != nil {
		t.Fatal(err)
	}
}

// demoWithHPA is the demo profile with istiod's autoscaler on.
func demoWithHPA(t *testing.T) *Target {
	return target(t, mesh, "profile: demo\nvalues: {pilot: {autoscaleEnabled: true}}")
}

func patch(t *testing.T, kube client.Client, version, kind, name, text string) {
	t.Helper()
	object := &unstructured.Unstructured{Object: map[string]any{"apiVersion": version, "kind": kind}}
	object.SetName(name)
	if !strings.Contains(kind, "Webhook") && !strings.HasPrefix(kind, "Cluster") && kind != "CustomResourceDefinition" {
		object.SetNamespace("istio-system")
	}
	form := client.RawPatch("application/merge-patch+json", []byte(text))
	if strings.HasPrefix(text, "[") {
		form = client.RawPatch("application/json-patch+json", []byte(text))
	}
	if err := kube.Patch(ctx, object, form, client.FieldOwner("somebody")); err != nil {
		t.Fatalf("patch %s %s: %v", kind, name, err)
	}
}

func driftModes(t *testing.T, server *kubetest.Server) {
	in := Installer{Cluster: apply.Cluster{Client: server.Client}}
	spec := "profile: demo\ncomponents: {base: {enabled: false}}\nvalues: {pilot: {autoscaleEnabled: true}}\n"
	correct := target(t, mesh, spec)
	converge(t, server.Client, in, correct)
	// Every object: edited, then deleted. Each comes back, and nothing else is written.
	for _, object := range correct.Objects() {
		ref := apply.RefOf(object)
		patch(t, server.Client, object.GetAPIVersion(), ref.Kind, ref.Name, `{"metadata":{"labels":{"operator.istio.io/component":"edited"}}}`)
		if diff := cmp.Diff([]string{"corrected " + ref.String() + " metadata.labels[operator.istio.io/component]"}, named(converge(t, server.Client, in, correct))); diff != "" {
			t.Errorf("%s edited: %s", ref, diff)
		}
		if err := server.Client.Delete(ctx, object.DeepCopy()); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"corrected " + ref.String()}, named(converge(t, server.Client, in, correct))); diff != "" {
			t.Errorf("%s deleted: %s", ref, diff)
		}
	}
	edit := func() {
		patch(t, server.Client, "v1", "ConfigMap", "istio", `{"data":{"mesh":"edited"}}`)
	}
	for _, c := range []struct{ name, lifecycle, want string }{
		{"warn", "lifecycle: {drift: {mode: Warn}}", "drifted somebody data.mesh"},
		{"not looked at", "lifecycle: {drift: {mode: Ignore}}", ""},
		{"ignored", "lifecycle: {drift: {ignore: [{kind: ConfigMap, name: istio, paths: [/data/mesh]}]}}", ""},
		{"another is ignored", "lifecycle: {drift: {ignore: [{kind: ConfigMap, name: other, paths: [/data/mesh]}]}}", "corrected somebody data.mesh"},
		{"correct", "", "corrected somebody data.mesh"},
	} {
		t.Run(c.name, func(t *testing.T) {
			converge(t, server.Client, in, correct)
			target := target(t, mesh, spec+c.lifecycle)
			edit()
			var got string
			for range 2 { // a second step says the same of what is left, and nothing of what was corrected
				got = ""
				report, err := in.Install(ctx, target)
				if err != nil {
					t.Fatal(err)
				}
				for _, change := range report.Changes {
					if change.Action == apply.Corrected || change.Action == apply.Drifted {
						got += fmt.Sprintf("%s %s %s", change.Action, change.Manager, change.Fields[0].Path)
					}
				}
				if strings.HasPrefix(c.want, "corrected") {
					break
				}
			}
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
	in.Yield = func(ref apply.Ref) bool { return ref.Kind == "ConfigMap" }
	converge(t, server.Client, in, correct)
	edit()
	report, err := in.Install(ctx, correct)
	if err != nil || !strings.Contains(report.Changes.String(), "1 drifted") {
		t.Errorf("an object that is fought for: %s %v", report.Changes, err)
	}
}

func owners(t *testing.T, server *kubetest.Server) {
	in := Installer{Cluster: apply.Cluster{Client: server.Client}}
	converge(t, server.Client, in, target(t, mesh, "profile: default"))
	canary := Owner{Namespace: "istio-system", Name: "canary"}
	resource(t, server.Client, canary)

	report, err := in.Install(ctx, target(t, canary, "profile: default\nrevision: canary"))
	if err != nil {
		t.Fatal(err)
	}
	ready(t, server.Client)
	report, err = in.Install(ctx, target(t, canary, "profile: default\nrevision: canary"))
	if err != nil {
		t.Fatal(err)
	}
	if state := report.Components["IngressGateways"]; !strings.Contains(state.Reason, "belongs to IstioOperator istio-system/mesh") {
		t.Errorf("the gateway of another resource: %+v", state)
	}
	if state := report.Components["Pilot"]; state.Phase != "HEALTHY" {
		t.Errorf("a control plane of its own: %+v", state)
	}
	converge(t, server.Client, in, target(t, canary, "profile: minimal\nrevision: canary"))
	// The base is shared: whoever goes first leaves it to the other.
	remove(t, in, mesh)
	base := &corev1.ServiceAccount{}
	if err := server.Client.Get(ctx, client.ObjectKey{Namespace: "istio-system", Name: "istio-reader-service-account"}, base); err != nil {
		t.Errorf("the base went with one of two owners: %v", err)
	}
	if _, err := in.Install(ctx, target(t, canary, "profile: minimal\nrevision: canary")); err != nil {
		t.Fatal(err)
	}
	remove(t, in, canary)
	if err := server.Client.Get(ctx, client.ObjectKeyFromObject(base), base); client.IgnoreNotFound(err) != nil || err == nil {
		t.Errorf("the base is left after the last owner: %v", err)
	}
	// A resource takes over what the CLI installed, and changes no pod.
	cli := CommandLine("istio-system", "")
	converge(t, server.Client, in, target(t, cli, "profile: default"))
	before := template(t, server.Client)
	converge(t, server.Client, in, target(t, mesh, "profile: default"))
	if diff := cmp.Diff(before, template(t, server.Client)); diff != "" {
		t.Errorf("pods would restart: %s", diff)
	}
	left, err := in.Owners(ctx)
	if err != nil || !slices.Equal(left, []Owner{mesh}) {
		t.Errorf("owners after the take-over: %v %v", left, err)
	}
	// What another installer made is left, unless it is asked for.
	foreignOne := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "istio-system", Name: "istio-canary", Labels: map[string]string{"app.kubernetes.io/managed-by": "Helm"}}}
	if err := server.Client.Create(ctx, foreignOne, client.FieldOwner("helm")); err != nil {
		t.Fatal(err)
	}
	report, err = in.Install(ctx, target(t, canary, "profile: minimal\nrevision: canary"))
	if err != nil || !strings.Contains(report.Components["Pilot"].Reason, "belongs to Helm (spec.lifecycle.adopt") {
		t.Errorf("an object of Helm's: %+v %v", report.Components, err)
	}
	converge(t, server.Client, in, target(t, canary, "profile: minimal\nrevision: canary\nlifecycle: {adopt: true}"))
	remove(t, in, canary)
}

// template is the pod template of every Deployment.
func template(t *testing.T, kube client.Client) map[string]corev1.PodTemplateSpec {
	t.Helper()
	list := &appsv1.DeploymentList{}
	if err := kube.List(ctx, list); err != nil {
		t.Fatal(err)
	}
	templates := map[string]corev1.PodTemplateSpec{}
	for _, d := range list.Items {
		templates[d.Name] = d.Spec.Template
	}
	return templates
}

func history(t *testing.T, server *kubetest.Server) {
	in := Installer{Cluster: apply.Cluster{Client: server.Client}}
	remove(t, in, mesh)
	spec := func(n int) string {
		return fmt.Sprintf("profile: minimal\nlifecycle: {historyLimit: 3}\nvalues: {pilot: {traceSampling: %d}}", n)
	}
	for n := range 5 {
		converge(t, server.Client, in, target(t, mesh, spec(n)))
		converge(t, server.Client, in, target(t, mesh, spec(n)))
	}
	stored, err := in.History(ctx, mesh)
	if err != nil {
		t.Fatal(err)
	}
	var numbers []int
	for _, installation := range stored {
		numbers = append(numbers, installation.Number)
	}
	if !slices.Equal(numbers, []int{3, 4, 5}) {
		t.Fatalf("kept: %v", numbers)
	}
	if !stored[2].Is(target(t, mesh, spec(4))) || stored[1].Is(target(t, mesh, spec(4))) {
		t.Error("Is does not tell installations apart")
	}
	good, err := in.LastGood(ctx, mesh, 3)
	if err != nil {
		t.Fatal(err)
	}
	converge(t, server.Client, in, good.Target)
	plan, err := in.Plan(ctx, target(t, mesh, spec(2)))
	if err != nil || len(plan.Lines()) != 0 {
		t.Errorf("after going back to the third: %v %v", plan.Lines(), err)
	}
	if _, err := in.LastGood(ctx, mesh, 1); err == nil {
		t.Error("a forgotten installation is found")
	}
	remove(t, in, mesh)
	if stored, err := in.History(ctx, mesh); err != nil || len(stored) != 0 {
		t.Errorf("after the removal: %v %v", stored, err)
	}
}

func tags(t *testing.T, server *kubetest.Server) {
	in := Installer{Cluster: apply.Cluster{Client: server.Client}}
	canary := Owner{Namespace: "istio-system", Name: "canary"}
	resource(t, server.Client, canary)
	converge(t, server.Client, in, target(t, mesh, "profile: minimal"))
	second := target(t, canary, "profile: minimal\nrevision: canary")
	for range 3 { // nobody plays the control plane
		if _, err := in.Install(ctx, second); err != nil {
			t.Fatal(err)
		}
	}
	set := func(tag, revision string, overwrite bool) error {
		return in.SetTag(ctx, manifest.TagOptions{Tag: tag, Revision: revision, Namespace: "istio-system"}, overwrite)
	}
	if err := set("prod", "nosuch", false); err == nil {
		t.Error("a tag for a revision that is not there")
	}
	if err := set("prod", "canary", false); err == nil || !strings.Contains(err.Error(), "does not answer yet") {
		t.Errorf("a tag for an injector that does not answer, so that pods would start without a sidecar: %v", err)
	}
	converge(t, server.Client, in, second)
	if err := errors.Join(set("prod", "default", false), set("prod", "canary", true)); err != nil {
		t.Fatal(err)
	}
	if err := set("prod", "default", false); err == nil {
		t.Error("a tag was moved without overwrite")
	}
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: map[string]string{"istio.io/rev": "prod"}}}
	if err := server.Client.Create(ctx, namespace); err != nil {
		t.Fatal(err)
	}
	list, err := in.Tags(ctx)
	if err != nil || len(list) != 1 || list[0].Revision != "canary" || !slices.Equal(list[0].Namespaces, []string{"shop"}) {
		t.Fatalf("tags: %+v %v", list, err)
	}
	// The default tag takes the other injector out of use, and the operator does not undo it.
	if err := set("default", "canary", false); err != nil {
		t.Fatal(err)
	}
	if written := converge(t, server.Client, in, target(t, mesh, "profile: minimal")); len(written) != 0 {
		t.Errorf("the operator undid the tag: %v", named(written))
	}
	if err := errors.Join(in.RemoveTag(ctx, "default"), in.RemoveTag(ctx, "prod")); err != nil {
		t.Fatal(err)
	}
	if written := converge(t, server.Client, in, target(t, mesh, "profile: minimal")); len(written) != 0 {
		t.Errorf("the injector is not what it was: %v", named(written))
	}
	remove(t, in, canary)
	remove(t, in, mesh)
}

var errKilled = errors.New("killed")

// crashPoints kills the installer at each write of an installation, of an upgrade with an edit and of a removal, and starts
// it again.
func crashPoints(t *testing.T, server *kubetest.Server) {
	clean := Installer{Cluster: apply.Cluster{Client: server.Client}}
	const noBase = "components: {base: {enabled: false}}\n" // the server takes seconds for the CRDs each time
	first := target(t, mesh, noBase+"profile: demo")
	second, err := Render(Build{Hub: testBuild.Hub, Tag: "1.1.0", Version: "1.1.0"}, mesh, target(t, mesh, noBase+"profile: minimal\nmeshConfig: {accessLogFile: /dev/stderr}").Spec)
	if err != nil {
		t.Fatal(err)
	}
	converge(t, server.Client, clean, first)
	wantFirst := owned(t, server.Client)
	converge(t, server.Client, clean, second)
	wantSecond := owned(t, server.Client)
	remove(t, clean, mesh)
	wantNone := owned(t, server.Client)
	points := 0
	for n := 1; ; n++ {
		killed := 0
		for _, phase := range []struct {
			want map[string]string
			do   func(in Installer) (done bool, err error)
		}{
			{wantFirst, installStep(t, server.Client, first)},
			{wantSecond, installStep(t, server.Client, second)},
			{wantNone, func(in Installer) (bool, error) {
				remaining, err := in.Remove(ctx, mesh)
				return remaining == "", err
			}},
		} {
			var count int
			dying := on(t, server, writes(func() error {
				if count++; count >= n {
					return errKilled
				}
				return nil
			}))
			if died(t, dying, phase.do) {
				killed++
				points++
			}
			for done := false; !done; {
				var err error
				if done, err = phase.do(clean); err != nil {
					t.Fatalf("after a kill at write %d: %v", n, err)
				}
			}
			if diff := cmp.Diff(phase.want, owned(t, server.Client)); diff != "" {
				t.Fatalf("after a kill at write %d:\n%s", n, diff)
			}
		}
		if killed == 0 {
			break
		}
	}
	t.Logf("%d crash points", points)
	if points < 50 {
		t.Errorf("only %d crash points", points)
	}
}

func installStep(t *testing.T, kube client.Client, target *Target) func(in Installer) (bool, error) {
	return func(in Installer) (bool, error) {
		report, err := in.Install(ctx, target)
		ready(t, kube)
		// An object that cannot be applied is in the report, as the installer goes on with the others.
		for _, component := range report.Components {
			if strings.Contains(component.Reason, errKilled.Error()) {
				return false, errKilled
			}
		}
		return err == nil && report.Healthy(), err
	}
}

// died takes steps until one fails, which is the kill, or all is done.
func died(t *testing.T, in Installer, do func(in Installer) (bool, error)) bool {
	t.Helper()
	for range 30 {
		done, err := do(in)
		if errors.Is(err, errKilled) {
			return true
		}
		if err != nil {
			t.Fatal(err)
		}
		if done {
			return false
		}
	}
	t.Fatal("neither killed nor done")
	return false
}

// owned is the content of everything that the owner installed, and of its inventory; CRDs, which stay, are left out.
func owned(t *testing.T, kube client.Client) map[string]string {
	t.Helper()
	found := map[string]string{}
	for _, kind := range []string{"v1 ServiceAccount", "v1 Service", "v1 ConfigMap", "apps/v1 Deployment", "autoscaling/v2 HorizontalPodAutoscaler", "policy/v1 PodDisruptionBudget",
		"rbac.authorization.k8s.io/v1 Role", "rbac.authorization.k8s.io/v1 RoleBinding", "rbac.authorization.k8s.io/v1 ClusterRole", "rbac.authorization.k8s.io/v1 ClusterRoleBinding",
		"admissionregistration.k8s.io/v1 MutatingWebhookConfiguration", "admissionregistration.k8s.io/v1 ValidatingWebhookConfiguration"} {
		version, name, _ := strings.Cut(kind, " ")
		list := &unstructured.UnstructuredList{Object: map[string]any{"apiVersion": version, "kind": name + "List"}}
		if err := kube.List(ctx, list); err != nil {
			t.Fatal(err)
		}
		for k := range list.Items {
			object := &list.Items[k]
			if object.GetLabels()[manifest.LabelOwner] == "" {
				continue
			}
			content := maps.Clone(object.Object)
			delete(content, "metadata")
			delete(content, "status")
			if name == "Service" {
				delete(content, "spec") // its address is another each time
			}
			found[kind+" "+object.GetName()] = apply.Hash(&unstructured.Unstructured{Object: content})
		}
	}
	inventory, err := apply.Cluster{Client: kube}.LoadInventory(ctx, mesh.Namespace, mesh.inventoryName())
	if err != nil {
		t.Fatal(err)
	}
	for ref := range inventory {
		found["inventory "+ref.String()] = "listed"
	}
	return found
}
