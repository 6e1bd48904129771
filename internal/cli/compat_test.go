package cli

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// istioctl's flags, by command, as its reference lists them: https://istio.io/latest/docs/reference/commands/istioctl/ and,
// for what it dropped since, that of 1.22.
var istioctl = map[string]string{
	"":                      "kubeconfig context namespace istioNamespace as as-uid as-group kubeclient-timeout vklog",
	"operator init":         "filename hub tag imagePullSecrets operatorNamespace watchedNamespaces charts manifests revision dry-run",
	"operator dump":         "hub tag imagePullSecrets operatorNamespace watchedNamespaces charts manifests output",
	"operator remove":       "skip-confirmation force operatorNamespace revision purge dry-run",
	"install":               "filename set manifests charts revision readiness-timeout skip-confirmation force verify dry-run",
	"upgrade":               "filename set manifests charts revision readiness-timeout skip-confirmation force verify dry-run",
	"uninstall":             "revision filename purge set manifests verbose force skip-confirmation dry-run",
	"manifest generate":     "filename set manifests charts revision force component output cluster-specific",
	"manifest diff":         "directory select ignore rename verbose",
	"manifest install":      "filename set manifests charts revision readiness-timeout skip-confirmation force verify dry-run",
	"profile list":          "manifests charts",
	"profile dump":          "filename config-path output manifests charts",
	"profile diff":          "manifests charts",
	"verify-install":        "filename manifests revision",
	"tag set":               "revision overwrite skip-confirmation webhook-name auto-inject-namespaces manifests",
	"tag generate":          "revision overwrite webhook-name auto-inject-namespaces manifests",
	"tag list":              "output",
	"tag remove":            "skip-confirmation",
	"x precheck":            "skip-controlplane from-version output-threshold output revision",
	"analyze":               "use-kube all-namespaces recursive suppress list-analyzers output failure-threshold output-threshold meshConfigFile timeout ignore-unknown remote-contexts analyzer revision color verbose",
	"kube-inject":           "filename output meshConfigFile injectConfigFile valuesFile operatorFileName meshConfigMapName injectConfigMapName webhookConfig revision",
	"proxy-status":          "file proxy-admin-port output verbosity revision",
	"proxy-config cluster":  "fqdn port direction subset output file proxy-admin-port",
	"proxy-config listener": "address port type output file proxy-admin-port",
	"proxy-config route":    "name output file proxy-admin-port",
	"proxy-config endpoint": "address port cluster status output file proxy-admin-port",
	"proxy-config secret":   "output file proxy-admin-port",
	"proxy-config all":      "fqdn port direction subset address type name output file proxy-admin-port verbose",
	"proxy-config log":      "level reset output proxy-admin-port",
	"validate":              "filename referential",
	"version":               "remote output short revision",
	"x authz check":         "file proxy-admin-port",
	"x wait":                "for revision threshold timeout",
	"dashboard":             "address port browser",
	"dashboard proxy":       "selector ui-port",
}

// TestFlags: what istioctl takes is taken, but for the flags that docs/operator.md says are not there.
func TestFlags(t *testing.T) {
	text, err := os.ReadFile("../../docs/operator.md")
	if err != nil {
		t.Fatal(err)
	}
	_, list, ok := strings.Cut(string(text), "\n## Flags of istioctl that are not there\n")
	if !ok {
		t.Fatal("docs/operator.md has no list of missing flags")
	}
	for path, flags := range istioctl {
		command := find(t, path)
		var missing []string
		for _, flag := range strings.Fields(flags) {
			if command.Flags().Lookup(flag) == nil && command.InheritedFlags().Lookup(flag) == nil && command.PersistentFlags().Lookup(flag) == nil {
				missing = append(missing, "--"+flag)
			}
		}
		said := missingOf(list, path)
		if !slices.Equal(missing, said) {
			t.Errorf("slipway %s lacks %v; docs/operator.md says %v", path, missing, said)
		}
	}
}

func find(t *testing.T, path string) *cobra.Command {
	t.Helper()
	command, rest, err := Root().Find(strings.Fields(path))
	if err != nil || len(rest) > 0 {
		t.Fatalf("there is no slipway %s: %v", path, err)
	}
	return command
}

// missingOf reads a line such as "- `analyze`: --color, --verbose".
func missingOf(list, path string) []string {
	if path == "" {
		path = "slipway"
	}
	for _, line := range strings.Split(list, "\n") {
		name, flags, _ := strings.Cut(strings.TrimPrefix(line, "- "), ": ")
		if name == "`"+path+"`" {
			return strings.Split(flags, ", ")
		}
	}
	return nil
}
