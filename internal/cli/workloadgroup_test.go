package cli

import (
	"strings"
	"testing"

	group "istio.io/client-go/pkg/apis/networking/v1"
	"sigs.k8s.io/yaml"
)

func TestWorkloadGroupCreate(t *testing.T) {
	out, err := slipway(t, "x", "workload", "group", "create", "--name", "vm", "-n", "shop", "--labels", "app=vm,version=v1", "--annotations", "owner=us", "--ports", "http=8080,grpc=9090", "--serviceAccount", "machines")
	if err != nil {
		t.Fatal(err)
	}
	var got group.WorkloadGroup
	if err := yaml.UnmarshalStrict([]byte(out), &got); err != nil {
		t.Fatalf("%v:\n%s", err, out)
	}
	spec := &got.Spec
	if got.Name != "vm" || got.Namespace != "shop" || got.Kind != "WorkloadGroup" || spec.Metadata.Labels["version"] != "v1" || spec.Metadata.Annotations["owner"] != "us" ||
		spec.Template.Ports["http"] != 8080 || spec.Template.Ports["grpc"] != 9090 || spec.Template.ServiceAccount != "machines" {
		t.Errorf("printed\n%s", out)
	}
	for args, want := range map[string]string{
		"":                              "--name is required",
		"--name vm --ports http=eighty": "--ports http=eighty",
		"--name vm --ports http=70000":  "--ports http=70000",
	} {
		if _, err := slipway(t, append([]string{"x", "workload", "group", "create", "-n", "shop"}, strings.Fields(args)...)...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, not %s", args, err, want)
		}
	}
}
