package v1alpha1

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
)

var (
	tagForm      = regexp.MustCompile(`^[\w][\w.-]{0,127}$`)
	revisionForm = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,54}[a-z0-9])?$`)
	gatewayForm  = regexp.MustCompile(`^[a-z0-9.-]{1,254}$`)
	hubForm      = regexp.MustCompile(`^[a-zA-Z0-9][-a-zA-Z0-9_.:/]*$`)
)

// Validate checks an effective spec beyond what the schema says. The error joins all that it finds, each with the
// path of its field.
func Validate(spec *IstioOperatorSpec) error {
	var all []error
	report := func(path, format string, args ...any) {
		all = append(all, fmt.Errorf("%s: %s", path, fmt.Sprintf(format, args...)))
	}
	if spec.Hub != "" && !hubForm.MatchString(spec.Hub) {
		report("spec.hub", "%q is not an image repository", spec.Hub)
	}
	if spec.Tag != nil && spec.Tag.String() != "" && !tagForm.MatchString(spec.Tag.String()) {
		report("spec.tag", "%q is not an image tag", spec.Tag.String())
	}
	if spec.Revision != "" && !revisionForm.MatchString(spec.Revision) {
		report("spec.revision", "%q must be lower-case letters, digits and dashes, at most 56", spec.Revision)
	}
	if spec.Components != nil {
		validateGateways("spec.components.ingressGateways", spec.Components.IngressGateways, report)
		validateGateways("spec.components.egressGateways", spec.Components.EgressGateways, report)
	}
	validateLifecycle(spec.Lifecycle, report)
	validateValues(spec, report)
	validateAddons(spec, report)
	return errors.Join(all...)
}

type reporter func(path, format string, args ...any)

func validateGateways(path string, gateways []GatewaySpec, report reporter) {
	for i, gateway := range gateways {
		if !gatewayForm.MatchString(gateway.Name) {
			report(fmt.Sprintf("%s[%d].name", path, i), "%q must be 1 to 254 lower-case letters, digits, dots and dashes", gateway.Name)
		}
		if gateway.K8s == nil || gateway.K8s.Service == nil {
			continue
		}
		for j, port := range gateway.K8s.Service.Ports {
			if port.TargetPort.IntValue() == 0 && port.TargetPort.StrVal == "" && port.Port < 1024 {
				report(fmt.Sprintf("%s.[name:%s].k8s.service.ports[%d].targetPort", path, gateway.Name, j),
					"port %d has no targetPort, and a gateway cannot listen below 1024 as it does not run as root: set one such as %d", port.Port, port.Port+8000)
			}
		}
	}
}

func validateLifecycle(lifecycle *LifecycleSpec, report reporter) {
	if lifecycle == nil {
		return
	}
	if lifecycle.Drift != nil {
		for i, rule := range lifecycle.Drift.Ignore {
			for j, path := range rule.Paths {
				if !strings.HasPrefix(path, "/") || path == "/" {
					report(fmt.Sprintf("spec.lifecycle.drift.ignore[%d].paths[%d]", i, j), "%q must be a JSON pointer such as /spec/replicas", path)
				}
			}
		}
	}
	if lifecycle.Rollback != nil && lifecycle.Rollback.Timeout.Duration <= 0 {
		report("spec.lifecycle.rollback.timeout", "must be a time such as 5m")
	}
}

// validateValues checks the values that would make every sidecar fail to start if they were wrong.
func validateValues(spec *IstioOperatorSpec, report reporter) {
	if spec.Values == nil || len(spec.Values.Raw) == 0 {
		return
	}
	var values struct {
		Global struct {
			Proxy struct {
				IncludeIPRanges any `json:"includeIPRanges"`
				ExcludeIPRanges any `json:"excludeIPRanges"`
			} `json:"proxy"`
		} `json:"global"`
	}
	if err := json.Unmarshal(spec.Values.Raw, &values); err != nil {
		report("spec.values", "%v", err)
		return
	}
	checkRanges("spec.values.global.proxy.includeIPRanges", values.Global.Proxy.IncludeIPRanges, report)
	checkRanges("spec.values.global.proxy.excludeIPRanges", values.Global.Proxy.ExcludeIPRanges, report)
}

func checkRanges(path string, value any, report reporter) {
	text, ok := value.(string)
	if !ok {
		if value != nil {
			report(path, "must be a string: a list of CIDRs with commas between, or *")
		}
		return
	}
	if text == "" || text == "*" {
		return
	}
	for _, cidr := range strings.Split(text, ",") {
		if _, err := netip.ParsePrefix(strings.TrimSpace(cidr)); err != nil {
			report(path, "%q is not a CIDR such as 10.0.0.0/8 (and * stands alone)", cidr)
		}
	}
}

func validateAddons(spec *IstioOperatorSpec, report reporter) {
	if spec.AddonComponents == nil || len(spec.AddonComponents.Raw) == 0 {
		return
	}
	var addons map[string]struct {
		Enabled bool `json:"enabled"`
	}
	if err := json.Unmarshal(spec.AddonComponents.Raw, &addons); err != nil {
		report("spec.addonComponents", "%v", err)
		return
	}
	for name, addon := range addons {
		if addon.Enabled {
			report("spec.addonComponents."+name+".enabled", "addons are not installed by an IstioOperator any more; install %s by its own means", name)
		}
	}
}
