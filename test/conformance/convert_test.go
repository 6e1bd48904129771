package conformance

import (
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/slipway-mesh/slipway/internal/convert"
)

// routeRules are the two rules that Istio's announcement of today's API converts by hand.
const routeRules = `apiVersion: config.istio.io/v1alpha2
kind: RouteRule
metadata: {name: reviews-default}
spec:
  destination: {name: reviews}
  precedence: 1
  route: [{labels: {version: v1}}]
---
apiVersion: config.istio.io/v1alpha2
kind: RouteRule
metadata: {name: reviews-test-v2}
spec:
  destination: {name: reviews}
  precedence: 2
  match: {request: {headers: {cookie: {regex: "^(.*?;)?(user=jason)(;.*)?$"}}}}
  route: [{labels: {version: v2}}]
`

// converted is what old documents become, as YAML.
func converted(old string) string {
	objects, err := convert.Parse([]byte(old))
	if err != nil {
		panic(err)
	}
	var out strings.Builder
	made, _ := convert.Convert(objects)
	for _, object := range made {
		text, err := yaml.Marshal(object)
		if err != nil {
			panic(err)
		}
		out.WriteString("---\n" + string(text))
	}
	return out.String()
}
