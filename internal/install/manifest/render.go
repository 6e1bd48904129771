package manifest

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"

	"github.com/slipway-mesh/slipway/api/v1alpha1"
	"github.com/slipway-mesh/slipway/charts"
)

// Options is what Render needs beside the user's layers.
type Options struct {
	Hub, Tag string // the build's own images
	Version  string // of the build, put on objects as operator.istio.io/version
	// Owner and OwnerNamespace name the IstioOperator resource; empty for the CLI without one.
	Owner, OwnerNamespace string
	// Namespace is where the control plane goes if no layer says; empty is istio-system.
	Namespace string
	// Profiles are profiles beside the built-in ones, by name.
	Profiles map[string][]byte
}

// Manifests is what an IstioOperator means.
type Manifests struct {
	Merged
	Typed      *v1alpha1.IstioOperatorSpec
	Components []Component
}

// Component is one component's objects, in the order in which they are to be applied.
type Component struct {
	// Name is Base, Pilot, IngressGateways or EgressGateways. Several gateways have the same name.
	Name string
	// Instance is the name of the workload, such as istiod-canary.
	Instance  string
	Namespace string
	Objects   []Object
}

// Objects returns the objects of all components.
func (m *Manifests) Objects() []Object {
	var all []Object
	for _, c := range m.Components {
		all = append(all, c.Objects...)
	}
	return all
}

// Resolve merges the user's layers over their profile: default, the profile, the build's hub and tag, then the layers.
func Resolve(options Options, layers ...Layer) (Merged, error) {
	var profile, packagePath string
	for _, layer := range layers {
		if name, ok := layer.Spec["profile"].(string); ok && name != "" {
			profile = name
		}
		if path, ok := layer.Spec["installPackagePath"].(string); ok && path != "" {
			packagePath = path
		}
	}
	var dir fs.FS
	if packagePath != "" {
		dir = os.DirFS(filepath.Join(packagePath, "profiles"))
	}
	all, err := profileLayers(options.Profiles, dir, profile)
	if err != nil {
		return Merged{}, err
	}
	build := Layer{Name: "build", Spec: map[string]any{"hub": options.Hub, "tag": options.Tag}}
	if options.Namespace != "" {
		build.Spec["namespace"] = options.Namespace
	}
	return Merge(append(append(all, build), withNamespace(layers)...)...)
}

// withNamespace reads values.global.istioNamespace as the namespace where no layer says one: so it was written before
// there was spec.namespace.
func withNamespace(layers []Layer) []Layer {
	var old Layer
	for _, layer := range layers {
		if _, said := layer.Spec["namespace"]; said {
			return layers
		}
		if namespace, ok := lookup(layer.Spec, "values.global.istioNamespace").(string); ok {
			old = Layer{Name: layer.Name, Spec: map[string]any{"namespace": namespace}}
		}
	}
	if old.Spec == nil {
		return layers
	}
	return append(append([]Layer{}, layers...), old)
}

// Render turns the user's layers into objects. Errors of the type *Error name the field that is wrong.
func Render(options Options, layers ...Layer) (*Manifests, error) {
	merged, err := Resolve(options, layers...)
	if err != nil {
		return nil, err
	}
	typed, err := decode(merged.Spec)
	if err != nil {
		return nil, err
	}
	if err := v1alpha1.Validate(typed); err != nil {
		return nil, err
	}
	components, err := componentsOf(typed, specNamespace(typed))
	if err != nil {
		return nil, err
	}
	out := &Manifests{Merged: merged, Typed: typed}
	for _, c := range components {
		if !c.enabled {
			continue
		}
		objects, err := renderComponent(options, merged.Spec, typed, c)
		if err != nil {
			return nil, err
		}
		out.Components = append(out.Components, Component{Name: c.name, Instance: c.instance, Namespace: c.namespace, Objects: objects})
	}
	return out, nil
}

func renderComponent(options Options, merged map[string]any, spec *v1alpha1.IstioOperatorSpec, c component) ([]Object, error) {
	values, err := helmValues(merged, spec, c)
	if err != nil {
		return nil, err
	}
	if lookup(values, "global.hub") == nil {
		set(values, "global.hub", options.Hub)
	}
	objects, err := renderChart(spec.InstallPackagePath, c.chart, c.namespace, values)
	if err != nil {
		return nil, &Error{Path: c.path, Err: err}
	}
	if err := applySettings(objects, c); err != nil {
		return nil, err
	}
	if err := applyOverlays(objects, c); err != nil {
		return nil, err
	}
	stamp(objects, options, spec, c)
	sortObjects(objects)
	return objects, nil
}

// renderChart renders the component's chart and reads its objects. Files under the chart's files/crds are objects
// as they are.
func renderChart(packagePath, name, namespace string, values map[string]any) ([]Object, error) {
	loaded, err := loadChart(packagePath, name)
	if err != nil {
		return nil, err
	}
	release := chartutil.ReleaseOptions{Name: "istio", Namespace: namespace, IsInstall: true, Revision: 1}
	input, err := chartutil.ToRenderValues(loaded, values, release, chartutil.DefaultCapabilities)
	if err != nil {
		return nil, fmt.Errorf("chart %s: %w", name, err)
	}
	files, err := engine.Render(loaded, input)
	if err != nil {
		return nil, fmt.Errorf("chart %s: %w", name, err)
	}
	return parseFiles(loaded, files)
}

// parseFiles reads the CRDs of a chart and its rendered files, in the order of their names.
func parseFiles(loaded *chart.Chart, files map[string]string) ([]Object, error) {
	names := make([]string, 0, len(files))
	for name := range files {
		if !strings.HasSuffix(name, "NOTES.txt") && !strings.HasPrefix(filepath.Base(name), "_") {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	var objects []Object
	for _, crd := range loaded.CRDObjects() {
		parsed, err := Parse(crd.Filename, string(crd.File.Data))
		if err != nil {
			return nil, err
		}
		objects = append(objects, parsed...)
	}
	for _, name := range names {
		parsed, err := Parse(name, files[name])
		if err != nil {
			return nil, err
		}
		objects = append(objects, parsed...)
	}
	return objects, nil
}

// builtIn reads a built-in chart once: reading takes longer than rendering, and rendering does not change a chart.
var builtIn = sync.OnceValues(func() (map[string]*chart.Chart, error) {
	all := map[string]*chart.Chart{}
	for _, name := range []string{"gateway", kindBase.chart, kindPilot.chart, kindIngress.chart, kindEgress.chart, operatorChart} {
		loaded, err := readChart(name)
		if err != nil {
			return nil, err
		}
		for _, dependency := range loaded.Metadata.Dependencies { // libraries beside it, named file://../NAME
			loaded.AddDependency(all[dependency.Name])
		}
		all[name] = loaded
	}
	return all, nil
})

func loadChart(packagePath, name string) (*chart.Chart, error) {
	if packagePath != "" {
		return loadLocal(filepath.Join(packagePath, "charts"), name)
	}
	all, err := builtIn()
	return all[name], err
}

// loadLocal reads a chart from a folder of charts, with the libraries that it names beside it.
func loadLocal(dir, name string) (*chart.Chart, error) {
	loaded, err := loader.LoadDir(filepath.Join(dir, name))
	if err != nil {
		return nil, fmt.Errorf("load chart %s: %w", name, err)
	}
	for _, dependency := range loaded.Metadata.Dependencies {
		library, err := loader.LoadDir(filepath.Join(dir, dependency.Name))
		if err != nil {
			return nil, fmt.Errorf("load chart %s, which %s needs: %w", dependency.Name, name, err)
		}
		loaded.AddDependency(library)
	}
	return loaded, nil
}

func readChart(name string) (*chart.Chart, error) {
	var files []*loader.BufferedFile
	err := fs.WalkDir(charts.Files, name, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(charts.Files, path)
		files = append(files, &loader.BufferedFile{Name: strings.TrimPrefix(path, name+"/"), Data: data})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read chart %s: %w", name, err)
	}
	loaded, err := loader.LoadFiles(files)
	if err != nil {
		return nil, fmt.Errorf("load chart %s: %w", name, err)
	}
	return loaded, nil
}
