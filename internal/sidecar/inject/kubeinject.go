package inject

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// templatePaths are where each kind of workload has its pod template.
var templatePaths = map[string][]string{
	"Deployment": {"spec", "template"}, "DaemonSet": {"spec", "template"}, "ReplicaSet": {"spec", "template"}, "StatefulSet": {"spec", "template"},
	"ReplicationController": {"spec", "template"}, "Job": {"spec", "template"}, "DeploymentConfig": {"spec", "template"},
	"CronJob": {"spec", "jobTemplate", "spec", "template"}, "Pod": {},
}

// Stream injects every workload in a stream of YAML documents. Documents of other kinds pass as they are, byte for byte.
// like has what all requests have in common. What is not injected is told on warnings.
func Stream(config *Config, like Request, in io.Reader, out, warnings io.Writer) error {
	text, err := io.ReadAll(in)
	if err != nil {
		return err
	}
	for _, document := range strings.Split("\n"+string(text), "\n---") {
		if strings.TrimSpace(document) == "" {
			continue
		}
		injected, err := injectDocument(config, like, strings.TrimPrefix(document, "\n"), warnings)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(out, "%s\n---\n", strings.TrimRight(injected, "\n")); err != nil {
			return err
		}
	}
	return nil
}

func injectDocument(config *Config, like Request, document string, warnings io.Writer) (string, error) {
	var object map[string]any
	if err := yaml.Unmarshal([]byte(document), &object); err != nil {
		return "", fmt.Errorf("read the input: %w", err)
	}
	changed, err := injectObject(config, like, object, warnings)
	if err != nil || !changed {
		return document, err
	}
	text, err := yaml.Marshal(object)
	return string(text), err
}

// injectObject changes a workload, or the workloads in a List, in place.
func injectObject(config *Config, like Request, object map[string]any, warnings io.Writer) (bool, error) {
	kind, _ := object["kind"].(string)
	if items, ok := object["items"].([]any); ok && strings.HasSuffix(kind, "List") {
		changed := false
		for _, item := range items {
			if m, ok := item.(map[string]any); ok {
				one, err := injectObject(config, like, m, warnings)
				if err != nil {
					return false, err
				}
				changed = changed || one
			}
		}
		return changed, nil
	}
	path, ok := templatePaths[kind]
	if !ok {
		return false, nil
	}
	template := object
	for _, step := range path {
		child, ok := template[step].(map[string]any)
		if !ok {
			return false, nil
		}
		template = child
	}
	return injectTemplate(config, like, object, template, warnings)
}

func injectTemplate(config *Config, like Request, object, template map[string]any, warnings io.Writer) (bool, error) {
	text, err := json.Marshal(template)
	if err != nil {
		return false, err
	}
	pod := &corev1.Pod{}
	if err := json.Unmarshal(text, pod); err != nil {
		return false, fmt.Errorf("read the pod template of %v: %w", object["kind"], err)
	}
	meta := metadataOf(object)
	if wanted, why := Wanted(config, pod, meta.Namespace); !wanted {
		fmt.Fprintf(warnings, "%v %q is not injected: %s\n", object["kind"], meta.Name, why)
		return false, nil
	}
	kind, _ := object["kind"].(string)
	version, _ := object["apiVersion"].(string)
	like.Pod, like.Namespace, like.Owner, like.OwnerType = pod, meta.Namespace, meta, metav1.TypeMeta{Kind: kind, APIVersion: version}
	injected, err := Pod(config, like)
	if err != nil {
		return false, fmt.Errorf("inject %s %s: %w", kind, meta.Name, err)
	}
	for _, warning := range Warnings(pod) {
		fmt.Fprintf(warnings, "%s %q: %s\n", kind, meta.Name, warning)
	}
	return true, replace(template, injected)
}

func metadataOf(object map[string]any) metav1.ObjectMeta {
	var meta metav1.ObjectMeta
	if text, err := json.Marshal(object["metadata"]); err == nil {
		_ = json.Unmarshal(text, &meta)
	}
	if meta.Namespace == "" {
		meta.Namespace = "default"
	}
	return meta
}

// replace puts the pod's metadata and spec in the template's place, without what Go adds to them.
func replace(template map[string]any, pod *corev1.Pod) error {
	text, err := json.Marshal(pod)
	if err != nil {
		return err
	}
	var m map[string]any
	if err := json.NewDecoder(bytes.NewReader(text)).Decode(&m); err != nil {
		return err
	}
	if metadata, ok := m["metadata"].(map[string]any); ok {
		delete(metadata, "creationTimestamp")
		template["metadata"] = metadata
	}
	template["spec"] = m["spec"]
	return nil
}
