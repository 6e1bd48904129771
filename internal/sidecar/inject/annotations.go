package inject

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	meshapi "istio.io/api/mesh/v1alpha1"
	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/yaml"
)

// checks say what is wrong with an annotation's value; nil is nothing. A pod with a value that cannot be meant is refused: with a proxy
// that was made by a guess it would run, and not as its owner thinks.
var checks = map[string]func(string) error{
	"sidecar.istio.io/interceptionMode":  oneOf("REDIRECT", "TPROXY", "NONE"),
	keyImageType:                         oneOf("default", "debug", "distroless"),
	keyNative:                            boolean,
	rewriteAnnotation:                    boolean,
	mergeAnnotation:                      boolean,
	"sidecar.istio.io/capNetBindService": boolean,
	"sidecar.istio.io/statsCompression":  compression,

	"sidecar.istio.io/proxyCPU":         quantity,
	"sidecar.istio.io/proxyCPULimit":    quantity,
	"sidecar.istio.io/proxyMemory":      quantity,
	"sidecar.istio.io/proxyMemoryLimit": quantity,

	keyProxy:                                 proxyConfig,
	"sidecar.istio.io/userVolume":            mapping,
	"sidecar.istio.io/userVolumeMount":       mapping,
	"sidecar.istio.io/statsHistogramBuckets": buckets,
	"sidecar.istio.io/statsHistogramBins":    wholeNumber,
	"sidecar.istio.io/statsFlushInterval":    duration,
	"sidecar.istio.io/statsEvictionInterval": duration,

	statusPortAnnotation: port, // 0 is none
	"readiness.status.sidecar.istio.io/initialDelaySeconds": wholeNumber,
	"readiness.status.sidecar.istio.io/periodSeconds":       wholeNumber,
	"readiness.status.sidecar.istio.io/failureThreshold":    wholeNumber,

	"traffic.sidecar.istio.io/includeOutboundIPRanges": listOf(prefix, "*"),
	"traffic.sidecar.istio.io/excludeOutboundIPRanges": listOf(prefix),
	"traffic.sidecar.istio.io/includeOutboundPorts":    listOf(port, "*"),
	"traffic.sidecar.istio.io/excludeOutboundPorts":    listOf(port),
	"traffic.sidecar.istio.io/includeInboundPorts":     listOf(port, "*"),
	"traffic.sidecar.istio.io/excludeInboundPorts":     listOf(port),
}

// checkAnnotations looks at all that have a check; the error names the first by the alphabet that is wrong.
func checkAnnotations(annotations map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(annotations)) {
		check, ok := checks[name]
		if !ok {
			continue
		}
		if err := check(annotations[name]); err != nil {
			return fmt.Errorf("annotation %s is %q: %w", name, annotations[name], err)
		}
	}
	return nil
}

func oneOf(values ...string) func(string) error {
	return func(text string) error {
		if !slices.Contains(values, text) {
			return fmt.Errorf("use one of %s", strings.Join(values, ", "))
		}
		return nil
	}
}

// isTrue reads an annotation that switches something on; one that is not there does not.
func isTrue(text string) bool {
	on, _ := strconv.ParseBool(text)
	return on
}

func boolean(text string) error {
	if _, err := strconv.ParseBool(text); err != nil {
		return fmt.Errorf("use true or false")
	}
	return nil
}

// compression is a method, or whether there is any.
func compression(text string) error {
	if boolean(text) == nil {
		return nil
	}
	return oneOf("brotli", "gzip", "zstd", "true", "false")(text)
}

func wholeNumber(text string) error {
	if _, err := strconv.ParseUint(text, 10, 31); err != nil {
		return fmt.Errorf("use a whole number")
	}
	return nil
}

func port(text string) error {
	if _, err := strconv.ParseUint(text, 10, 16); err != nil {
		return fmt.Errorf("%q is no port; use numbers up to 65535", text)
	}
	return nil
}

func prefix(text string) error {
	if _, err := netip.ParsePrefix(text); err == nil {
		return nil
	}
	if _, err := netip.ParseAddr(text); err != nil {
		return fmt.Errorf("%q is no range of addresses; use ones such as 10.0.0.0/8", text)
	}
	return nil
}

// listOf checks each item; the whole may be one of some words, or empty.
func listOf(item func(string) error, words ...string) func(string) error {
	return func(text string) error {
		if slices.Contains(words, strings.TrimSpace(text)) {
			return nil
		}
		for _, one := range strings.Split(text, ",") {
			if one = strings.TrimSpace(one); one == "" {
				continue
			}
			if err := item(one); err != nil {
				return err
			}
		}
		return nil
	}
}

func duration(text string) error {
	if _, err := time.ParseDuration(text); err != nil {
		return fmt.Errorf("use a duration such as 10s")
	}
	return nil
}

func quantity(text string) error {
	if _, err := resource.ParseQuantity(text); err != nil {
		return fmt.Errorf("use a quantity such as 100m or 128Mi")
	}
	return nil
}

func mapping(text string) error {
	var m map[string]any
	if err := yaml.Unmarshal([]byte(text), &m); err != nil {
		return fmt.Errorf("it is to be a mapping in YAML or JSON: %w", err)
	}
	return nil
}

// proxyConfig is what the agent reads: what it cannot, it would not start with.
func proxyConfig(text string) error {
	object, err := yaml.YAMLToJSON([]byte(text))
	if err == nil {
		err = (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(object, &meshapi.ProxyConfig{})
	}
	if err != nil {
		return fmt.Errorf("it is to be a ProxyConfig: %w", err)
	}
	return nil
}

func buckets(text string) error {
	var m map[string][]float64
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		return fmt.Errorf("use JSON such as {\"istiocustom\":[1,10,100]}: %w", err)
	}
	return nil
}
